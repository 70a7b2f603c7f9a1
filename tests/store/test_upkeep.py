"""Checking what is stored: every byte of it, a line each, and advice to delete only what is ours."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from snp_lib import cli, store
from snp_lib.store import Run, StoreError, derived, records, transport, upkeep

ID = "cct-test-smoke-s0"


@pytest.fixture
def run(catalogue: Path, smoke_run: Run) -> Run:
    """A run and its record, each with a measurement."""
    shutil.copytree(smoke_run.path, catalogue / "runs" / ID)
    run = store.read(catalogue / "runs" / ID)
    derived.derived(run, "count", {"theta": 0.3}, lambda: {"x": np.arange(5)})
    records.keep(run)
    return run


def lines(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    assert cli.main([*arguments]) == code
    printed = capsys.readouterr()
    return (printed.out + printed.err).splitlines()


def test_verify_prints_a_line_for_each_and_fails_if_any_does(run: Run, catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine = [f"{ID}: test accuracy {run.metrics['test_accuracy']:.2%}, ", f"derived/{ID}: 1 measurements, "] * 2
    found = lines(capsys, "verify")
    assert all(line.startswith(start) and line.endswith(" MB, OK") for line, start in zip(found, fine, strict=True))
    assert lines(capsys, "verify", str(catalogue / "runs"), str(catalogue / "records")) == found
    assert lines(capsys, "verify", str(run.path)) == found[:1]
    assert lines(capsys, "verify", str(catalogue / "records" / "derived")) == found[3:]
    packed = transport.pack(run, catalogue)
    assert lines(capsys, "verify", str(packed))[0].startswith(fine[0])
    shutil.copytree(run.path, run.path.with_name("renamed"))
    (run.path / "arrays.npz").unlink()
    (catalogue / "records" / "derived" / ID / "count.npz").write_bytes(b"x")
    found = lines(capsys, "verify", code=1)
    assert [line.endswith("OK") for line in found] == [False, False, True, True, False]
    assert "a run is only found in a folder of its own name" in found[1]
    assert "count.npz: its SHA-256 is not the one its manifest vouches for. Delete it to make it again." in found[4]


@pytest.mark.parametrize("verb", ["verify", "upgrade"])
def test_what_is_no_run_is_not_named_for_deletion(
    verb: str, run: Run, catalogue: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "data").mkdir()
    for path in (elsewhere, elsewhere / "data", catalogue):
        assert lines(capsys, verb, str(path), code=1) == [f"snp: {path} is no run (it has no manifest.json) and holds none"]
    copy = Path(shutil.copytree(run.path, elsewhere / ID))
    for folder, ours in ((copy, False), (run.path, True)):
        (folder / "manifest.json").write_bytes(b"{}")
        (message,) = lines(capsys, verb, str(folder), code=1)
        assert message.startswith(f"{ID}: cannot read the run {folder}: has format None")
        assert ("Delete the folder" in message) == ours
    (run.path / "manifest.json").unlink()
    assert lines(capsys, verb, str(run.path), code=1) == [f"{ID}: {run.path} is no run: it has no manifest.json"]
    with pytest.raises(StoreError, match=r"is no run: it has no manifest.json$"):
        store.find(run.experiment)


def test_a_measurement_elsewhere_is_not_named_for_deletion(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(derived.folder(run, "runs"), tmp_path / "elsewhere" / "derived" / ID))
    (copy / "count.npz").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"vouches for\.$"):
        upkeep.verify(copy)


def test_nothing_to_check_is_no_success(own_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("verify", "upgrade"):
        assert "there is nothing to check in" in lines(capsys, verb, code=1)[0]


def test_upgrade_leaves_what_has_a_digest(run: Run, catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in catalogue.rglob("*.json")}
    assert lines(capsys, "upgrade") == [f"{ID}: has its digest already", f"derived/{ID}: 0 of 1 measurements upgraded"] * 2
    assert {path: path.read_bytes() for path in catalogue.rglob("*.json")} == before
    packed = transport.pack(run, catalogue)
    assert "stays as it was packed" in lines(capsys, "upgrade", str(packed), code=1)[0]
