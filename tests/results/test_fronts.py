"""Networks with convolutions first: accuracy against latency, the menu of networks, and how early they learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import pandas as pd
import pytest
from shared import reached

from snp_lib import experiments
from snp_lib.experiments.paper_b import DEEPER
from snp_lib.interactive.chooser import choose
from snp_lib.models import create_model
from snp_lib.performance import summarize
from snp_lib.results import families as families_of, fronts as fronts_of
from snp_lib.results.fronts import accuracy_and_latency
from snp_lib.store import Run


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
    table = accuracy_and_latency(families, times(all=1.0, slow=1.1, good=1.2, fast=0.5))
    assert table[table.on_frontier].groupby("batch").network.apply(set).to_dict() == {
        1: {"all", "good", "fast"},
        128: {"all", "good", "fast"},
    }
    row = table[(table.network == "all") & (table.batch == 128)].iloc[0]
    assert (row.accuracy, row.n) == (pytest.approx(0.81), 2)
    assert row.sd == pytest.approx(0.02 / 2**0.5)
    level = accuracy_and_latency({"a": families["good"], "b": families["good"]}, times(a=1.0, b=0.9))
    assert level[level.on_frontier].network.unique().tolist() == ["b"]  # as good and faster beats


def test_the_menu_names_the_frontier_first_and_how_to_build_each(families: dict[str, list[Run]]) -> None:
    table = accuracy_and_latency(families, times(all=1.0, slow=1.1, good=1.2, fast=0.5))
    box = choose(families, table)
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
        choose(families, table[table.network != "slow"])


@pytest.mark.parametrize("scale", experiments.SCALES)
def test_the_networks_with_convolutions_first_are_in_the_catalogue(scale: Any) -> None:
    fronts, shortcuts, counts = (
        experiments.convolutions_first(),
        experiments.convolutions_first(shortcut=True),
        (1, *DEEPER[scale]),
    )
    known = {name for name, entry in experiments.CATALOGUE.items() if name.startswith("cct-k") and scale in entry.cost}
    assert {*fronts, *fronts.values(), *shortcuts, *(f"cct-k{k}{front}" for k in counts for front in ("", "-full1"))} == known
    assert set(shortcuts.values()) == set(fronts)
    for front, control in (fronts | shortcuts).items():
        options, without = (experiments.get(name, scale, 0).model_options for name in (front, control))
        assert set(options.items()) - set(without.items()) <= {(key, options[key]) for key in options if key.startswith("front")}
        assert without == {key: value for key, value in options.items() if key in without} != options


def test_the_fastest_that_is_as_good_and_what_is_gained(families: dict[str, list[Run]]) -> None:
    chosen = {name: families[name] for name in ("all", "slow")}  # 80, 82 and 79, 80 %
    accuracy = families_of.accuracy_by_seed(chosen)
    assert accuracy.to_dict() == {"all": {0: 0.80, 1: 0.82}, "slow": {0: 0.79, 1: 0.80}}
    ratios = times(all=1.0, slow=0.5)
    largest = 0.5 * 128**0.1
    whole = 1.0 * 128**0.1
    assert fronts_of.fastest_as_good(accuracy, ratios, ["slow"], reference="all", slack=0.015) == pytest.approx([largest, whole])
    assert fronts_of.mean_gain(accuracy, {"slow": "all", "all": "slow"}) == pytest.approx([0, 0])
    assert fronts_of.mean_gain(accuracy, {"slow": "all"}) == pytest.approx([-0.01, -0.02])
    words = fronts_of.gains_in_words(accuracy, {"slow": {"minus all": "all"}})
    assert words.loc["slow"].to_dict() == {"accuracy (%)": "79.50 ± 0.71", "minus all": "-1.50 ± 0.71"}
    shown = fronts_of.ratios_in_words(chosen, {"eager": ratios, "compiled": ratios.assign(macs=0)})
    assert shown.index.tolist() == [("all", "81.00 ± 1.41", 1.0), ("slow", "79.50 ± 0.71", 1.0)]
    assert shown[("compiled", 1)].tolist() == [1.0, 0.5]


def test_encoders_are_aligned_at_the_end(smoke_run: Run) -> None:
    sites = {site: width for site, width in smoke_run.sites.items() if not site.startswith("block3")}
    shorter = replace(smoke_run, manifest=smoke_run.manifest | {"sites": sites})
    vars(shorter)["arrays"] = smoke_run.arrays  # more than this manifest promises
    table = fronts_of.by_place({"all": [smoke_run], "cut": [shorter]}, kinds=("mha",), theta=0.4)
    assert table[table.network == "all"].place.tolist() == [1, 2, 3]
    assert table[table.network == "cut"].place.tolist() == [2, 3]
    own = summarize(smoke_run.matrices("block1.mha"), 0.4).snr
    assert table.set_index(["network", "place"]).mha[("cut", 2)] == pytest.approx(own)


def test_readouts_stand_at_the_place_of_their_encoder_and_early_learning_reads_the_second(smoke_run: Run) -> None:
    sites = {site: width for site, width in smoke_run.sites.items() if not site.startswith("block3")}
    shorter = replace(smoke_run, manifest=smoke_run.manifest | {"sites": sites})
    networks = {"all": [smoke_run], "cut": [shorter]}
    table = fronts_of.readouts_by_place(networks).set_index(["network", "place"]).accuracy
    accuracy = smoke_run.metrics["readout_accuracy"]
    assert table["all"].to_dict() == {place: accuracy[f"block{place}.mha"] for place in (1, 2, 3)}
    assert table["cut"].to_dict() == {2: accuracy["block1.mha"], 3: accuracy["block2.mha"]}
    early = fronts_of.early_learning(networks).set_index("network")
    assert early.depth.to_dict() == {"all": accuracy["block2.mha"], "cut": accuracy["block1.mha"]}
    assert early.time.tolist() == [smoke_run.history[0]["train_accuracy"]] * 2


def test_what_stands_in_place_of_encoders_in_words() -> None:
    names = ("cct", "cct-k1", "cct-k1-full1", "cct-k1-narrow2-shortcut", "cct-k3-full1")
    assert list(experiments.in_place(names).values()) == [
        "all encoders",
        "nothing",
        "1 × full convolution",
        "2 × narrow convolution, residual",
        "1 × full convolution for 3 encoders",
    ]
