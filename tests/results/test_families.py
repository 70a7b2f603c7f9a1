"""Accuracy against latency: what stands on the frontier, and the menu of networks with a live kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import pandas as pd
import pytest
from matplotlib.figure import Figure

from snp_lib import chooser, experiments, plots, tables, variants
from snp_lib.models import create_model
from snp_lib.store import Run


def reached(run: Run, name: str, *accuracies: float) -> list[Run]:
    """The same run under another name, once for each of these test accuracies."""
    manifest = run.manifest
    return [
        replace(
            run,
            experiment=replace(run.experiment, name=name, seed=seed),
            manifest=manifest | {"metrics": manifest["metrics"] | {"test_accuracy": accuracy}},
        )
        for seed, accuracy in enumerate(accuracies)
    ]


@pytest.fixture
def families(smoke_run: Run) -> dict[str, list[Run]]:
    return {
        "all": reached(smoke_run, "all", 0.80, 0.82),
        "slow": reached(smoke_run, "slow", 0.79, 0.80),
        "good": reached(smoke_run, "good", 0.85),
        "fast": reached(smoke_run, "fast", 0.70),
    }


def times(**ratios: float) -> pd.DataFrame:
    rows = []
    for batch in (1, 128):
        for name, alone in ratios.items():
            ratio = alone * batch**0.1
            row = {"network": name, "batch": batch, "ratio": ratio, "ratio_low": ratio - 0.1, "ratio_high": ratio + 0.1}
            rows.append(row | {"macs": 1_000_000, "parameters": 1000})
    return pd.DataFrame(rows)


def test_the_frontier_holds_what_nothing_beats_in_both(families: dict[str, list[Run]]) -> None:
    table = tables.frontier(families, times(all=1.0, slow=1.1, good=1.2, fast=0.5))
    assert table[table.on_frontier].groupby("batch").network.apply(set).to_dict() == {
        1: {"all", "good", "fast"},
        128: {"all", "good", "fast"},
    }
    row = table[(table.network == "all") & (table.batch == 128)].iloc[0]
    assert (row.accuracy, row.n) == (pytest.approx(0.81), 2)
    assert row.sd == pytest.approx(0.02 / 2**0.5)
    level = tables.frontier({"a": families["good"], "b": families["good"]}, times(a=1.0, b=0.9))
    assert level[level.on_frontier].network.unique().tolist() == ["b"]  # as good and faster beats
    figure = plots.frontier(table, colors=plots.distinct(list(families)))
    assert len(figure.axes) == 2


def test_the_menu_names_the_frontier_first_and_how_to_build_each(families: dict[str, list[Run]]) -> None:
    table = tables.frontier(families, times(all=1.0, slow=1.1, good=1.2, fast=0.5))
    box = chooser.choose(families, table)
    menu, stack = box.children
    assert menu.options == ("fast", "all", "good", "slow (beaten)")
    assert isinstance(stack, widgets.Stack)
    page = stack.children[1].value
    assert "81.0 ± 1.4 % (n = 2), 1.0 million multiply-accumulates, 1,000 parameters" in page
    assert "batch 1: 1.00 of the time of all encoders (0.90 to 1.10)" in page
    assert "snp train all --scale smoke --seeds 0,1,2" in page
    code = page.partition("<pre>")[2].partition("</pre>")[0].replace("&quot;", '"').replace("&#x27;", "'")
    model: Any = eval(code, {"create_model": create_model})
    assert sum(p.numel() for p in model.parameters()) == families["all"][0].metrics["parameters"]
    with pytest.raises(ValueError, match="no row for 'slow'"):
        chooser.choose(families, table[table.network != "slow"])


def test_names_have_colours_of_their_own() -> None:
    for count in (1, 5, 10, 13):
        names = [str(i) for i in range(count)]
        colors = plots.distinct(names)
        assert list(colors) == names
        assert len(set(colors.values())) == count


@pytest.mark.parametrize("scale", experiments.SCALES)
def test_the_networks_with_convolutions_first_are_in_the_catalogue(scale: Any) -> None:
    fronts, shortcuts, counts = (
        experiments.convolutions_first(),
        experiments.convolutions_first(shortcut=True),
        (1, *variants.DEEPER[scale]),
    )
    known = {name for name, entry in experiments.CATALOGUE.items() if name.startswith("cct-k") and scale in entry.cost}
    assert {*fronts, *fronts.values(), *shortcuts, *(f"cct-k{k}{front}" for k in counts for front in ("", "-full1"))} == known
    assert set(shortcuts.values()) == set(fronts)
    for front, control in (fronts | shortcuts).items():
        options, without = (experiments.get(name, scale, 0).model_options for name in (front, control))
        assert set(options.items()) - set(without.items()) <= {(key, options[key]) for key in options if key.startswith("front")}
        assert without == {key: value for key, value in options.items() if key in without} != options


def test_mean_and_standard_deviation_in_words() -> None:
    assert tables.mean_sd(pd.Series([1.0, 2.0, 3.0])) == "2.00 ± 1.00"
    assert tables.mean_sd(pd.Series([1.004])) == "1.00"


def test_depth_and_lines(smoke_run: Run) -> None:
    assert tables.depth_of(smoke_run) == 3
    table = tables.side_by_side({"a": [smoke_run], "b": [smoke_run]}, tables.training_history, "network")
    figure = plots.lines(table, "epoch", {"train_loss": "loss"}, by="network", colors={"a": "red", "b": "blue"}, xlabel="epoch")
    assert isinstance(figure, Figure)
    assert [line.get_label() for line in figure.axes[0].lines] == ["a", "b"]
