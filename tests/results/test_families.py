"""Several experiments side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from shared import reached

from snp_lib import experiments
from snp_lib.performance import summarize
from snp_lib.results import families as families_of, fronts as fronts_of, measure
from snp_lib.results.families import mean_sd
from snp_lib.results.sites import site_statistics, snr_rise
from snp_lib.results.stages import Stage, statistics_at_stages
from snp_lib.store import Run


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


def test_what_networks_are_and_learned(smoke_run: Run) -> None:
    shown = families_of.overview({"one": [smoke_run], "two": reached(smoke_run, "two", 0.5, 0.6)})
    assert shown.loc["test accuracy (%)", "two"] == "55.0 ± 7.1 (n = 2)"
    assert shown.loc["parameters", "one"] == f"{smoke_run.metrics['parameters']:,}"
    learned = fronts_of.learned_and_sharpened({"one": [smoke_run]}, kinds=("ff",), theta=0.4)
    assert learned.columns.tolist() == ["test (%)", "training (%), first epoch", "last epoch", "rise of SNR, ff"]
    assert learned["last epoch"].item() == pytest.approx(100 * smoke_run.history[-1]["train_accuracy"])
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


def test_a_range_is_what_lies_beyond_that_of_equal_networks() -> None:
    """A thousand draws of equal networks: nothing is left on average; a network apart is."""
    rng = np.random.default_rng(0)
    equal = [families_of.range_beyond_noise(pd.DataFrame(rng.normal(0.5, 0.01, (3, 4)))) for _ in range(1000)]
    assert abs(np.mean(equal)) < 4 * np.std([np.mean(each) for each in equal]) / 1000**0.5 + 0.0006
    apart = pd.DataFrame(rng.normal(0.5, 0.001, (3, 4)) + np.array([0, 0, 0, 0.1]))
    assert families_of.range_beyond_noise(apart) == pytest.approx([0.1] * 3, abs=0.005)
    table = pd.DataFrame([[0.5, 0.6, 0.58], [0.52, 0.6, 0.6]])
    noise = 0.0
    for seed in range(2):
        for network in range(3):
            expected = table.loc[seed].mean() + table[network].mean() - table.to_numpy().mean()
            noise += (table.loc[seed, network] - expected) ** 2 / 2  # (2 − 1) (3 − 1) degrees of freedom
    assert families_of.range_beyond_noise(table) == pytest.approx([r - 1.692569 * noise**0.5 for r in (0.1, 0.08)], abs=1e-6)
    assert families_of.range_beyond_noise(table[:1]) == pytest.approx([0.1])
