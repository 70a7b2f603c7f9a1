"""Transport files: equal runs are equal bytes, and whatever is not the run that was packed is refused, nothing written."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shortened, unchecked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snp_lib import cli, contents, experiments, store, transport
from snp_lib.store import Run, StoreError

ID = "cct-test-smoke-s0"
Members = dict[str, bytes]
shared = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])  # a refusal leaves the folder as it was


@pytest.fixture
def packed(catalogue: Path, smoke_run: Run) -> Path:
    """The shared run, packed without its weights."""
    return transport.pack(smoke_run, catalogue)


@pytest.fixture
def here(packed: Path, smoke_run: Run) -> Path:
    """Another run of the same id already stands among the runs, marked by a byte at the end of its manifest."""
    target = packed.parent / "runs" / ID
    shutil.copytree(smoke_run.path, target)
    (target / "manifest.json").write_bytes((target / "manifest.json").read_bytes() + b"\n")
    return target


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def refused(path: Path, *messages: str, **options: Any) -> None:
    """The file is refused by a message that names it and holds these, and nothing on disk changes."""
    before = tree(path.parent)
    with pytest.raises(StoreError) as error:
        transport.unpack(path, **options)
    for message in (str(path), *messages):
        assert message in str(error.value)
    assert tree(path.parent) == before


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist() if name != transport.MARKER}


def forge(path: Path, *, arrays: bytes | None = None, change: Callable[[dict[str, Any]], object] | None = None) -> None:
    """Pack altered contents with every SHA-256 made to agree, as a careful forger would."""
    members = members_of(path)
    manifest = json.loads(members["manifest.json"])
    if arrays is not None:
        members["arrays.npz"] = arrays
        manifest["files"]["arrays.npz"] = hashlib.sha256(arrays).hexdigest()
    if change is not None:
        change(manifest)
    path.write_bytes(transport._zip(members | {"manifest.json": json.dumps(manifest).encode()}))


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def rezip(path: Path, edit: Callable[[zipfile.ZipInfo], object], extra: tuple[str, ...] = ()) -> None:
    """Write the file anew with each entry edited, and these further members."""
    with zipfile.ZipFile(path) as file:
        parts = [(info, file.read(info)) for info in file.infolist()]
    with zipfile.ZipFile(path, "w") as file:
        for info, content in parts:
            edit(info)
            file.writestr(info, content, compress_type=info.compress_type)
        for name in extra:
            file.writestr(name, b"x")


@pytest.mark.parametrize("weights", [False, True])
def test_a_run_travels_without_losing_a_byte(weights: bool, packed: Path, smoke_run: Run) -> None:
    path = transport.pack(smoke_run, packed.parent / "deep" / "er", weights=weights)
    assert [p.name for p in path.parent.iterdir()] == [f"{ID}.snprun"]
    assert transport.verify(path) == smoke_run.manifest
    arrived = transport.unpack(path)
    assert arrived.path == packed.parent / "runs" / ID
    assert tree(arrived.path) == {k: v for k, v in tree(smoke_run.path).items() if weights or k != "weights.safetensors"}
    assert [p.name for p in arrived.path.parent.iterdir() if p.name != ".locks"] == [ID]
    assert store.find(shortened()) == arrived
    assert transport.pack(arrived, packed.parent / "back", weights=weights).read_bytes() == path.read_bytes()


def test_equal_runs_are_equal_bytes_whatever_the_machine() -> None:
    """The layout is fixed to the byte, so that a file packed elsewhere is not taken for a damaged one."""
    data = transport._zip({"manifest.json": b"{}\n", "arrays.npz": b"abc"})
    assert len(data) == 545
    assert hashlib.sha256(data).hexdigest() == "35b5b34ca98a299e955aa9a9f6cf7afa39ab671f050d81199f8d2992dd81e123"


def test_a_record_comes_without_weights(packed: Path, smoke_run: Run) -> None:
    path = transport.pack(smoke_run, packed.parent, weights=True)
    assert transport.unpack(path, to="records").path == packed.parent / "records" / ID
    assert sorted(tree(packed.parent / "records" / ID)) == ["arrays.npz", "manifest.json"]
    assert not (packed.parent / "runs" / ID).exists()
    with pytest.raises(StoreError, match="has no weights: records come without"):
        transport.pack(store.read(packed.parent / "records" / ID), packed.parent, weights=True)


def test_packing_refuses_what_no_reader_could_take(catalogue: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    target = catalogue / "runs" / ID
    shutil.copytree(smoke_run.path, target)
    with monkeypatch.context() as patch:
        patch.setitem(transport.LIMITS, "arrays.npz", 1000)
        with pytest.raises(StoreError, match=r"arrays.npz is compressed or takes more than 1,000 bytes"):
            transport.pack(store.read(target), catalogue / "out")
    with monkeypatch.context() as patch:
        patch.delitem(experiments.CATALOGUE, "cct-test")
        with pytest.raises(StoreError, match=r"this catalogue does not have: unknown experiment 'cct-test'"):
            transport.pack(smoke_run, catalogue / "out")
    (target / "arrays.npz").write_bytes(b"other")
    with pytest.raises(StoreError, match=r"arrays.npz is damaged"):
        transport.pack(Run(smoke_run.experiment, target, smoke_run.manifest), catalogue / "out")
    assert not (catalogue / "out").exists()


@shared
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_is_refused(share: float, here: Path, packed: Path) -> None:
    cut = packed.with_name("cut.snprun")
    whole = packed.read_bytes()
    cut.write_bytes(whole[: int(share * len(whole))])
    refused(cut, "Copy it again", replace=True)


@shared
@given(share=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_anywhere_is_refused(share: float, flip: int, here: Path, packed: Path) -> None:
    changed = packed.with_name("changed.snprun")
    data = bytearray(packed.read_bytes())
    data[int(share * len(data))] ^= flip
    changed.write_bytes(data)
    refused(changed, "Copy it again", replace=True)


def test_a_changed_bit_of_the_zip_directory_and_of_every_header_is_refused(packed: Path) -> None:
    whole = packed.read_bytes()
    with zipfile.ZipFile(packed) as file:
        headers = [range(info.header_offset, info.header_offset + 30 + len(info.filename)) for info in file.infolist()]
        offsets = [n for header in headers for n in header] + list(range(file.start_dir, len(whole)))
    assert len(offsets) == 318
    before = tree(packed.parent)
    for offset, bit in itertools.product(offsets, range(8)):
        data = bytearray(whole)
        data[offset] ^= 1 << bit
        with pytest.raises(StoreError, match="Copy it again"):
            transport._open(bytes(data), packed)
    assert tree(packed.parent) == before


def test_bytes_before_behind_and_between_are_refused(packed: Path) -> None:
    whole = packed.read_bytes()
    for data in (b"#!/bin/sh\n" + whole, whole + b"\0", whole + whole):
        packed.write_bytes(data)
        refused(packed, "Copy it again")


def test_what_is_no_plain_file_is_refused(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(packed.with_name("nothing.snprun"), "cannot read", "snp record")
    os.mkfifo(packed.with_name("pipe.snprun"))
    with pytest.raises(StoreError, match=r"pipe.snprun: no plain file"):
        transport.verify(packed.with_name("pipe.snprun"))
    packed.with_name("text.snprun").write_text("no zip")
    refused(packed.with_name("text.snprun"), "no transport file: File is not a zip file")
    monkeypatch.setattr(transport, "LIMITS", dict.fromkeys(transport.LIMITS, 10))
    refused(packed, "no plain file of at most 40 bytes")


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("snp-transport-2", "newer than 'snp-transport-1', which this version reads. Update snp_lib here."),
        ("snp-transport-0", "older than 'snp-transport-1', which this version reads. Make it again with an up-to-date snp_lib."),
        ("holiday-pictures-1", "has format 'holiday-pictures-1'; this version reads 'snp-transport-1'"),
    ],
)
def test_another_version_says_which_side_is_newer(format: str, message: str, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = members_of(packed)
    with monkeypatch.context() as patch:
        patch.setattr(transport, "FORMAT", format)
        packed.write_bytes(transport._zip(members))
    refused(packed, message)


def test_another_version_of_the_manifest_says_which_side_is_newer(packed: Path) -> None:
    forge(packed, change=lambda m: m.update(format="snp-run-2"))
    refused(packed, "has format 'snp-run-2', newer than 'snp-run-1'")
    forge(packed, change=lambda m: m.update(format=["snp-run-1"]))
    refused(packed, "has format ['snp-run-1']")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("extra", ["../../evil", "/etc/evil", "arrays.npz", "notes.txt", "..\\evil"])
def test_members_other_than_the_expected_are_refused(extra: str, packed: Path) -> None:
    rezip(packed, lambda info: None, extra=(extra,))
    refused(packed, "it holds 'snprun.json', 'manifest.json', 'arrays.npz', ")


def test_a_missing_member_is_refused(packed: Path) -> None:
    members = members_of(packed)
    for name in members:
        packed.write_bytes(transport._zip({k: v for k, v in members.items() if k != name}))
        refused(packed, "it holds 'snprun.json'")


def test_links_and_compressed_members_are_refused(packed: Path) -> None:
    whole = packed.read_bytes()
    rezip(packed, lambda info: None)
    assert packed.read_bytes() == whole  # what follows is refused for its edit alone
    rezip(packed, lambda info: setattr(info, "external_attr", (stat.S_IFLNK | 0o777) << 16))
    refused(packed, "differs from what its members pack to")
    packed.write_bytes(whole)
    rezip(packed, lambda info: setattr(info, "compress_type", zipfile.ZIP_DEFLATED))
    refused(packed, "snprun.json is compressed")
    packed.write_bytes(whole)
    rezip(packed, lambda info: setattr(info, "compress_type", zipfile.ZIP_DEFLATED if info.filename == "arrays.npz" else 0))
    refused(packed, "arrays.npz is compressed")


def test_members_that_are_not_those_vouched_for_are_refused(packed: Path, smoke_run: Run) -> None:
    members = members_of(packed)
    packed.write_bytes(transport._zip(members | {"arrays.npz": npz(smoke_run.arrays | {"labels": smoke_run.labels[::-1]})}))
    refused(packed, "arrays.npz is not the one its manifest vouches for")
    packed.write_bytes(transport._zip(members | {"weights.safetensors": b"others"}))
    refused(packed, "weights.safetensors is not the one its manifest vouches for")
    with zipfile.ZipFile(packed, "w") as file:
        hashes = dict.fromkeys(members, "0" * 64)
        file.writestr(transport.MARKER, json.dumps({"format": transport.FORMAT, "members": hashes}))
        for name, content in members.items():
            file.writestr(name, content)
    refused(packed, "manifest.json, arrays.npz altered since it was packed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.clear(), "not that of a finished run: KeyError('format')"),
        (lambda m: m.pop("sites"), "not that of a finished run: KeyError('sites')"),
        (lambda m: m.update(history=m["history"][:1]), "incomplete in history"),
        (lambda m: m["metrics"].update(test_accuracy=float("nan")), "incomplete in metrics"),
        (lambda m: m["metrics"]["readout_accuracy"].pop("block1"), "incomplete in metrics"),
        (lambda m: m["sites"].update({"block1": "48"}), "incomplete in sites"),
        (lambda m: m["files"].update({"../../evil": "0" * 64}), "incomplete in files"),
        (lambda m: m.update(metrics=None), "not that of a finished run: TypeError"),
        (lambda m: m.update(hash="0123456789ab"), "its hash is '0123456789ab', that of its description "),
        (lambda m: m["experiment"]["recipe"].update(lr=7.0), "manifest.json contradicts itself: its hash is "),
        (lambda m: m.update(training_hash="0"), "differs in its hash"),
    ],
)
def test_a_manifest_that_is_not_of_a_finished_run_is_refused(change: Any, message: str, packed: Path) -> None:
    forge(packed, change=change)
    refused(packed, message)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"null", b"[" * 100_000], ids=["empty", "list", "not text", "null", "deep"])
def test_a_manifest_that_is_no_manifest_is_refused(content: bytes, packed: Path) -> None:
    packed.write_bytes(transport._zip(members_of(packed) | {"manifest.json": content}))
    refused(packed, "is refused")


def test_another_definition_is_refused_by_the_fields_that_differ(packed: Path) -> None:
    smoke = shortened()
    changed = replace(smoke, recipe=replace(smoke.recipe, lr=1.0), model_options=smoke.model_options | {"dropout": 0.1})
    hashes = {"hash": changed.hash, "training_hash": changed.training_hash}
    forge(packed, change=lambda m: m.update(experiment=changed.describe(), **hashes))
    refused(
        packed,
        f"another definition of {ID} (differs in model_options.dropout, recipe.lr)",
        "Bring snp_lib here to the version that made it",
    )


def test_experiments_that_the_catalogue_lacks_are_refused(packed: Path) -> None:
    for field, value in (("name", "../evil"), ("scale", "vast"), ("seed", -1)):
        described = shortened().describe() | {field: value}
        forge(packed, change=lambda m, d=described: m.update(experiment=d, hash=experiments.digest(d)))
        with unchecked():
            refused(packed, "experiment that this catalogue does not have")


def with_bomb(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO(npz(arrays))
    with zipfile.ZipFile(stream) as file:
        kept = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(stream := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in kept.items():
            file.writestr(name, bytes(2_000_000) if name == "logits.npy" else content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: b"no zip", "not a zip"),
        (lambda a: npz({k: v for k, v in a.items() if k != "weight/block2.ff"}), "missing or unexpected: 'weight/block2.ff'"),
        (lambda a: npz(a | {"extra": a["labels"]}), "missing or unexpected: 'extra'"),
        (lambda a: npz(a | {"weight/block1": a["weight/block1"].astype(object)}), "Object arrays cannot be loaded"),
        (lambda a: npz(a | {"weight/block1": a["weight/block1"].T}), "'weight/block1' is float16[48, 10]; expected float16[10, 48]"),
        (lambda a: npz(a | {"weight/block1": a["weight/block1"].astype(np.float32)}), "is float32[10, 48]; expected float16"),
        (lambda a: npz(a | {"logits": a["logits"] * np.float16("nan")}), "'logits' holds numbers that are not finite"),
        (lambda a: npz(a | {"logits": a["logits"][1:]}), "'logits' is float16[449, 10]; expected float16[450, 10]"),
        (lambda a: npz(a | {"labels": a["labels"][:0], "logits": a["logits"][:0]}), "'logits' is float16[0, 10]"),
        (lambda a: npz(a | {"labels": a["labels"] + np.uint8(1)}), "'labels' holds 10; there are 10 classes"),
        (with_bomb, "bytes unpacked; a run may take 1,000,000"),
    ],
)
def test_arrays_that_the_manifest_does_not_promise_are_refused(
    change: Any, message: str, packed: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "ARRAYS_LIMIT", 1_000_000)
    forge(packed, arrays=change(dict(smoke_run.arrays)))
    refused(packed, "arrays.npz does not hold the arrays of this run", message)


def test_reading_the_arrays_of_a_stored_run_checks_them_too(here: Path, smoke_run: Run) -> None:
    (here / "arrays.npz").write_bytes(npz({"labels": smoke_run.labels}))
    with pytest.raises(StoreError, match=rf"cannot read the run {here}: .*missing or unexpected.*Delete the folder"):
        _ = Run(smoke_run.experiment, here, smoke_run.manifest).arrays


def test_another_run_of_that_id_is_replaced_only_when_asked(here: Path, packed: Path, smoke_run: Run) -> None:
    refused(packed, str(here), "another run of this id (differs in manifest.json)", "--replace")
    transport.unpack(packed, replace=True)
    assert tree(here) == {k: v for k, v in tree(smoke_run.path).items() if k != "weights.safetensors"}
    refused(transport.pack(smoke_run, packed.parent, weights=True), "differs in weights.safetensors")


def test_the_same_run_stays_as_it_stands(packed: Path, smoke_run: Run) -> None:
    target = packed.parent / "runs" / ID
    shutil.copytree(smoke_run.path, target)
    before = tree(packed.parent)
    for replacing in (False, True):
        assert transport.unpack(packed, replace=replacing).path == target
        assert tree(packed.parent) == before  # its weights, which the file does not bring, are still there


def test_a_record_that_is_too_large_is_refused(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RECORD_LIMIT", 1000)
    refused(packed, "a record may take 1,000. Keep it among your runs", to="records")


def test_an_unknown_place_is_refused(packed: Path) -> None:
    with unchecked(), pytest.raises(ValueError, match="a run goes to runs or records, got 'home'"):
        transport.unpack(packed, to="home")  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("function", ["rename", "fsync"])
def test_a_full_disk_leaves_the_old_run_whole(function: str, call: int, here: Path, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = getattr(os, function), []

    def full(*args: Any, **options: Any) -> object:
        calls.append(args)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        return real(*args, **options)

    runs, before = here.parent, tree(here)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(StoreError, match=rf"cannot write {here}: .*No space left on device.*Nothing there has changed"):
            transport.unpack(packed, replace=True)
    assert len(calls) >= call
    assert tree(here) == before
    assert sorted(p.name for p in runs.iterdir()) == [".locks", ID]
    assert transport.unpack(packed, replace=True).record == json.loads(before["manifest.json"])["files"]["arrays.npz"][:8]


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_file_whole(function: str, packed: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    before = tree(packed.parent)
    monkeypatch.setattr(os, function, full)
    with pytest.raises(StoreError, match=rf"cannot write {packed}: .*No space left"):
        transport.pack(smoke_run, packed.parent, weights=True)
    assert tree(packed.parent) == before


def test_the_commands_carry_a_run_from_machine_to_machine(
    here: Path, smoke_run: Run, packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, there = packed.parent / "out", packed.parent / "there"
    assert cli.main(["record", "cct-test", "--scale", "smoke", "--to", str(out), "--weights"]) == 0
    file = out / f"{ID}.snprun"
    assert capsys.readouterr().out == f"{ID}: {file} ({file.stat().st_size / 1e6:.1f} MB)\n"
    assert not (packed.parent / "records").exists()
    monkeypatch.setenv("SNP_RUNS_DIR", str(there))
    assert cli.main(["import", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{ID}: {there / ID} (")
    assert tree(there / ID) == tree(here)
    assert cli.main(["import", str(packed), str(file)]) == 1  # the manifest of the first lacks the mark
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{ID}: {packed} was not imported: ")
    assert second.startswith(f"{ID}: {there / ID} (")
    assert cli.main(["import", str(packed), "--replace"]) == 0
    assert cli.main(["import", str(packed), "--to", "records"]) == 0
    assert (packed.parent / "records" / ID / "arrays.npz").exists()
    assert cli.main(["record", "cct-test", "--scale", "smoke", "--weights"]) == 1
    assert capsys.readouterr().err == "snp: --weights goes with --to DIR; a committed record holds no weights\n"


def test_verify_prints_a_line_for_each_and_fails_if_any_does(here: Path, packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.promote(store.read(here))
    accuracy = f"{store.read(here).metrics['test_accuracy']:.2%}"
    before = tree(packed.parent)
    assert cli.main(["verify"]) == 0
    record, run = capsys.readouterr().out.splitlines()
    assert record.startswith(f"{ID}: test accuracy {accuracy}, ")
    assert run.startswith(f"{ID}: test accuracy {accuracy}, ")
    assert record.endswith(" MB, OK")
    (here / "arrays.npz").unlink()
    here.rename(here.with_name("another"))
    shutil.copytree(packed.parent / "records" / ID, here)
    shutil.copytree(here, here.with_name("renamed"))
    assert cli.main(["verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [ID, "another", ID, "renamed"]
    assert [line.endswith("OK") for line in lines] == [True, False, True, False]
    assert "holds cct-test-smoke-s0; a run is only found in a folder of its own name" in lines[3]
    assert cli.main(["verify", str(packed)]) == 0
    packed.write_bytes(packed.read_bytes()[:-1])
    assert cli.main(["verify", str(packed), str(here)]) == 1
    broken, whole = capsys.readouterr().out.splitlines()[1:]
    assert broken.startswith(f"{ID}: {packed} is refused: ")
    assert whole.endswith("OK")
    assert before.keys() - tree(packed.parent).keys() == {f"runs/{ID}/weights.safetensors"}
