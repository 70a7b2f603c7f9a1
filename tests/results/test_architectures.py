"""Beyond VGG-11: costs of the pruned layers, networks made smaller, two methods on one axis, and runs that may not be there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from shared import shortened_vgg

from snp_lib import experiments, store
from snp_lib.latency import count_macs
from snp_lib.performance import summarize
from snp_lib.pruning import compact
from snp_lib.results import afcc, architectures, measure
from snp_lib.results.latency import FORMS, FilterLatency, latency_of, pruned_latency
from snp_lib.store import Run


@pytest.fixture
def run(vgg_run: Run, filters_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SNP_RUNS_DIR", str(filters_folder))
    return vgg_run


def test_the_pruned_layers_of_the_paper_hold_most_parameters_and_a_third_of_the_work() -> None:
    table = architectures.layer_costs("vgg11").set_index("layer")
    assert table.parameters["whole network"] == 7_845_440
    assert table.parameters["all of them"] == 1_179_648 + 2 * 2_359_296 + 204_800
    assert table["parameter share"]["all of them"] == pytest.approx(0.78, abs=0.005)
    assert table["mac share"]["all of them"] == pytest.approx(0.33, abs=0.005)


def test_smaller_networks_are_counted_as_they_are(run: Run) -> None:
    dense = run.network(0)
    table = architectures.made_smaller([run], (0.3, 0.9))
    small = compact(dense, afcc.connected_by_clusters(run, 0.9, dense))[0]
    row = table[table.theta == 0.9].iloc[0]
    assert row.macs == count_macs(small) / count_macs(dense)
    assert row.filters == sum(dense.sites.values()) - sum(small.sites.values())
    assert table.macs.is_monotonic_decreasing


def test_time_is_measured_at_the_thresholds_of_afcc(run: Run) -> None:
    (timing,) = latency_of(run)
    assert isinstance(timing, FilterLatency)
    timing.make(run, device="cpu", progress=False)
    table = pruned_latency([run], device="cpu")
    assert set(table.form) == {*FORMS, "dense"}
    assert sorted(table.theta.dropna().unique()) == list(afcc.THETAS["smoke"])
    assert (table.ratio > 0).all()


def test_relative_accuracy_is_that_of_each_seeds_intact_network() -> None:
    rows = [(0, "afcc", 0.3, 0.5, 0.4), (1, "afcc", 0.3, 0.7, 0.3), (0, "dense", None, 1.0, 0.8), (1, "dense", None, 1.0, 0.6)]
    table = pd.DataFrame(rows, columns=["seed", "arm", "theta", "density", "after"])
    found = architectures.relative_accuracy({"one": table})
    assert found.relative.tolist() == [0.5, 0.5]
    assert found.density.tolist() == pytest.approx([0.6, 0.6])  # the mean over seeds: one point on the axis


def test_an_efficientnet_is_read_by_kind_and_what_is_not_there_is_left_out(filters_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(filters_folder))
    assert architectures.there("efficientnet-b0", "smoke", [0]) == []
    base = experiments.get("efficientnet-b0", "smoke", 0)
    short = replace(base, recipe=replace(base.recipe, epochs=1, eval_every=1), readout=replace(base.readout, epochs=1))
    run = store.run(short, device="cpu", progress=False)
    table = architectures.kinds_of_filters([run])
    assert set(table.kind) == {"expansion", "depthwise", "block"}
    assert len(table) == len(run.sites)
    row = table[(table.kind == "expansion") & (table.block == 2)].iloc[0]
    assert row.snr == summarize(run.matrices("block2.expansion"), 0.3).snr
    assert len(architectures.rise_of_expansions([run])) == 1


def test_linear_layers_of_a_vgg16_are_pruned_alone(filters_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(filters_folder))
    short = shortened_vgg(name="vgg16")
    run = store.run(replace(short, recipe=replace(short.recipe, epochs=1, eval_every=1)), device="cpu", progress=False)
    measure([run], "filters", device="cpu", progress=False)
    measurements = architectures.linear_layers(run)
    assert [(each.arm, each.only) for each in measurements[::2]] == [("afcc", 14), ("afcc", 15), ("afcc", 16)]
    measure([run], *measurements, device="cpu", progress=False)
    (spared,) = architectures.spared_by_linear_layers([run], 0.3)
    assert -1 <= spared <= 1
