"""Accuracy against latency: what stands on the frontier, and the menu of networks with a live kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import pandas as pd
import pytest

from snp_lib import experiments
from snp_lib.experiments.paper_b import DEEPER
from snp_lib.interactive.chooser import choose
from snp_lib.models import create_model
from snp_lib.performance import summarize
from snp_lib.results import families as families_of, measure
from snp_lib.results.families import accuracy_and_latency, mean_sd
from snp_lib.results.sites import site_statistics, snr_rise
from snp_lib.results.stages import Stage, statistics_at_stages
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


def test_mean_and_standard_deviation_in_words() -> None:
    assert mean_sd(pd.Series([1.0, 2.0, 3.0])) == "2.00 ± 1.00"
    assert mean_sd(pd.Series([1.004])) == "1.00"


def test_summaries_are_those_of_the_catalogue() -> None:
    first, second = families_of.summaries(["cct", "cct-k1"]).splitlines()
    assert first == f"cct                {experiments.CATALOGUE['cct'].summary}"
    assert second.startswith("cct-k1 ")


def test_networks_come_by_name_and_by_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run_all(chosen: list[Any], **options: Any) -> list[Any]:
        asked.append(([one.id for one in chosen], options))
        return []

    monkeypatch.setattr(families_of, "run_all", run_all)
    assert families_of.networks(["vit"], "smoke", "0,2", device="cpu") == {"vit": []}
    assert families_of.networks_with_heads([2, 4], "smoke", [1], measured=["heads"]) == {2: [], 4: []}
    assert families_of.networks_with_heads([2], "smoke", [1], wide=True) == {2: []}
    assert asked == [
        (["vit-smoke-s0", "vit-smoke-s2"], {"device": "cpu"}),
        (["cct-h2-smoke-s1"], {"measured": ["heads"]}),
        (["cct-smoke-s1"], {"measured": ["heads"]}),
        (["cct-h2-wide-smoke-s1"], {}),
    ]


def test_heads_of_the_last_encoder_one_by_one(smoke_run: Run) -> None:
    by_heads = {4: [smoke_run]}
    summary = summarize(smoke_run.matrices("block3.mha", unit="head"), 0.4)
    first = summarize(smoke_run.matrices("block1.mha", unit="head"), 0.4)
    table = families_of.side_by_side(by_heads, families_of.head_statistics, "heads", thetas=[0.4])
    control = families_of.side_by_side(by_heads, families_of.head_statistics, "heads", thetas=[0.4], deals=3)
    both = families_of.own_and_dealt(table, control, 3)
    assert both.index.tolist() == [(4, "dealt"), (4, "own")]
    assert both.loc[(4, "own"), "snr"] == pytest.approx(summary.snr)
    assert both.loc[(4, "dealt"), "sd of snr"] == pytest.approx(control[control.block == 3].snr.std())
    sizes = families_of.head_sizes({"four": smoke_run}, theta=0.4)
    assert sorted(sizes["labels in a cluster"]["four"]) == sorted(len(cluster) for unit in summary.clusters for cluster in unit)
    assert sizes["heads that recognise a label"]["four"].tolist() == summary.diagonal.sum(axis=0).tolist()
    (row,) = families_of.heads_compared({"four heads": [smoke_run]}, theta=0.4).to_dict("records")
    assert row["test accuracy (%)"] == pytest.approx(100 * smoke_run.metrics["test_accuracy"])
    assert row["labels"] == pytest.approx(summary.labels_per_unit())
    assert row["share"] == pytest.approx(summary.signal / 4)
    assert row["noise_share"] == pytest.approx(summary.noise_per_unit() / 90)
    assert row["rise of SNR"] == pytest.approx(summary.snr / first.snr)
    assert families_of.heads_in_words(by_heads) == "3 encoders of width 48, 10 labels; heads: nodes each {4: 12}"
    assert list(families_of.named_by_width(by_heads, {2: [smoke_run]})) == ["4 heads of 12 nodes", "2 heads of 24 nodes"]


def test_heads_at_the_end_against_their_state_before_training(smoke_run: Run) -> None:
    measure([smoke_run], "heads", device="cpu", progress=False)
    (row,) = families_of.heads_at_the_end({4: [smoke_run]}, theta=0.4, deals=2).to_dict("records")
    before = statistics_at_stages([smoke_run], thetas=[0.4], epochs=[0], unit="head").set_index("block").snr
    assert row["rise untrained"] == pytest.approx(before[3] / before[1])
    dealt = families_of.head_statistics([smoke_run], thetas=[0.4], deals=2)
    assert row["snr of dealt nodes"] == pytest.approx(dealt[dealt.block == 3].snr.mean())
    assert row["heads per label"] == pytest.approx(4 * row["share"])


def test_the_fastest_that_is_as_good_and_what_is_gained(families: dict[str, list[Run]]) -> None:
    chosen = {name: families[name] for name in ("all", "slow")}  # 80, 82 and 79, 80 %
    accuracy = families_of.accuracy_by_seed(chosen)
    assert accuracy.to_dict() == {"all": {0: 0.80, 1: 0.82}, "slow": {0: 0.79, 1: 0.80}}
    ratios = times(all=1.0, slow=0.5)
    largest = 0.5 * 128**0.1
    whole = 1.0 * 128**0.1
    assert families_of.fastest_as_good(accuracy, ratios, ["slow"], reference="all", slack=0.015) == pytest.approx([largest, whole])
    assert families_of.mean_gain(accuracy, {"slow": "all", "all": "slow"}) == pytest.approx([0, 0])
    assert families_of.mean_gain(accuracy, {"slow": "all"}) == pytest.approx([-0.01, -0.02])
    words = families_of.gains_in_words(accuracy, {"slow": {"minus all": "all"}})
    assert words.loc["slow"].to_dict() == {"accuracy (%)": "79.50 ± 0.71", "minus all": "-1.50 ± 0.71"}
    shown = families_of.ratios_in_words(chosen, {"eager": ratios, "compiled": ratios.assign(macs=0)})
    assert shown.index.tolist() == [("all", "81.00 ± 1.41", 1.0), ("slow", "79.50 ± 0.71", 1.0)]
    assert shown[("compiled", 1)].tolist() == [1.0, 0.5]


def test_encoders_are_aligned_at_the_end(smoke_run: Run) -> None:
    sites = {site: width for site, width in smoke_run.sites.items() if not site.startswith("block3")}
    shorter = replace(smoke_run, manifest=smoke_run.manifest | {"sites": sites})
    vars(shorter)["arrays"] = smoke_run.arrays  # more than this manifest promises
    table = families_of.by_place({"all": [smoke_run], "cut": [shorter]}, kinds=("mha",), theta=0.4)
    assert table[table.network == "all"].place.tolist() == [1, 2, 3]
    assert table[table.network == "cut"].place.tolist() == [2, 3]
    own = summarize(smoke_run.matrices("block1.mha"), 0.4).snr
    assert table.set_index(["network", "place"]).mha[("cut", 2)] == pytest.approx(own)


def test_what_networks_are_and_learned(smoke_run: Run) -> None:
    shown = families_of.overview({"one": [smoke_run], "two": reached(smoke_run, "two", 0.5, 0.6)})
    assert shown.loc["test accuracy (%)", "two"] == "55.0 ± 7.1 (n = 2)"
    assert shown.loc["parameters", "one"] == f"{smoke_run.metrics['parameters']:,}"
    learned = families_of.learned_and_sharpened({"one": [smoke_run]}, kinds=("ff",), theta=0.4)
    assert learned.columns.tolist() == ["test (%)", "training (%), epoch 1", "training (%), epoch 2", "rise of SNR, ff"]
    assert learned["training (%), epoch 2"].item() == pytest.approx(100 * smoke_run.history[-1]["train_accuracy"])
    table = site_statistics([smoke_run], kinds=("ff", "mha"), thetas=[0.4])
    assert families_of.largest_cluster(table, [smoke_run]) == pytest.approx([table.cluster_size.max() / 10])


def test_before_and_after_training(smoke_run: Run) -> None:
    measure([smoke_run], Stage(epoch=0), device="cpu", progress=False)
    ends = families_of.before_and_after({"one": [smoke_run]}, theta=0.4)
    assert sorted(ends["one"].epoch.unique()) == [0, 2]
    rises = {name: snr_rise(table) for name, table in ends.items()}
    shown = families_of.rises_compared(rises)
    assert shown.columns.tolist() == [("untrained", "mean"), ("untrained", "std"), ("trained", "mean"), ("trained", "std")]
    row = rises["one"][(rises["one"].kind == "ff") & (rises["one"].epoch == 2)]
    assert shown.loc[("one", "ff"), ("trained", "mean")] == row.rise.item()
