"""Runs and records: made once, read ever after, refused when they do not fit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from shared import shortened, unchecked

from snp_lib import data, machine, store
from snp_lib.data.augment.crops import Normalize
from snp_lib.experiments.experiment import initial_model
from snp_lib.machine import PROJECT
from snp_lib.models import create_model
from snp_lib.performance import binarize
from snp_lib.performance.class_means import measure
from snp_lib.performance.readout import TokenReadout, train_readouts
from snp_lib.store import Run, StoreError, make, records, runs, weights
from snp_lib.training import Stopped, checkpoint
from snp_lib.training.loop import TrainingError, train
from snp_lib.training.prediction import accuracy


def no_training(*args: object, **options: object) -> None:
    raise AssertionError("nothing was to be trained")


@pytest.fixture
def stored(smoke_run: Run, own_folders: Path) -> Run:
    """A copy of the finished run among this test's own runs."""
    target = own_folders / "runs" / smoke_run.experiment.id
    shutil.copytree(smoke_run.path, target)
    return Run(smoke_run.experiment, target, smoke_run.manifest)


def quick(experiment: Any = None, **options: Any) -> Run:
    return store.run(experiment or shortened(), device="cpu", progress=False, **options)


def test_a_finished_run_holds_what_a_figure_needs(smoke_run: Run) -> None:
    assert sorted(path.name for path in smoke_run.path.iterdir()) == ["arrays.npz", "manifest.json", "weights.safetensors"]
    assert [row["epoch"] for row in smoke_run.history] == [1, 2]
    assert list(smoke_run.sites.items())[:2] == [("block1.mha", 48), ("block1.ff_hidden", 96)]
    assert smoke_run.logits.shape == (450, 10)
    assert smoke_run.labels.tolist() == data.load("digits").test.labels.tolist()
    assert smoke_run.class_names == list("0123456789")
    assert smoke_run.manifest["data_checksum"] == data.load("digits", size=16).checksum
    assert smoke_run.metrics["test_accuracy"] == smoke_run.history[-1]["test_accuracy"]
    logits, labels = torch.from_numpy(smoke_run.logits).float(), torch.from_numpy(smoke_run.labels).long()
    assert smoke_run.metrics["test_accuracy"] == accuracy(logits, labels)
    assert set(smoke_run.metrics["readout_accuracy"]) == set(smoke_run.sites)
    assert len(smoke_run.record) == 8


def test_the_second_call_reads(stored: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snp_lib.store.make.train", no_training)
    again = quick()
    assert again.manifest == stored.manifest
    assert all(np.array_equal(again.arrays[name], array) for name, array in stored.arrays.items())


def test_matrices_equal_a_loop_over_the_stored_arrays(smoke_run: Run) -> None:
    for split in ("train", "test"):
        means = smoke_run.arrays[f"means_{split}/block2.mha"].astype(np.float64)
        weight = smoke_run.arrays["weight/block2.mha"].astype(np.float64)
        nodes = np.stack([np.outer(means[:, u], weight[:, u]) for u in range(48)])
        np.testing.assert_allclose(smoke_run.matrices("block2.mha", split=split), nodes, rtol=1e-5, atol=1e-7)
        heads = smoke_run.matrices("block2.mha", unit="head", split=split)
        np.testing.assert_allclose(heads, nodes.reshape(4, 12, 10, 10).sum(1), rtol=1e-4, atol=1e-5)


def test_a_lean_run_has_the_same_matrices_and_no_answers(smoke_run: Run, own_folders: Path) -> None:
    lean = quick(shortened().vary("lean-test", lean=True))
    assert lean.metrics == smoke_run.metrics
    assert set(lean.arrays) == {f"{kind}/{site}" for kind in ("weight", "means_test") for site in smoke_run.sites}
    assert all(np.array_equal(array, smoke_run.arrays[name]) for name, array in lean.arrays.items())
    assert np.array_equal(lean.matrices("block2.ff"), smoke_run.matrices("block2.ff"))
    assert lean.experiment.hash != replace(lean.experiment, lean=None).hash
    assert lean.experiment.training_hash == smoke_run.experiment.training_hash
    for whole in (lambda: lean.logits, lambda: lean.labels, lambda: lean.matrices("block2.ff", split="train")):
        with pytest.raises(StoreError, match="is a lean run: it keeps neither logits nor"):
            whole()


def test_wrong_sites_and_units_are_refused(smoke_run: Run) -> None:
    with pytest.raises(ValueError, match="unknown site 'block9'"):
        smoke_run.matrices("block9")
    with pytest.raises(ValueError, match="heads live at the mha sites"):
        smoke_run.matrices("block1.ff", unit="head")
    with unchecked(), pytest.raises(ValueError, match="unit must be"):
        smoke_run.matrices("block1.ff", unit="filter")  # type: ignore[arg-type]


def test_half_precision_changes_few_thresholded_elements(smoke_run: Run) -> None:
    """At most one element in a thousand crosses θ by the rounding to float16; measured with the stored weights."""
    dataset = data.load("digits", size=16)
    tensors = load_file(smoke_run.path / "weights.safetensors")
    model = create_model(smoke_run.experiment.model, num_classes=10, **smoke_run.experiment.model_options)
    model.load_state_dict({k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")})
    readouts = {}
    for site, width in smoke_run.sites.items():
        readouts[site] = TokenReadout(width, 10)
        readouts[site].load_state_dict({kind: tensors[f"readout.{site}.{kind}"] for kind in ("score.weight", "linear.weight")})
    exact = measure(model, readouts, dataset.test, Normalize(dataset.train.inputs), num_classes=10)
    changed = total = 0
    for site, readout in readouts.items():
        nodes = torch.einsum("iu,ju->uij", exact.class_means[site], readout.linear.weight.detach())
        different = binarize(nodes.numpy()) != binarize(smoke_run.matrices(site))
        changed, total = changed + int(different.sum()), total + different.size
    assert total == 60 * 1200
    assert changed / total < 1e-3, f"{changed} of {total}"
    assert exact.readout_accuracy == smoke_run.metrics["readout_accuracy"]


def test_an_interruption_leaves_no_run_and_the_next_call_resumes(
    own_folders: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def save_and_stop(*args: Any, **options: Any) -> None:
        save(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("snp_lib.training.checkpoint.save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            quick()
    assert store.find(shortened()) is None
    assert [path.name for path in (own_folders / "runs").iterdir() if not path.name.startswith(".")] == []
    steps = []
    monkeypatch.setattr("snp_lib.training.checkpoint.save", lambda *args, **options: steps.append(options["state"]["steps"]))
    assert checkpoint.exists(own_folders / "runs" / ".partial" / shortened().id / "checkpoint.safetensors")
    resumed = quick()
    assert not list((own_folders / "runs" / ".partial").iterdir())
    assert all(np.array_equal(resumed.arrays[name], array) for name, array in smoke_run.arrays.items())
    monkeypatch.setattr("snp_lib.store.make.train", no_training)
    with pytest.raises(AssertionError, match="nothing was to be trained"):
        quick(refresh=True)
    assert quick().record == resumed.record  # a refresh that fails leaves the old run


def test_an_order_of_its_own_trains_the_same_start_as_another_seed_would_see_it(own_folders: Path) -> None:
    """Trained by hand: the network of seed 0 in the order of seed 5, to the bit."""
    experiment = replace(shortened(), order_seed=5)
    made = quick(experiment)
    dataset = data.load(experiment.dataset, size=experiment.dataset_size)
    weights_by_hand, options = [], {"device": torch.device("cpu"), "progress": False}
    for order in (5, 0):
        model = initial_model(experiment, dataset.num_classes)
        train(model, dataset, experiment.recipe, seed=order, **options)  # type: ignore[arg-type]
        weights_by_hand.append(model.state_dict())
    kept = made.network().state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights_by_hand[0].items())
    assert not all(torch.equal(kept[name], tensor) for name, tensor in weights_by_hand[1].items())
    assert made.manifest["experiment"]["order_seed"] == 5


def test_refresh_makes_a_new_run_in_the_place_of_the_old(stored: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (stored.path / "mark").touch()
    trained = []
    monkeypatch.setattr("snp_lib.store.make.train", lambda model, *args, **options: trained.append(model.eval()) or stored.history)
    fresh = quick(refresh=True)
    assert len(trained) == 1
    assert fresh.path == stored.path
    assert not (fresh.path / "mark").exists()
    assert fresh.record != stored.record
    assert [path.name for path in stored.path.parent.iterdir() if not path.name.startswith(".")] == [stored.path.name]


TOGETHER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import shared
from snp_lib import store
from snp_lib.store import make
train = make.train
def announced(*args, **options):
    print("training", flush=True)
    started, other = Path(sys.argv[2]), Path(sys.argv[3])
    started.touch()
    while not other.exists():
        time.sleep(0.05)
    time.sleep(0.5)  # the other process asks while this one trains
    return train(*args, **options)
make.train = announced
if Path(sys.argv[2]).exists():
    Path(sys.argv[3]).touch()
print(store.run(shared.shortened(), device="cpu").record)
"""


def test_of_two_processes_one_trains_and_the_other_waits(own_folders: Path, smoke_run: Run) -> None:
    started, other = own_folders / "started", own_folders / "other"
    command = [sys.executable, "-c", TOGETHER, str(Path(__file__).resolve().parent.parent), str(started), str(other)]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not started.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    second = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    output, errors = first.communicate(timeout=200)
    assert first.returncode == 0, errors
    assert second.returncode == 0, second.stderr
    assert output.split() == ["training", smoke_run.record]
    assert second.stdout.splitlines() == ["another process is making cct-test-smoke-s0; waiting for it", smoke_run.record]


def test_a_changed_experiment_is_refused_by_the_field_that_differs(stored: Run) -> None:
    experiment = stored.experiment
    options = experiment.model_options | {"dropout": 0.1}
    changed = replace(experiment, recipe=replace(experiment.recipe, lr=1.0), model_options=options)
    with pytest.raises(StoreError, match=r"differs in model_options.dropout, recipe.lr\).*refresh=True.*\.vary") as error:
        quick(changed)
    assert str(stored.path) in str(error.value)


def test_a_flipped_byte_is_found(stored: Run) -> None:
    for name in ("arrays.npz", "weights.safetensors"):
        good = (stored.path / name).read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        (stored.path / name).write_bytes(bad)
        with pytest.raises(StoreError, match=rf"{name} is damaged: SHA-256 .*Delete the folder {stored.path} to make the run again"):
            quick()
        (stored.path / name).write_bytes(good)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot read the run"),
        ("[]", "cannot read the run"),
        ('{"format": "snp-run-0"}', "format 'snp-run-0'"),
        (None, "is no run: it has no manifest.json$"),
    ],
)
def test_a_damaged_manifest_is_refused(content: str | None, message: str, stored: Run) -> None:
    (stored.path / "manifest.json").unlink()
    if content is not None:
        (stored.path / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(StoreError, match=message):
        quick()


def test_promote_copies_without_weights_and_the_record_is_read(stored: Run, own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = stored.matrices("block1")
    target = records.promote(stored)
    assert target == own_folders / "records" / stored.experiment.id
    assert sorted(path.name for path in target.iterdir()) == ["arrays.npz", "manifest.json"]
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    shutil.rmtree(stored.path)
    monkeypatch.setattr("snp_lib.store.make.train", no_training)
    record = quick()
    assert record.path == target
    np.testing.assert_array_equal(record.matrices("block1"), matrices)
    assert records.promote(record) == target  # again: nothing to do, nothing lost
    assert quick().record == stored.record


def test_promote_refuses_what_is_too_large(stored: Run, own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snp_lib.store.runs.RECORD_LIMIT", 1000)
    with pytest.raises(StoreError, match="a record may take 1,000"):
        records.promote(stored)
    assert not (own_folders / "records").exists()


def test_arrays_are_plain_numbers(smoke_run: Run) -> None:
    with np.load(smoke_run.path / "arrays.npz", allow_pickle=False) as file:
        assert {file[name].dtype.kind for name in file.files} == {"f", "u"}


def test_manifests_name_no_folder_of_this_machine(smoke_run: Run) -> None:
    text = json.dumps(smoke_run.manifest)
    assert str(PROJECT) not in text
    assert str(smoke_run.path.parent) not in text


def test_devices_by_name() -> None:
    assert machine.choose_device("cpu") == torch.device("cpu")
    assert machine.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="device must be auto, cpu or cuda"):
        machine.choose_device("tpu")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device"):
        machine.choose_device("cuda")


@pytest.mark.parametrize("name", ["arrays.npz", "weights.safetensors", "manifest.json", "snapshot-000.safetensors"])
def test_a_full_disk_at_the_end_loses_no_training(name: str, own_folders: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = replace(shortened(), snapshots=(0,))
    full, failed = (make.write_durably, weights.save_file), []

    def limited(write: Any, position: int) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> None:
            if Path(arguments[position]).name == name:
                failed.append(name)
                raise OSError(28, "No space left on device") if position == 0 else SafetensorError("No space left on device (os error 28)")
            write(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(make, "write_durably", limited(full[0], 0))
        patch.setattr(weights, "save_file", limited(full[1], 1))
        with pytest.raises(TrainingError, match=r"cannot write .*No space left.*Make room; the same command goes on\."):
            quick(experiment)
    assert failed == [name]
    assert not (own_folders / "runs" / experiment.id).exists()
    resumed = quick(experiment)
    assert all(np.array_equal(resumed.arrays[key], array) for key, array in smoke_run.arrays.items())
    assert len(list(resumed.path.iterdir())) == 4


def test_everything_is_on_the_disk_before_the_checkpoint_goes(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, rename, remove = os.fsync, Path.rename, checkpoint.remove

    def synced(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", lambda path, target: events.append("rename") or rename(path, target))
    monkeypatch.setattr(checkpoint, "remove", lambda path: events.append("removed") or remove(path))
    quick(replace(shortened(), snapshots=(0,)))
    moved = events.index("rename")
    assert {"arrays.npz", "weights.safetensors", "snapshot-000.safetensors", "manifest.json", shortened().id} <= set(events[:moved])
    assert events[moved:] == ["rename", "runs", "removed"]


def test_sigterm_while_class_means_are_measured_stops_and_the_same_command_goes_on(
    own_folders: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = data.Split.batches

    def terminated(split: data.Split, size: int) -> Any:
        if size == 128 and Path(own_folders / "runs" / ".partial").exists() and not seen:
            seen.append(split)
            os.kill(os.getpid(), signal.SIGTERM)
        return batches(split, size)

    seen: list[data.Split] = []
    with monkeypatch.context() as patch:
        patch.setattr(make, "train_readouts", lambda *arguments, **options: (seen.clear(), train_readouts(*arguments, **options))[1])
        seen.append(data.load("digits").test)  # nothing before the readouts is stopped
        patch.setattr(data.Split, "batches", terminated)
        with pytest.raises(Stopped, match=r"stopped by SIGTERM while class means were measured; .*the same command measures again"):
            quick()
    assert all(np.array_equal(quick().arrays[key], array) for key, array in smoke_run.arrays.items())


def test_a_folder_that_cannot_be_written_to_is_named_with_the_way_out(own_folders: Path) -> None:
    (own_folders / "runs").write_bytes(b"no folder")
    with pytest.raises(StoreError, match=r"cannot write to .*runs \(.*\)\. Choose a folder you can write to: .* SNP_RUNS_DIR\.$"):
        quick()


def test_a_run_is_parsed_once(catalogue: Path, stored: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed, parse = [], runs.parse_manifest
    monkeypatch.setattr(runs, "parse_manifest", lambda content: parsed.append(1) or parse(content))
    run = quick()
    assert len(parsed) == 1
    records.keep(run)
    records.keep(run, stored.path.parent / "packed")
    assert len(parsed) == 1


def test_a_run_that_is_not_to_be_trained_is_refused(own_folders: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no run .*-s7 in .*train it with `snp train .* --seeds 7`"):
        store.run(shortened(seed=7), train=False)
    assert not (own_folders / "runs").exists() or not list((own_folders / "runs").glob("*-s7"))
