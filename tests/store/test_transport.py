"""Transport files: a run arrives with its measurements and loses nothing; whatever was not packed is refused, nothing written."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import load_file, save
from shared import shortened, unchecked

from snp_lib import cli, experiments, store
from snp_lib.experiments import Experiment
from snp_lib.store import OutdatedError, Run, StoreError, derived, transport, weights
from snp_lib.store.manifest import seal

ID = "cct-test-smoke-s0"
OPTIONS = {"theta": 0.3}
Members = dict[str, bytes]


@pytest.fixture
def source(catalogue: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The shared run with one measurement, in a place that is packed from; what arrives goes elsewhere."""
    monkeypatch.setenv("SNP_RUNS_DIR", str(catalogue / "source"))
    run = replace(smoke_run, path=Path(shutil.copytree(smoke_run.path, catalogue / "source" / ID)))
    derived.derived(run, "count", OPTIONS, lambda: {"x": np.arange(5)})
    return run


@pytest.fixture
def packed(source: Run, catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file; from now on there are no runs and no records."""
    path = transport.pack(source, catalogue / "packed")
    monkeypatch.setenv("SNP_RUNS_DIR", str(catalogue / "runs"))
    return path


def pack(run: Run, target: Path, **options: Any) -> Path:
    """The file, made where the run and its measurements are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(run.path.parent))
        return transport.pack(run, target, **options)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*") if ".locks" not in p.parts}


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist() if name != transport.MARKER}


def refused(path: Path, *messages: str, **options: Any) -> None:
    """The file is refused by a message that names it and holds these, and nothing on disk changes."""
    before = {name: content for name, content in tree(path.parent.parent).items() if name not in ("runs", "records")}
    with pytest.raises(StoreError) as error:
        transport.unpack(path, **options)
    for message in (str(path), *messages):
        assert message in str(error.value)
    assert ".import-" not in str(error.value)
    assert {name: content for name, content in tree(path.parent.parent).items() if name not in ("runs", "records")} == before


@pytest.mark.parametrize("halved", [False, True])
def test_a_run_arrives_with_what_was_measured_of_it(halved: bool, source: Run, packed: Path) -> None:
    path = pack(source, packed.parent / "deep" / "er", weights=halved)
    again = pack(source, packed.parent, weights=halved)
    assert [p.name for p in path.parent.iterdir()] == [f"{ID}.snprun"]
    assert path.read_bytes() == again.read_bytes()
    assert transport.check(path).manifest == source.manifest
    arrived = transport.unpack(path)
    assert arrived == store.find(shortened())
    kept = ("manifest.json", "arrays.npz")
    assert sorted(tree(arrived.path)) == sorted([*kept, weights.HALF] if halved else kept)
    assert all((arrived.path / name).read_bytes() == (source.path / name).read_bytes() for name in kept)
    assert derived.derived(arrived, "count", OPTIONS, dict)["x"].tolist() == [0, 1, 2, 3, 4]
    assert sorted(p.name for p in arrived.path.parent.iterdir() if p.name != ".locks") == [ID, "derived"]
    if halved:
        np.testing.assert_allclose(arrived.network().classifier.weight.detach(), source.network().classifier.weight.detach(), atol=1e-3)
        assert pack(arrived, packed.parent, weights=True).read_bytes() == path.read_bytes()
    else:
        with pytest.raises(StoreError, match=r"holds no weights.safetensors"):
            pack(arrived, packed.parent, weights=True)


def test_a_record_comes_without_weights(source: Run, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(source, packed.parent, weights=True)
    records = packed.parent.parent / "records"
    assert transport.unpack(path, to="records").path == records / ID
    assert sorted(tree(records)) == [ID, f"{ID}/arrays.npz", f"{ID}/manifest.json", "derived", *(
        f"derived/{ID}{name}" for name in ("", "/count.json", "/count.npz"))]  # fmt: skip
    monkeypatch.setattr("snp_lib.store.runs.RECORD_LIMIT", 1000)
    refused(path, "a record may take 1,000. Keep it among your runs", to="records")
    with unchecked(), pytest.raises(ValueError, match="a run goes to runs or records, got 'home'"):
        transport.unpack(packed, to="home")  # type: ignore[arg-type]


def older(path: Path, *, weights: bytes | None = None, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> Path:
    """The file as the first format had it, from before digests."""
    members = {name: content for name, content in members_of(path).items() if not name.startswith("derived/")}
    manifest = {k: v for k, v in json.loads(members["manifest.json"]).items() if k not in ("digest", "model")}
    change(manifest)
    members["manifest.json"] = json.dumps(manifest, indent=1).encode() + b"\n"
    if weights is not None:
        members["weights.safetensors"] = weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "FORMAT", transport.OLDER)
        path.write_bytes(transport._zip(members))
    return path


def test_files_of_the_first_format_are_read_and_get_their_digest(source: Run, packed: Path) -> None:
    content = (source.path / "weights.safetensors").read_bytes()
    arrived = transport.unpack(older(packed, weights=content))
    assert tree(arrived.path) == tree(source.path)
    assert store.read(arrived.path).manifest == source.manifest


def test_weights_are_looked_into(source: Run, packed: Path) -> None:
    tensors = load_file(source.path / "weights.safetensors")
    tensors["model.classifier.bias"][0] = float("nan")

    def vouched(content: bytes) -> Path:
        digest = transport._digest(content)
        return older(packed, weights=content, change=lambda m: m["files"].update({"weights.safetensors": digest}))

    refused(vouched(b"garbage"), "weights.safetensors: it is no file of tensors")
    refused(vouched(save(tensors)), "'model.classifier.bias' holds numbers that are not finite")


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("snp-transport-3", "newer than 'snp-transport-2', which this version reads. Update snp_lib here."),
        ("snp-transport-0", "older than 'snp-transport-2', which this version reads. Make it again with an up-to-date snp_lib."),
        ("holiday-pictures-1", "has format 'holiday-pictures-1'; this version reads 'snp-transport-2'"),
    ],
)
def test_another_version_says_which_side_is_newer(format: str, message: str, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = members_of(packed)
    with monkeypatch.context() as patch:
        patch.setattr(transport, "FORMAT", format)
        packed.write_bytes(transport._zip(members))
    refused(packed, message)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])  # a refusal leaves the folder as it was
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_bit_never_arrives(share: float, bit: int, source: Run, packed: Path) -> None:
    """A zip has bits that say nothing, such as a date; what arrives is what was packed, or nothing is."""
    changed = packed.with_name("changed.snprun")
    data = bytearray(packed.read_bytes())
    data[int(share * len(data))] ^= 1 << bit
    changed.write_bytes(data)
    try:
        assert transport.check(changed).manifest == source.manifest
    except StoreError as error:
        assert str(changed) in str(error)  # noqa: PT017


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_is_refused(share: float, packed: Path) -> None:
    cut, whole = packed.with_name("cut.snprun"), packed.read_bytes()
    cut.write_bytes(whole[: int(share * len(whole))])
    refused(cut, "Copy it again")


def test_what_is_no_plain_file_is_refused(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(packed.with_name("nothing.snprun"), "no plain file")
    os.mkfifo(packed.with_name("pipe.snprun"))
    with pytest.raises(StoreError, match=r"pipe.snprun is refused: no plain file"):
        transport.check(packed.with_name("pipe.snprun"))
    packed.with_name("pipe.snprun").unlink()
    packed.with_name("text.snprun").write_text("no zip", encoding="utf-8")
    refused(packed.with_name("text.snprun"), "no transport file: File is not a zip file")
    monkeypatch.setattr(transport, "LIMIT", 1000)
    refused(packed, "bytes unpacked; it may take 1,000")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "extra", ["../../evil", "/etc/evil", "notes.txt", "..\\evil", "derived/../evil.json", "derived/.x.npz", "derived/a/b.npz"]
)
def test_members_of_other_names_are_refused(extra: str, packed: Path) -> None:
    packed.write_bytes(transport._zip(members_of(packed) | {extra: b"x"}))
    refused(packed, "has no place in it")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_missing_added_and_doubled_members_are_refused(packed: Path) -> None:
    whole, members = packed.read_bytes(), members_of(packed)
    for name in ("derived/more.json", "arrays.npz", "snprun.json"):
        with zipfile.ZipFile(packed, "a") as file:
            file.writestr(name, members.get(name, b"x"))
        refused(packed, "is refused")
        packed.write_bytes(whole)
    for name in members:
        packed.write_bytes(transport._zip({k: v for k, v in members.items() if k != name}))
        refused(packed)


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def test_arrays_that_the_manifest_does_not_promise_are_refused(source: Run, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, members = dict(source.arrays), members_of(packed)

    def forged(content: bytes) -> Path:
        manifest = json.loads(members["manifest.json"])
        manifest["files"]["arrays.npz"] = transport._digest(content)
        packed.write_bytes(transport._zip({"manifest.json": seal(manifest), "arrays.npz": content}))
        return packed

    for content, message in (
        (b"no zip", "not a zip"),
        (npz(**{k: v for k, v in arrays.items() if k != "weight/block2.ff"}), "missing or unexpected: 'weight/block2.ff'"),
        (npz(**arrays, extra=arrays["labels"]), "missing or unexpected: 'extra'"),
        (npz(**arrays | {"weight/block1": arrays["weight/block1"].astype(object)}), "Object arrays cannot be loaded"),
        (npz(**arrays | {"weight/block1": arrays["weight/block1"].T}), "'weight/block1' is float16[48, 10]; expected float16[10, 48]"),
        (npz(**arrays | {"weight/block1": arrays["weight/block1"].astype(np.float32)}), "is float32[10, 48]; expected float16"),
        (npz(**arrays | {"logits": arrays["logits"] * np.float16("nan")}), "'logits' holds numbers that are not finite"),
        (npz(**arrays | {"logits": arrays["logits"][1:]}), "'logits' is float16[449, 10]; expected float16[450, 10]"),
        (npz(**arrays | {"labels": arrays["labels"][:0], "logits": arrays["logits"][:0]}), "'logits' is float16[0, 10]"),
        (npz(**arrays | {"labels": arrays["labels"] + np.uint8(1)}), "'labels' holds 10; there are 10 classes"),
        (npz(**arrays | {"labels": arrays["labels"][::-1]}), "its manifest says"),
    ):
        refused(forged(content), "arrays.npz does not hold the arrays of this run", message)
    monkeypatch.setattr("snp_lib.store.manifest.ARRAYS_LIMIT", 1000)
    refused(forged(npz(**arrays)), "bytes unpacked; it may take 1,000")


def test_measurements_are_checked_too(source: Run, packed: Path) -> None:
    members = members_of(packed)
    manifest = json.loads(members["derived/count.json"])
    for change, message in (
        ({"derived/count.npz": b"x"}, "its SHA-256 is not the one its manifest vouches for"),
        ({"derived/count.json": seal(manifest | {"run": "0" * 64})}, "was measured of another run"),
        ({"derived/count.json": seal(manifest | {"date": "today"})}, "date must be a date such as"),
        ({"derived/alone.npz": b"x"}, "alone.json"),
    ):
        packed.write_bytes(transport._zip(members | change))
        refused(packed, message)


def test_other_definitions_and_unknown_experiments_are_refused(source: Run, packed: Path) -> None:
    def described(experiment: Experiment, **fields: Any) -> Path:
        manifest = source.manifest | {"experiment": experiment.describe() | fields, "training_hash": experiment.training_hash}
        manifest["hash"] = experiments.digest(manifest["experiment"])
        packed.write_bytes(transport._zip(members_of(packed) | {"manifest.json": seal(manifest)}))
        return packed

    smoke = shortened()
    refused(
        described(replace(smoke, recipe=replace(smoke.recipe, lr=1.0), model_options=smoke.model_options | {"dropout": 0.1})),
        f"another definition of {ID} (differs in model_options.dropout, recipe.lr)",
        "Bring snp_lib here to the version that made it",
    )
    with pytest.raises(OutdatedError):
        transport.check(packed)
    for field, value in (("name", "../evil"), ("scale", "vast")):
        with unchecked():
            refused(described(smoke, **{field: value}), "experiment that this catalogue does not have")


def test_packing_refuses_what_no_reader_could_take(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delitem(experiments.CATALOGUE, "cct-test")
        with pytest.raises(StoreError, match=r"this catalogue does not have: unknown experiment 'cct-test'"):
            transport.pack(source, tmp_path / "out")
    npz_of_measurement = derived.folder(source, "runs") / "count.npz"
    whole = npz_of_measurement.read_bytes()
    npz_of_measurement.write_bytes(b"x")
    with pytest.raises(StoreError, match=r"cannot read the measurement .*count.npz"):
        transport.pack(source, tmp_path / "out")
    npz_of_measurement.write_bytes(whole)
    (source.path / "arrays.npz").write_bytes(b"other")
    with pytest.raises(StoreError, match=r"arrays.npz was changed since the run was read"):
        transport.pack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def here(packed: Path, source: Run) -> Path:
    """Another run of the same id already stands among the runs: it was made on another day."""
    target = Path(shutil.copytree(source.path, packed.parent.parent / "runs" / ID))
    (target / "manifest.json").write_bytes(seal(source.manifest | {"date": "2026-01-01"}))
    return target


def test_another_run_of_that_id_is_replaced_only_when_asked(here: Path, source: Run, packed: Path) -> None:
    refused(packed, f"was not imported: {here} holds another run of this id", "--replace")
    assert transport.unpack(packed, replace=True).path == here
    assert sorted(tree(here)) == ["arrays.npz", "manifest.json"]
    assert store.read(here).manifest == source.manifest


def test_the_same_run_stays_as_it_stands_and_gets_what_it_lacks(packed: Path, source: Run) -> None:
    target = Path(shutil.copytree(source.path, packed.parent.parent / "runs" / ID))
    before = tree(target)
    for replacing in (False, True):
        assert transport.unpack(packed, replace=replacing).path == target
        assert tree(target) == before  # its weights, which the file does not bring, are still there
    (target / "weights.safetensors").unlink()
    transport.unpack(pack(source, packed.parent, weights=True))
    assert store.read(target).network()
    (target / "arrays.npz").write_bytes(b"x")
    refused(packed, "holds another run of this id")
    transport.unpack(packed, replace=True)
    assert store.read(target).manifest == source.manifest


def test_a_measurement_with_other_options_is_not_overwritten(packed: Path, source: Run) -> None:
    arrived = transport.unpack(packed)
    shutil.rmtree(derived.folder(arrived, "runs"))
    derived.derived(arrived, "count", {"theta": 0.4}, lambda: {"x": np.zeros(1)})
    shutil.rmtree(arrived.path)
    before = tree(packed.parent.parent)
    with pytest.raises(StoreError, match=r"count.json was made with other options than the new one: delete the one that is not wanted"):
        transport.unpack(packed)
    assert tree(packed.parent.parent) == before


@pytest.mark.parametrize("function", ["rename", "replace", "fsync"])
def test_a_full_disk_leaves_what_stood_whole(function: str, here: Path, packed: Path, source: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, runs, before = getattr(os, function), here.parent, tree(here)
    for call in range(1, 20):
        calls = []

        def full(*args: Any, calls: list[Any] = calls, call: int = call, **options: Any) -> object:
            calls.append(args)
            if len(calls) == call:
                raise OSError(28, "No space left on device")
            return real(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            try:
                transport.unpack(packed, replace=True)
                break
            except StoreError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
        assert tree(here) in (before, {name: (source.path / name).read_bytes() for name in ("arrays.npz", "manifest.json")})
        assert sorted(p.name for p in runs.iterdir() if p.name not in (".locks", "derived")) == [ID]
    assert len(calls) < call <= 20
    assert transport.unpack(packed, replace=True).manifest == source.manifest


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_file_whole(function: str, packed: Path, source: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    before = tree(packed.parent)
    monkeypatch.setattr(os, function, full)
    with pytest.raises(StoreError, match=rf"cannot write {packed}: .*No space left.*Make room"):
        pack(source, packed.parent, weights=True)
    assert tree(packed.parent) == before


def test_the_commands_carry_a_run_from_machine_to_machine(
    source: Run, catalogue: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, there = catalogue / "out", catalogue / "there"
    assert cli.main(["record", "cct-test", "--scale", "smoke", "--to", str(out), "--weights"]) == 0
    file = out / f"{ID}.snprun"
    assert capsys.readouterr().out == f"{ID}: {file} ({file.stat().st_size / 1e6:.1f} MB)\n"
    assert not (catalogue / "records").exists()
    monkeypatch.setenv("SNP_RUNS_DIR", str(there))
    assert cli.main(["import", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{ID}: {there / ID} (")
    assert cli.main(["import", str(out / "none.snprun"), str(file), "--to", "records"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"none: {out / 'none.snprun'} is refused: no plain file")
    assert second.startswith(f"{ID}: {catalogue / 'records' / ID} (")
    assert cli.main(["record", "cct-test", "--scale", "smoke", "--weights"]) == 1
    assert capsys.readouterr().err == "snp: --weights goes with --to DIR; a committed record holds no weights\n"


def half_weights(run: Run, path: Path) -> Path:
    """Weights as a file of their own, which vouches for nothing."""
    tensors = load_file(run.path / weights.FULL)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(save({name: tensor.half() for name, tensor in tensors.items()}))
    return path


def test_weights_that_travelled_apart_are_those_of_the_run(packed: Path, source: Run, tmp_path: Path) -> None:
    arrived = transport.unpack(packed, weights=half_weights(source, tmp_path / "apart" / "weights.safetensors"))
    assert (arrived.path / weights.HALF).exists()
    for name, tensor in source.network().state_dict().items():
        assert torch.equal(arrived.network().state_dict()[name], tensor.half().to(tensor.dtype)), name
    assert arrived.readouts().keys() == source.readouts().keys()


def test_weights_of_another_run_are_refused(packed: Path, source: Run, tmp_path: Path) -> None:
    tensors = load_file(source.path / weights.FULL)
    path = tmp_path / "weights.safetensors"
    for change, message in (
        (lambda: tensors.update({"readout.block2.linear.weight": -tensors["readout.block2.linear.weight"]}), "it belongs to another run"),
        (lambda: tensors.pop("model.norm.bias"), "the tensor 'model.norm.bias' is missing"),
    ):
        change()
        path.write_bytes(save({name: tensor.half() for name, tensor in tensors.items()}))
        with pytest.raises(StoreError, match=f"cannot read {re.escape(str(path))}: .*{message}"):
            transport.unpack(packed, weights=path)
        assert not [found for found in (packed.parent.parent / "runs").glob("*") if found.name != ".locks"]
    with pytest.raises(ValueError, match="a committed record holds no weights"):
        transport.unpack(packed, to="records", weights=path)
    assert cli.main(["import", str(packed), str(packed), "--weights", str(path)]) == 1
