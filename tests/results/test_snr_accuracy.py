"""Tables that hold the SNR against the accuracy, against the runs that they gather."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from snp_lib import experiments
from snp_lib.experiments import Experiment
from snp_lib.performance import summarize
from snp_lib.performance.density import ones_at, snr_at_density
from snp_lib.performance.statistics import rank_correlation
from snp_lib.results import measure
from snp_lib.results.equal_density import HEADS, ones_for
from snp_lib.results.snr_accuracy import (
    TELLERS,
    accuracy_along_training,
    along_and_across,
    by_split,
    correlations_by_kind,
    correlations_by_seed,
    heads_and_accuracy,
    kinds_of_network,
    sites_of_networks,
    told_by_others,
    told_errors,
    worst_told,
)
from snp_lib.results.stages import Stage
from snp_lib.store import Run


def test_every_site_of_every_stage_that_was_measured_is_there(staged: Run) -> None:
    Stage(epoch=1).make(staged, device="cpu", progress=False)
    table = sites_of_networks({"one": [staged]})
    sizes = table.groupby("epoch").size()  # other tests may have measured other stages of this run
    assert {1, 2} <= set(sizes.index)
    assert set(sizes) == {len(staged.sites)}
    matrices = staged.matrices("block2.mha")
    row = table[(table.epoch == 2) & (table.block == 2) & (table.kind == "mha")].iloc[0]
    assert row.snr == pytest.approx(summarize(matrices, 0.3).snr)
    assert row.equal == pytest.approx(snr_at_density(matrices, ones_for(10)[1]))
    assert row.ones == pytest.approx(ones_at(matrices, 0.3).mean())
    assert row.accuracy == staged.metrics["readout_accuracy"]["block2.mha"]
    arrays = Stage(epoch=1).read(staged)
    early = table[(table.epoch == 1) & (table.block == 2) & (table.kind == "mha")].iloc[0]
    assert (early.snr, early.accuracy) == (arrays["statistics"][4, 1, -1], arrays["readout_accuracy"][4])
    assert np.isnan(early.equal)
    assert early.share == 0.5


def made_up() -> pd.DataFrame:
    """Three kinds of network; in the first two accuracy is a tenth of the SNR, in the third it is a constant."""
    rows = [{"network": network, "snr": float(snr), "accuracy": snr / 10} for network in ("a", "b") for snr in range(1, 9)]
    rows += [{"network": "c", "snr": float(snr), "accuracy": 0.1} for snr in range(1, 5)]
    table = pd.DataFrame(rows).assign(kind="ff", share=1.0, block=1, equal=np.nan, ones=1.0)
    return table.assign(block=table.snr.astype(int))


def test_accuracy_is_told_from_the_other_kinds_of_network() -> None:
    told = told_by_others(made_up())
    third = told[told.network == "c"]
    assert third.guess.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert third["mean"].tolist() == pytest.approx([0.45] * 4)
    errors = told_errors(told)
    assert errors.loc["c", ["sites", "guess", "mean", "ratio"]].tolist() == pytest.approx([4, 0.15, 0.35, 0.15 / 0.35])
    worst = worst_told(told, 1).reset_index()
    assert sorted(worst.network) == ["a", "b", "c"]
    for row in worst.itertuples():
        own = told[told.network == row.network]
        assert abs(row.guess - row.accuracy) == pytest.approx(max(abs(own.guess - own.accuracy)))
    misses = abs(worst.guess - worst.accuracy)
    assert misses.tolist() == sorted(misses, reverse=True)


def test_correlations_are_those_of_the_rows_that_have_something_in_common() -> None:
    table = made_up()
    found = correlations_by_kind(table)
    assert found.index.tolist() == ["all sites", "ends of trainings", "ff sites", "a", "b", "c"]
    half = correlations_by_kind(table.assign(share=np.where(table.network == "c", 0.5, 1.0)))
    assert half.loc["ends of trainings", ["sites", TELLERS["snr"]]].tolist() == pytest.approx([16, 1])
    assert found.loc["all sites", TELLERS["snr"]] == pytest.approx(rank_correlation(table.snr.to_numpy(), table.accuracy.to_numpy()))
    assert found.loc["a", TELLERS["snr"]] == pytest.approx(1)
    assert np.isnan(found.loc["a", TELLERS["equal"]])
    assert np.isnan(found.loc["c", TELLERS["snr"]])


def test_the_way_of_a_training_ends_at_the_run(staged: Run) -> None:
    measure([staged], "stages", device="cpu", progress=False)
    table = accuracy_along_training([staged], kind="mha").set_index("epoch")
    last = staged.sites_of("mha")[-1]
    assert table.snr[2] == pytest.approx(summarize(staged.matrices(last), 0.3).snr)
    assert table.percent[2] == pytest.approx(100 * staged.metrics["test_accuracy"])
    arrays = Stage(epoch=1).read(staged)
    assert table.percent[1] == pytest.approx(100 * arrays["accuracy"].item())
    assert table.snr[1] == arrays["statistics"][list(staged.sites).index(last), 1, -1]


def test_heads_are_those_of_the_last_encoder(staged: Run) -> None:
    seeds = [replace(staged, experiment=replace(staged.experiment, seed=seed)) for seed in (0, 1)]
    table = heads_and_accuracy({4: seeds, 8: seeds[:1]}, ones=7).set_index(["heads", "seed"])
    matrices = [staged.matrices(site, unit="head") for site in (staged.sites_of("mha")[0], staged.sites_of("mha")[-1])]
    first, last = (summarize(m, 0.3).snr for m in matrices)
    assert table.loc[(4, 1), ["snr", "equal", "rise"]].tolist() == pytest.approx([last, snr_at_density(matrices[1], 7), last / first])
    assert table.percent.tolist() == pytest.approx([100 * staged.metrics["test_accuracy"]] * 3)
    rows = pd.DataFrame({"seed": [0, 0, 0], "snr": [1.0, 2, 3], "percent": [3.0, 1, 2]})
    assert correlations_by_seed(rows, ["snr"]).loc[0, "snr"] == pytest.approx(-0.5)


def test_the_networks_of_a_chapter_at_smoke_are_those_of_its_scale(staged: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    def made(experiments: Iterable[Experiment], **options: Any) -> list[Run]:
        chosen = list(experiments)
        asked.extend((each.id, options.get("measured")) for each in chosen)
        return [replace(staged, experiment=each) for each in chosen]

    monkeypatch.setattr("snp_lib.results.snr_accuracy.run_all", made)
    monkeypatch.setattr("snp_lib.results.families.run_all", made)
    own = replace(staged, experiment=experiments.get("cct", "smoke", 0))
    networks, heads = kinds_of_network([own], "smoke", [0], device="cpu")
    assert list(networks) == ["CCT", "ViT", "ResNet"]
    ids = [run.experiment.id for run in networks["CCT"]]
    assert ids[0] == "cct-smoke-s0"
    assert sorted(ids) == sorted(run.experiment.id for runs in heads.values() for run in runs)
    assert ("cct-smoke-s0", ["stages"]) in asked
    larger = replace(staged, experiment=experiments.get("cct", "medium", 0))
    networks, _ = kinds_of_network([larger], "small", [0, 1], device="cpu")
    assert list(networks) == ["CCT", "ViT", "ResNet", "CCT, Flowers-102", "CCT, medium"]
    assert networks["CCT, medium"] == [larger]


def test_two_ways_to_look_at_accuracy_share_their_columns() -> None:
    along = pd.DataFrame({"seed": 0, "epoch": [0, 1, 2], "snr": [1.0, 2, 3], "percent": [1.0, 10, 20]})
    heads = pd.DataFrame({"seed": 0, "heads": [2, 4], "snr": [9.0, 5], "percent": [40.0, 50], "rise": 1.0})
    both = along_and_across(along, heads)
    assert both.name.tolist() == ["0", "1", "2", "2", "4"]
    assert both.snr.tolist() == [1, 2, 3, 9, 5]
    assert both.groupby("way", sort=False).percent.apply(list).tolist() == [[1, 10, 20], [40, 50]]


def test_training_images_stand_beside_test_images(staged: Run) -> None:
    table = by_split({"one": [staged]}, kinds=("ff", "attention", HEADS)).set_index(["kind", "images"])
    assert set(table.index) == {(kind, images) for kind in ("ff", HEADS) for images in ("test", "training")}
    sites = staged.sites_of("ff")
    first, last = (summarize(staged.matrices(site, split="train"), 0.3).snr for site in (sites[0], sites[-1]))
    assert table.loc[("ff", "training"), ["first", "last", "rise"]].tolist() == pytest.approx([first, last, last / first])
    head = summarize(staged.matrices(staged.sites_of("mha")[-1], unit="head"), 0.3).snr
    assert table.loc[(HEADS, "test"), "last"] == pytest.approx(head)
