"""A set travels as few files of limited size, and arrives whole or not at all."""

from __future__ import annotations

import itertools
import random
import shutil
import tarfile
from pathlib import Path

import pytest
from shared import unchecked

from snp_lib.store import StoreError, bundle, records


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five files of different sizes that say they are transport files."""
    draw, folder = random.Random(0), tmp_path / "packed"
    folder.mkdir()
    paths = [folder / f"cct-h{i}-smoke-s0.snprun" for i in range(5)]
    for path in paths:
        path.write_bytes(draw.randbytes(draw.randrange(1, 40_000)))
    return paths


@pytest.mark.parametrize("limit", [1_000, 30_000, 10**9])
def test_what_is_bundled_arrives_whatever_the_size_of_a_part(files: list[Path], tmp_path: Path, limit: int) -> None:
    parts = bundle.write(tmp_path / "out", "set-smoke", files, limit=limit)
    assert max(part.stat().st_size for part in parts) <= limit
    assert len(parts) == -(-sum(part.stat().st_size for part in parts) // limit)
    (full,) = {part.name.rpartition("-")[0] for part in parts}
    assert [part.name for part in parts] == [f"{full}-{i}of{len(parts)}.snpset" for i in range(1, len(parts) + 1)]
    assert full.startswith("set-smoke-")
    random.Random(1).shuffle(parts)
    arrived = bundle.unpack(parts, _new(tmp_path / "arrived"))
    assert {path.name: path.read_bytes() for path in arrived} == {path.name: path.read_bytes() for path in files}


def test_a_bundle_that_grows_leaves_no_part_of_the_one_before(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = bundle.write(out, "other", files[:1], limit=1_000)
    for count in (1, 3, 5, 2):
        parts = bundle.write(out, "set", files[:count], limit=20_000)
        assert sorted(out.glob("set-*")) == sorted(parts)
        assert len(bundle.unpack(parts, _new(tmp_path / f"arrived{count}"))) == count
    assert all(part.exists() for part in other)


def test_equal_files_give_equal_bytes(files: list[Path], tmp_path: Path) -> None:
    first = bundle.write(tmp_path / "one", "set", files, limit=20_000)
    again = bundle.write(tmp_path / "two", "set", files[::-1], limit=20_000)
    assert [part.read_bytes() for part in first] == [part.read_bytes() for part in again]


def test_a_missing_part_is_named(files: list[Path], tmp_path: Path) -> None:
    parts = bundle.write(tmp_path / "out", "set", files, limit=20_000)
    for i, part in enumerate(parts, start=1):
        rest = [other for other in parts if other != part]
        with pytest.raises(
            StoreError, match=rf"part {i} of {len(parts)} of the bundle set-\w+ is missing: give set-\w+-{i}of{len(parts)}.snpset"
        ):
            bundle.unpack(rest, tmp_path)


def test_parts_that_do_not_belong_together_are_refused(files: list[Path], tmp_path: Path) -> None:
    one, other = (bundle.write(tmp_path / name, name, files, limit=20_000) for name in ("one", "other"))
    with pytest.raises(StoreError, match="parts of different bundles"):
        bundle.unpack([one[0], *other[1:]], tmp_path)
    stray = tmp_path / "file.snpset"
    stray.write_bytes(b"")
    with pytest.raises(StoreError, match="is no part of a bundle"):
        bundle.unpack([stray], tmp_path)


def test_a_part_cut_short_is_refused(files: list[Path], tmp_path: Path) -> None:
    parts = bundle.write(tmp_path / "out", "set", files, limit=20_000)
    for part, cut in itertools.product(parts[:-2], (1, 600, 12_000, 20_000)):  # the last ones may end in mere padding
        content = part.read_bytes()
        part.write_bytes(content[:-cut])
        with pytest.raises(StoreError, match=r"the bundle set-\w+ is damaged|has no place in it"):
            bundle.unpack(parts, _new(tmp_path / f"arrived {part.name} {cut}"))
        part.write_bytes(content)


@pytest.mark.parametrize("name", ["../outside.snprun", "folder/outside.snprun", "notes.txt", ".hidden.snprun"])
def test_a_name_that_points_elsewhere_is_refused(files: list[Path], tmp_path: Path, name: str) -> None:
    part = tmp_path / "set-0123abcd-1of1.snpset"
    (tmp_path / "marker").write_text('{"format": "snp-bundle-1", "members": {}}', encoding="utf-8")
    with tarfile.open(part, "w") as tar:
        tar.add(tmp_path / "marker", bundle.MARKER)
        tar.add(files[0], name)
    with pytest.raises(StoreError, match="has no place in it"):
        bundle.unpack([part], _new(tmp_path / "arrived"))
    assert not list((tmp_path / "arrived").iterdir())


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_byte_changed_or_a_member_added_is_noticed(files: list[Path], tmp_path: Path) -> None:
    (part,) = bundle.write(tmp_path / "out", "set", files)
    content = part.read_bytes()
    for trial in range(30):
        place = random.Random(trial).randrange(len(content) - 10_240)
        part.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        folder = _new(tmp_path / f"flipped{trial}")
        try:
            arrived = bundle.unpack([part], folder)
        except StoreError:
            assert not list(folder.iterdir())
        else:  # in the padding, or in a date
            assert {path.name: path.read_bytes() for path in arrived} == {path.name: path.read_bytes() for path in files}
    part.write_bytes(content)
    with tarfile.open(part, "a") as tar:
        tar.add(files[0], "more.snprun")
    with pytest.raises(StoreError, match=r"not those that were packed"):
        bundle.unpack([part], _new(tmp_path / "more"))


def test_a_disk_that_is_full_in_the_middle_leaves_the_bundle_before(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    before = bundle.write(out, "set", files[:4], limit=20_000)
    written, replace_file = iter(range(2)), bundle.replace_file

    def full(target: Path, content: bytes) -> Path:
        if next(written, None) is None:
            raise OSError("no space left on device")
        return replace_file(target, content)

    monkeypatch.setattr(bundle, "replace_file", full)
    with pytest.raises(StoreError, match="no space left on device"):
        bundle.write(out, "set", files, limit=20_000)
    groups = bundle.bundles(bundle.parts_of(out, "set"))
    assert len(groups) == 2
    assert before in groups
    assert len(bundle.unpack(before, _new(tmp_path / "arrived"))) == 4


def test_a_newer_bundle_is_said_to_be_newer(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "FORMAT", "snp-bundle-2")
    parts = bundle.write(tmp_path / "out", "set", files)
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"set-\w+ has format 'snp-bundle-2', newer than 'snp-bundle-1'.*Update snp_lib here\.$"):
        bundle.unpack(parts, _new(tmp_path / "arrived"))


def test_runs_join_those_that_are_there_wherever_they_were_made(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(run: Path, folder: str, *, weights: bool) -> Path:
        return Path(shutil.copy(run, folder))

    monkeypatch.setattr(records.transport, "pack", pack)
    out = tmp_path / "out"
    with unchecked():
        for number, file in enumerate(files):
            monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / f"runs{number}"))
            records.keep(file, out, bundle="set")  # type: ignore[arg-type]
            arrived = bundle.unpack(bundle.parts_of(out, "set"), _new(tmp_path / f"arrived{number}"))
            assert [path.name for path in arrived] == [path.name for path in files[: number + 1]]
        records.keep(files[0], tmp_path / "elsewhere", bundle="set")  # type: ignore[arg-type]
    assert len(bundle.unpack(bundle.parts_of(tmp_path / "elsewhere", "set"), _new(tmp_path / "there"))) == 1
