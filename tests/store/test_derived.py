"""Measurements that hang off a run are used for that very run and those options, or made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shortened, unchecked
from safetensors.torch import load_file

from snp_lib import data, derived, making, paths, stages, store
from snp_lib.experiments import get
from snp_lib.performance import group_units, measure, summarize, unit_matrices
from snp_lib.store import Run, StoreError
from snp_lib.training import accuracy
from snp_lib.training.augmentation import make_normalize
from snp_lib.training.loop import predict

OPTIONS = {"theta": 0.3, "heads": [0, 1]}


class Count:
    """A measurement that counts how often it is made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Mapping[str, np.ndarray]:
        self.made += 1
        return {"x": np.arange(5) * self.made, "y": np.eye(2)}


def test_a_measurement_is_made_once(own_folders: Path, smoke_run: Run) -> None:
    count = Count()
    first = derived.derived(smoke_run, "count", OPTIONS, count)
    again = derived.derived(smoke_run, "count", OPTIONS, count)
    assert count.made == 1
    assert first.keys() == again.keys() == {"x", "y"}
    assert all(np.array_equal(first[name], again[name]) for name in first)
    derived.derived(smoke_run, "count", OPTIONS, count, refresh=True)
    assert count.made == 2
    assert derived.derived(smoke_run, "count", OPTIONS, count)["x"][1] == 2
    assert sorted(path.name for path in (own_folders / "runs" / "derived" / smoke_run.experiment.id).iterdir()) == [
        "count.json",
        "count.npz",
    ]


def test_other_options_or_another_training_are_another_measurement(own_folders: Path, smoke_run: Run) -> None:
    count = Count()
    derived.derived(smoke_run, "count", OPTIONS, count)
    assert derived.find(smoke_run, "count", {**OPTIONS, "theta": 0.4}) is None
    files = smoke_run.manifest["files"] | {"arrays.npz": "0" * 64}
    other = replace(smoke_run, manifest=smoke_run.manifest | {"files": files})
    assert derived.find(other, "count", OPTIONS) is None
    assert derived.find(smoke_run, "another", OPTIONS) is None


def test_promoted_measurements_are_found_and_those_of_an_older_training_go(own_folders: Path, smoke_run: Run) -> None:
    files = smoke_run.manifest["files"] | {"arrays.npz": "0" * 64}
    older = replace(smoke_run, manifest=smoke_run.manifest | {"files": files})
    derived.derived(older, "old", OPTIONS, Count())
    assert [path.name for path in derived.promote(older)] == ["old.npz", "old.json"]
    derived.derived(smoke_run, "count", OPTIONS, Count())
    derived.promote(smoke_run)
    records = own_folders / "records" / "derived" / smoke_run.experiment.id
    assert sorted(path.name for path in records.iterdir()) == ["count.json", "count.npz"]
    shutil.rmtree(own_folders / "runs")
    assert derived.find(smoke_run, "count", OPTIONS) is not None


@pytest.mark.parametrize("how", ["truncated", "one bit", "no json", "pickle"])
def test_a_damaged_measurement_is_refused(how: str, own_folders: Path, smoke_run: Run) -> None:
    derived.derived(smoke_run, "count", OPTIONS, Count())
    path = derived.folder(smoke_run, "runs") / "count.npz"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "one bit":
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    elif how == "no json":
        path.with_suffix(".json").write_text("{")
    else:
        np.savez(path, x=np.array([{}], dtype=object))
        manifest = json.loads(path.with_suffix(".json").read_text())
        path.with_suffix(".json").write_text(json.dumps(manifest | {"sha256": derived.sha256(path)}))
    with pytest.raises(StoreError, match=r"cannot read the measurement .*count.npz: .*Delete it to make it again"):
        derived.derived(smoke_run, "count", OPTIONS, Count())


def test_a_full_disk_leaves_nothing_half_written(own_folders: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(derived, "write_durably", full)
    with pytest.raises(StoreError, match=r"cannot write the measurement .*no space left"):
        derived.derived(smoke_run, "count", OPTIONS, Count())
    assert list(derived.folder(smoke_run, "runs").iterdir()) == []


def test_a_disk_that_fills_up_in_between_leaves_what_was_there(own_folders: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    count, write, calls = Count(), derived.write_durably, []
    derived.derived(smoke_run, "count", OPTIONS, count)

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError("no space left on device")
        write(path, content)

    monkeypatch.setattr(derived, "write_durably", full)
    with pytest.raises(StoreError, match="no space left"):
        derived.derived(smoke_run, "count", OPTIONS, count, refresh=True)
    assert derived.derived(smoke_run, "count", OPTIONS, count)["x"][1] == 1
    assert len(list(derived.folder(smoke_run, "runs").iterdir())) == 2
    assert not [path for path in calls if path.suffix in (".json", ".npz")]  # what a kill leaves is taken for no measurement


def test_other_options_overwrite_neither_a_measurement_nor_a_record(own_folders: Path, smoke_run: Run) -> None:
    count, other = Count(), {**OPTIONS, "theta": 0.4}
    derived.derived(smoke_run, "count", OPTIONS, count)
    derived.promote(smoke_run)
    derived.derived(smoke_run, "count", other, count)
    assert [int(derived.derived(smoke_run, "count", options, count)["x"][1]) for options in (OPTIONS, other)] == [1, 2]
    derived.derived(smoke_run, "count", other, count, refresh=True)
    assert [int(derived.derived(smoke_run, "count", options, count)["x"][1]) for options in (OPTIONS, other)] == [1, 3]
    assert len(derived.promote(smoke_run)) == 4
    for path in derived.folder(smoke_run, "runs").iterdir():
        path.unlink()
    derived.derived(smoke_run, "count", {**OPTIONS, "theta": 0.5}, count)
    with pytest.raises(StoreError, match=r"count.json was made with other options than .*: delete the one that is not wanted"):
        derived.promote(smoke_run)
    assert derived.derived(smoke_run, "count", OPTIONS, count)["x"][1] == 1


def test_names_and_objects_are_refused(own_folders: Path, smoke_run: Run) -> None:
    for name in ("../x", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="plain name"):
            derived.derived(smoke_run, name, OPTIONS, Count())
    with unchecked(), pytest.raises(ValueError, match="'x' of count holds objects"):
        derived.derived(smoke_run, "count", OPTIONS, lambda: {"x": np.array([None])})


@pytest.fixture(scope="module")
def staged_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with snapshots before training and after the first of two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("staged")))
        return store.run(replace(shortened("staged"), snapshots=(0, 1)), device="cpu", progress=False)


@pytest.fixture
def own_records(staged_run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(staged_run.path.parent))
    monkeypatch.setattr(store, "RECORDS", tmp_path / "records")


@pytest.fixture
def own_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No run is there but the committed records."""
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def test_the_network_of_a_run_is_the_one_it_measured(staged_run: Run, tmp_path: Path) -> None:
    digits = data.load("digits", size=16)
    model = staged_run.network()
    assert not model.training
    logits = predict(model, digits.test, make_normalize(staged_run.experiment.recipe, digits.train.images), batch_size=128)
    assert accuracy(logits, digits.test.labels) == staged_run.metrics["test_accuracy"]
    initial = staged_run.network(0)
    torch.manual_seed(0)
    expected = load_file(staged_run.path / "snapshot-000.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in initial.state_dict().items())
    assert not torch.equal(initial.classifier.weight, staged_run.network(1).classifier.weight)
    record = tmp_path / "record"
    shutil.copytree(staged_run.path, record, ignore=shutil.ignore_patterns("*.safetensors"))
    from_seed = replace(staged_run, path=record).network(0)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in from_seed.state_dict().items())


def test_weights_that_are_not_there_or_damaged_are_named(staged_run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(staged_run.path, copy)
    run = replace(staged_run, path=copy)
    with pytest.raises(StoreError, match=r"holds no snapshot-007.safetensors: records come without .*--refresh"):
        run.network(7)
    (copy / "snapshot-001.safetensors").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"snapshot-001.safetensors is damaged"):
        run.network(1)
    (copy / "weights.safetensors").unlink()
    with pytest.raises(StoreError, match=r"holds no weights.safetensors"):
        run.network()


def test_the_last_stage_is_the_run_itself(staged_run: Run, own_records: None) -> None:
    assert stages.stages(staged_run) == [0, 1, 2]
    last = stages.stage(staged_run, 2, progress=False)
    assert last["accuracy"][0] == staged_run.metrics["test_accuracy"]
    sites = list(staged_run.sites)
    assert dict(zip(sites, last["readout_accuracy"], strict=True)) == staged_run.metrics["readout_accuracy"]
    for t, theta in enumerate(stages.THETAS):
        for s, site in enumerate(sites):
            summary = summarize(staged_run.matrices(site), theta)  # kept in half precision, so that a few elements flip
            found = dict(zip(stages.STATISTICS, last["statistics"][s, t], strict=True))
            assert found["labels"] == pytest.approx(summary.labels_per_unit(), abs=0.1)
            if site.endswith(".mha"):
                sets = stages.diagonal_sets_at(last, site, theta, labels=10)
                assert sets.shape == summary.diagonal.shape
                assert (sets != summary.diagonal).sum() <= 2
    with pytest.raises(ValueError, match=r"stages are kept for θ = 0.2, .*, not 0.35"):
        stages.diagonal_sets_at(last, "block1.mha", 0.35, labels=10)


def test_a_run_gives_its_readouts_back(staged_run: Run) -> None:
    digits, model = data.load("digits", size=16), staged_run.network()
    normalize = make_normalize(staged_run.experiment.recipe, digits.train.images)
    found = measure(model, staged_run.readouts(), digits.test, normalize, num_classes=10)
    assert found.readout_accuracy == staged_run.metrics["readout_accuracy"]
    for site in staged_run.sites:
        np.testing.assert_array_equal(found.class_means[site].half().numpy(), staged_run.arrays[f"means_test/{site}"])


def test_a_run_without_snapshots_has_two_stages(staged_run: Run) -> None:
    experiment = replace(staged_run.experiment, snapshots=None)
    assert stages.stages(replace(staged_run, experiment=experiment)) == [0, 2]


def test_stages_through_other_readouts_are_measured_by_the_same_rules(staged_run: Run, own_records: None) -> None:
    run, digits = staged_run, data.load("digits", size=16)
    own = stages.stage(run, 2, progress=False)
    for pooling in ("mean", "flat"):
        found = stages.stage(run, 2, pooling, progress=False)
        recipe = replace(run.experiment.readout, pooling=pooling)
        readouts, measured = making.read_out(run.network(), run.experiment, digits, ("test",), recipe, progress=False)
        s, site = 4, "block2.mha"
        features = (measured["test"].class_means[site], readouts[site].linear.weight.detach())
        means, weight = (group_units(x, run.sites[site]) for x in features)
        summary = summarize(unit_matrices(means, weight).numpy(), 0.4)
        assert dict(zip(stages.STATISTICS, found["statistics"][s, 2], strict=True))["snr"] == pytest.approx(summary.snr)
        assert np.array_equal(stages.diagonal_sets_at(found, site, 0.4, labels=10), summary.diagonal)
        assert found["accuracy"][0] == own["accuracy"][0]
        assert not np.array_equal(found["readout_accuracy"], own["readout_accuracy"])
    assert {path.stem for path in derived.folder(run, "runs").glob("*.npz")} >= {"stage-002", "stage-002-mean", "stage-002-flat"}


def test_heads_are_measured_at_a_stage_as_they_are_in_the_run(staged_run: Run, own_records: None) -> None:
    last = stages.stage(staged_run, 2, unit="head", progress=False)
    sites = [site for site in staged_run.sites if site.endswith(".mha")]
    assert last["statistics"].shape == (len(sites), len(stages.THETAS), len(stages.STATISTICS))
    for s, site in enumerate(sites):
        assert last["readout_accuracy"][s] == staged_run.metrics["readout_accuracy"][site]  # read alone, as with all others
        summary = summarize(staged_run.matrices(site, unit="head"), 0.3)
        assert dict(zip(stages.STATISTICS, last["statistics"][s, 1], strict=True))["labels"] == pytest.approx(
            summary.labels_per_unit(), abs=0.3
        )
        assert (stages.diagonal_sets_at(last, site, 0.3, labels=10) != summary.diagonal).sum() <= 1
    assert (derived.folder(staged_run, "runs") / "stage-002-heads.npz").exists()


def test_a_run_that_reads_heads_alone_keeps_these_sites(own_runs: Path, own_records: None) -> None:
    some = shortened("heads-alone")
    run = store.run(replace(some, readout=replace(some.readout, kinds=("mha",))), device="cpu", progress=False)
    assert list(run.sites) == ["block1.mha", "block2.mha", "block3.mha"] == list(run.metrics["readout_accuracy"])
    assert set(run.arrays) == {"logits", "labels"} | {
        f"{kind}/{site}" for kind in ("weight", "means_train", "means_test") for site in run.sites
    }
    assert stages.stage(run, 0, progress=False)["statistics"].shape[0] == 3


def test_silencing_before_the_pooling_stands_beside_silencing_after_it(staged_run: Run, own_records: None) -> None:
    found = stages.silenced_first(staged_run, progress=False)
    own = stages.stage(staged_run, 2, progress=False)
    np.testing.assert_allclose(found["after"], own["statistics"])
    assert np.array_equal(found["readout_accuracy"], own["readout_accuracy"])
    assert found["statistics"].shape == own["statistics"].shape
    assert not np.array_equal(found["statistics"], found["after"])
    assert (found["jaccard"] > found["chance"]).all()
    assert (found["jaccard"] < 1).any()
    experiment = replace(staged_run.experiment, readout=replace(staged_run.experiment.readout, pooling="mean"))
    tensors = {name: tensor for name, tensor in staged_run._tensors("weights.safetensors").items() if not name.endswith("score.weight")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_tensors", lambda run, name: tensors)
        with pytest.raises(ValueError, match=r"needs sequence pooling; .* has MeanReadout"):
            stages.silenced_first(replace(staged_run, experiment=experiment), refresh=True, progress=False)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_committed_stages_are_still_found(seed: int, own_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = store.run(get("cct", "small", seed), progress=False)
    monkeypatch.setattr(making, "read_out", None)
    for epoch in (0, 1, 4):
        assert stages.stage(record, epoch, progress=False)["statistics"].shape == (20, 5, 8)


def test_stages_differ_and_are_kept(staged_run: Run, own_records: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stages.stage(staged_run, 0, progress=False)
    assert first["accuracy"][0] < 0.25  # chance is 0.1
    assert first["statistics"].shape == (len(staged_run.sites), len(stages.THETAS), len(stages.STATISTICS))
    monkeypatch.setattr(making, "read_out", None)
    again: dict[str, Any] = stages.stage(staged_run, 0, progress=False)
    assert all(np.array_equal(first[name], again[name], equal_nan=True) for name in first)
    assert paths.runs_dir() == staged_run.path.parent
