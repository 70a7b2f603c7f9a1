"""Weights: the network and the readouts that a run measured, looked into before they are used."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from snp_lib import data
from snp_lib.performance import measure
from snp_lib.store import Run, StoreError, weights
from snp_lib.training.prediction import accuracy, predict
from snp_lib.training.preparation import make_normalize


@pytest.fixture
def copied(staged_run: Run, tmp_path: Path) -> Run:
    """The same run in a folder of this test."""
    return replace(staged_run, path=Path(shutil.copytree(staged_run.path, tmp_path / "copy")))


def test_the_network_of_a_run_is_the_one_it_measured(staged_run: Run, tmp_path: Path) -> None:
    digits = data.load("digits", size=16)
    model = staged_run.network()
    assert not model.training
    logits = predict(model, digits.test, make_normalize(staged_run.experiment.recipe, digits.train.inputs), batch_size=128)
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


def test_weights_that_are_not_there_or_damaged_are_named(copied: Run) -> None:
    with pytest.raises(StoreError, match=r"holds no snapshot-007.safetensors: snapshots of a training stay where it was made.*--refresh"):
        copied.network(7)
    (copied.path / "snapshot-001.safetensors").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"snapshot-001.safetensors: its SHA-256 .*vouches for\.$"):
        copied.network(1)  # the copy lies in a folder that is not ours to delete
    (copied.path / "weights.safetensors").unlink()
    with pytest.raises(StoreError, match=r"holds no weights.safetensors"):
        copied.network()


def test_a_run_gives_its_readouts_back(staged_run: Run) -> None:
    digits, model = data.load("digits", size=16), staged_run.network()
    normalize = make_normalize(staged_run.experiment.recipe, digits.train.inputs)
    again = measure(model, staged_run.readouts(), digits.test, normalize, num_classes=10)
    assert again.readout_accuracy == staged_run.metrics["readout_accuracy"]
    for site in staged_run.sites:
        np.testing.assert_array_equal(again.class_means[site].half().numpy(), staged_run.arrays[f"means_test/{site}"])


def vouched(run: Run, content: bytes, name: str = weights.FULL) -> Run:
    """The run with other weights and a manifest that vouches for them."""
    (run.path / name).write_bytes(content)
    files = run.manifest["files"] | {name: hashlib.sha256(content).hexdigest()}
    return replace(run, manifest=run.manifest | {"files": files})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.classifier.bias"), "the tensor 'model.classifier.bias' is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "the tensor 'extra' is unexpected"),
        (lambda t: t.update({"model.classifier.bias": torch.zeros(11)}), r"'model.classifier.bias' is torch.float32\[11\]; expected"),
        (lambda t: t.update({"model.classifier.bias": torch.zeros(10).half()}), "is torch.float16.* expected torch.float32"),
        (lambda t: t["readout.block1.mha.linear.weight"].fill_(torch.nan), "'readout.block1.mha.linear.weight' holds numbers that are not"),
    ],
)
def test_tensors_that_are_not_those_of_the_network_are_refused(
    change: Callable[[dict[str, Tensor]], object], message: str, copied: Run
) -> None:
    tensors = load_file(copied.path / weights.FULL)
    change(tensors)
    run = vouched(copied, save(tensors))
    for use in (run.network, run.readouts, run.look_into):
        with pytest.raises(StoreError, match=f"^cannot read .*weights.safetensors: .*{message}"):
            use()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_files_that_hold_no_tensors_are_refused_although_they_are_vouched_for(content: bytes, copied: Run) -> None:
    for run, epoch in ((vouched(copied, content), None), (vouched(copied, content, "snapshot-001.safetensors"), 1)):
        with pytest.raises(StoreError, match=r"safetensors: (it is no file of tensors|the tensor .* is missing)"):
            run.network(epoch)


def test_half_precision_serves_where_there_are_no_others(copied: Run) -> None:
    full = copied.network().state_dict()
    content = copied.halved_weights()
    assert content == copied.halved_weights()
    assert len(content) < 0.6 * (copied.path / weights.FULL).stat().st_size
    (copied.path / weights.HALF).write_bytes(b"not looked at while there are others")
    assert torch.equal(copied.network().classifier.weight, full["classifier.weight"])
    (copied.path / weights.FULL).unlink()
    with pytest.raises(StoreError, match=r"weights-half.safetensors: it is no file of tensors"):
        copied.network()
    (copied.path / weights.HALF).write_bytes(content)
    for name, tensor in copied.network().state_dict().items():
        assert tensor.dtype == full[name].dtype
        assert torch.equal(tensor, full[name].half().float() if tensor.is_floating_point() else full[name])
    assert copied.halved_weights() == content
    assert copied.readouts().keys() == copied.sites.keys()


def test_half_precision_vouches_for_itself_and_for_its_run(copied: Run) -> None:
    content = bytearray(copied.halved_weights())
    (copied.path / weights.FULL).unlink()
    content[-1] ^= 1
    (copied.path / weights.HALF).write_bytes(content)
    with pytest.raises(StoreError, match="its SHA-256 is not that of its content and of the arrays of this run"):
        copied.network()
    content[-1] ^= 1
    (copied.path / weights.HALF).write_bytes(content)
    other = replace(copied, manifest=copied.manifest | {"files": copied.manifest["files"] | {"arrays.npz": "0" * 64}})
    with pytest.raises(StoreError, match="arrays of this run"):
        other.network()
    with pytest.raises(ValueError, match="'x' holds numbers that are not finite"):
        weights.halved({"x": torch.full((1,), 1e6)}, "0" * 64)


def test_reading_weights_draws_no_random_number(copied: Run) -> None:
    torch.manual_seed(0)
    copied.network()
    copied.readouts()
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)
