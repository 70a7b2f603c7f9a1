"""Stages of a training, measured with the weights that a run keeps, against the run itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shared import shortened

from snp_lib import data, store
from snp_lib.machine import runs_dir
from snp_lib.performance import group_units, summarize, unit_matrices
from snp_lib.performance.readout import MeanReadout
from snp_lib.results.stages import STATISTICS, THETAS, SilencedNodes, Stage, diagonal_sets_at, stages
from snp_lib.store import Run, derived, make
from snp_lib.store.derived import Arrays


def stage(run: Run, epoch: int, **options: object) -> Arrays:
    return Stage(epoch=epoch, **options).make(run, device="cpu", progress=False)  # type: ignore[arg-type]


@pytest.fixture
def own_records(staged_run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(staged_run.path.parent))
    monkeypatch.setenv("SNP_RECORDS_DIR", str(tmp_path / "records"))


def test_the_last_stage_is_the_run_itself(staged_run: Run, own_records: None) -> None:
    assert stages(staged_run) == [0, 1, 2]
    last = stage(staged_run, 2)
    assert last["accuracy"][0] == staged_run.metrics["test_accuracy"]
    sites = list(staged_run.sites)
    assert dict(zip(sites, last["readout_accuracy"], strict=True)) == staged_run.metrics["readout_accuracy"]
    for t, theta in enumerate(THETAS):
        for s, site in enumerate(sites):
            summary = summarize(staged_run.matrices(site), theta)  # kept in half precision, so that a few elements flip
            found = dict(zip(STATISTICS, last["statistics"][s, t], strict=True))
            assert found["labels"] == pytest.approx(summary.labels_per_unit(), abs=0.1)
            if site.endswith(".mha"):
                sets = diagonal_sets_at(last, site, theta, labels=10)
                assert sets.shape == summary.diagonal.shape
                assert (sets != summary.diagonal).sum() <= 2
    with pytest.raises(ValueError, match=r"stages are kept for θ = 0.2, .*, not 0.35"):
        diagonal_sets_at(last, "block1.mha", 0.35, labels=10)


def test_a_run_without_snapshots_has_two_stages(staged_run: Run) -> None:
    experiment = replace(staged_run.experiment, snapshots=None)
    assert stages(replace(staged_run, experiment=experiment)) == [0, 2]


def test_stages_through_other_readouts_are_measured_by_the_same_rules(staged_run: Run, own_records: None) -> None:
    run, digits = staged_run, data.load("digits", size=16)
    own = stage(run, 2)
    for pooling in ("mean", "flat"):
        found = stage(run, 2, pooling=pooling)
        recipe = replace(run.experiment.readout, pooling=pooling)
        readouts, measured = make.read_out(run.network(), run.experiment, digits, ("test",), recipe)
        s, site = 4, "block2.mha"
        features = (measured["test"].class_means[site], readouts[site].linear.weight.detach())
        means, weight = (group_units(x, run.sites[site]) for x in features)
        summary = summarize(unit_matrices(means, weight).numpy(), 0.4)
        assert dict(zip(STATISTICS, found["statistics"][s, 2], strict=True))["snr"] == pytest.approx(summary.snr)
        assert np.array_equal(diagonal_sets_at(found, site, 0.4, labels=10), summary.diagonal)
        assert found["accuracy"][0] == own["accuracy"][0]
        assert not np.array_equal(found["readout_accuracy"], own["readout_accuracy"])
    assert {path.stem for path in derived.folder(run, "runs").glob("*.npz")} >= {"stage-002", "stage-002-mean", "stage-002-flat"}


def test_heads_are_measured_at_a_stage_as_they_are_in_the_run(staged_run: Run, own_records: None) -> None:
    last = stage(staged_run, 2, unit="head")
    sites = [site for site in staged_run.sites if site.endswith(".mha")]
    assert last["statistics"].shape == (len(sites), len(THETAS), len(STATISTICS))
    for s, site in enumerate(sites):
        assert last["readout_accuracy"][s] == staged_run.metrics["readout_accuracy"][site]  # read alone, as with all others
        summary = summarize(staged_run.matrices(site, unit="head"), 0.3)
        assert dict(zip(STATISTICS, last["statistics"][s, 1], strict=True))["labels"] == pytest.approx(summary.labels_per_unit(), abs=0.3)
        assert (diagonal_sets_at(last, site, 0.3, labels=10) != summary.diagonal).sum() <= 1
    assert (derived.folder(staged_run, "runs") / "stage-002-heads.npz").exists()


def test_a_run_that_reads_heads_alone_keeps_these_sites(own_folders: Path) -> None:
    some = shortened("heads-alone")
    run = store.run(replace(some, readout=replace(some.readout, kinds=("mha",))), device="cpu")
    assert list(run.sites) == ["block1.mha", "block2.mha", "block3.mha"] == list(run.metrics["readout_accuracy"])
    assert set(run.arrays) == {"logits", "labels"} | {
        f"{kind}/{site}" for kind in ("weight", "means_train", "means_test") for site in run.sites
    }
    assert stage(run, 0)["statistics"].shape[0] == 3


def test_silencing_before_the_pooling_stands_beside_silencing_after_it(staged_run: Run, own_records: None) -> None:
    found = SilencedNodes().make(staged_run, device="cpu", progress=False)
    own = stage(staged_run, 2)
    np.testing.assert_allclose(found["after"], own["statistics"])
    assert np.array_equal(found["readout_accuracy"], own["readout_accuracy"])
    assert found["statistics"].shape == own["statistics"].shape
    assert not np.array_equal(found["statistics"], found["after"])
    assert (found["jaccard"] > found["chance"]).all()
    assert (found["jaccard"] < 1).any()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "readouts", lambda run: {"block1.mha": MeanReadout(48, 10)})
        with pytest.raises(ValueError, match=r"needs sequence pooling; .* has MeanReadout"):
            SilencedNodes().make(staged_run, refresh=True, device="cpu", progress=False)


def test_stages_differ_and_are_kept(staged_run: Run, own_records: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stage(staged_run, 0)
    assert first["accuracy"][0] < 0.25  # chance is 0.1
    assert first["statistics"].shape == (len(staged_run.sites), len(THETAS), len(STATISTICS))
    monkeypatch.setattr("snp_lib.store.make.read_out", None)
    again = stage(staged_run, 0)
    assert all(np.array_equal(first[name], again[name], equal_nan=True) for name in first)
    assert runs_dir() == staged_run.path.parent
