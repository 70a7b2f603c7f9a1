"""Manifests vouch for themselves: no changed bit and no odd value passes, ends in a traceback or reaches a reader."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snp_lib import store
from snp_lib.book.reporting import provenance
from snp_lib.models import configuration
from snp_lib.store import OutdatedError, StoreError, derived, upkeep
from snp_lib.store.manifest import seal

RUNS = ("cct-small-s0", "resnet-small-s0", "flowers-small-s0", "cct-h2-wide-small-s3")

ODD: list[Any] = [None, True, False, 0, -1, 7, 10**400, 0.5, -0.0, 1e999, float("nan"), "", "x", "\ud800", "a\nb", "2026-13-40", [], [[]],
                  {}, {"x": None}, [None], "0" * 64, "0" * 12, "stem", 3.0, "3"]  # fmt: skip


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of some committed records with their measurements."""
    folder = tmp_path_factory.mktemp("vouching") / "records"
    for name in RUNS:
        for kind in (Path(name), Path("derived") / name):
            if (store.root("records") / kind).is_dir():
                shutil.copytree(store.root("records") / kind, folder / kind)
    return folder


def use(path: Path) -> object:
    """Read a manifest as every reader does, and what a reader then asks for; returns its content."""
    if path.name != "manifest.json":
        return derived.check(path)
    run = store.read(path.parent)
    _ = run.metrics, run.history, run.depth, run.num_heads, run.class_names, provenance([run])
    for site in list(run.sites)[:2]:
        run.matrices(site)
    assert all(0 <= run.metrics["readout_accuracy"][site] <= 1 for site in run.sites)
    return run.manifest


def refused(path: Path, content: bytes) -> bool:
    """Whether a manifest with other bytes is refused in one sentence; its place is as before then."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        use(path)
    except StoreError as error:
        return "\n" not in str(error)
    finally:
        path.write_bytes(before)
    return False


def fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every field of a JSON value stands."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from fields(inner, (*path, key))


def altered(manifest: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The manifest with one field changed to an odd value, dropped, or joined by another."""
    manifest = copy.deepcopy(manifest)
    known = list(fields(manifest))
    *path, last = known[rng.integers(len(known))]
    inner: Any = manifest
    for key in path:
        inner = inner[key]
    way = rng.integers(6)
    if way == 0:
        del inner[last]
    elif way == 1 and isinstance(inner, dict):
        inner["x" * int(rng.integers(3))] = copy.deepcopy(inner[last])
    else:
        inner[last] = copy.deepcopy(ODD[rng.integers(len(ODD))])
    return manifest


def resealed(manifest: dict[str, Any]) -> bytes:
    """Its bytes with the digest that belongs to it, as a careful forger would make them, where there can be one."""
    try:
        return seal(manifest)
    except (ValueError, KeyError):
        return json.dumps(manifest, indent=1).encode() + b"\n"


def flips(paths: list[Path], count: int, seed: int) -> int:
    """How many single changed bits pass."""
    rng, passed = np.random.default_rng(seed), 0
    for _ in range(count):
        path = paths[rng.integers(len(paths))]
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        passed += not refused(path, bytes(content))
    return passed


Pair = tuple[dict[str, Any], dict[str, Any]]


def oddities(paths: list[Path], count: int, seed: int, write: Callable[[dict[str, Any]], bytes]) -> list[Pair]:
    """The manifests with odd values that pass, each beside what it was."""
    rng, passed = np.random.default_rng(seed), []
    for _ in range(count):
        path = paths[rng.integers(len(paths))]
        manifest = json.loads(path.read_bytes())
        other = altered(manifest, rng)
        if json.dumps(other) != json.dumps(manifest) and not refused(path, write(other)):
            passed.append((manifest, other))
    return passed


def manifests(records: Path) -> tuple[list[Path], list[Path]]:
    return sorted(records.glob("*/manifest.json")), sorted(records.glob("derived/*/*.json"))


def test_no_changed_bit_passes(records: Path) -> None:
    for paths, seed in zip(manifests(records), (1, 2), strict=True):
        assert flips(paths, 100, seed) == 0


def test_no_odd_value_passes(records: Path) -> None:
    for paths, seed in zip(manifests(records), (3, 4), strict=True):
        assert oddities(paths, 100, seed, lambda manifest: json.dumps(manifest, indent=1).encode() + b"\n") == []


def unlike(manifest: Any, other: Any) -> list[tuple[Any, ...]]:
    """The fields in which two manifests differ; null is as good as nothing."""
    first, second = ({path: json.dumps(value_at(value, path)) for path in fields(value)} for value in (manifest, other))
    return sorted((path for path in first.keys() | second.keys() if first.get(path, "null") != second.get(path, "null")), key=len)


def value_at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


FREE = {"libraries", "device", "training_seconds", "data_checksum", "class_names", "date", "code", "processes", "threads", "precision",
        "compiled", "history", "metrics", "files", "num_heads"}  # fmt: skip


def test_with_a_digest_of_its_own_only_a_fitting_value_passes(records: Path) -> None:
    """Who can write the digest can write what is in range; it still reads, and everything that identifies the run is compared."""
    runs, measurements = manifests(records)
    for manifest, other in oddities(runs, 200, 5, resealed):
        assert {path[0] for path in unlike(manifest, other)} <= FREE | {"digest"}, unlike(manifest, other)
    for manifest, other in oddities(measurements, 100, 6, resealed):
        assert {path[0] for path in unlike(manifest, other)} <= {"digest", "experiment", "run", "options", "code", "date"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["metrics"].update(parameters=None), "metrics.parameters must be an integer of at least 1, not None"),
        (lambda m: m["metrics"]["readout_accuracy"].update(block1=None), r"metrics.readout_accuracy.block1 must be a number in \[0, 1\]"),
        (lambda m: m["metrics"].update(test_accuracy=True), r"metrics.test_accuracy must be a number in \[0, 1\], not True"),
        (lambda m: m["history"][3].update(lr="fast"), r"history\[3\].lr must be a number in \[0, 1e\+300\], not 'fast'"),
        (lambda m: m.update(device=None), "device must be a line of text, not None"),
        (lambda m: m.update(date="2026-02-30"), "date must be a date such as 2026-11-26, not '2026-02-30'"),
        (lambda m: m.update(threads=True), "threads must be an integer of at least 1, not True"),
        (lambda m: m.pop("training_hash"), "the field training_hash is missing"),
        (lambda m: m["experiment"].pop("scale"), "the field scale of experiment is missing"),
        (lambda m: m["experiment"].update(scale=3), "experiment.scale must be a line of text, not 3"),
        (lambda m: m.update(extra=1), "the field 'extra' is unknown"),
        (lambda m: m["sites"].update(cellar=3), "a name in sites must be a site such as block1.mha, not 'cellar'"),
        (lambda m: m["history"].pop(), "not that of a finished run: incomplete in history"),
        (lambda m: m["files"].update({"snapshot-777.safetensors": "0" * 64}), "not that of a finished run: incomplete in files"),
        (lambda m: m.update(num_heads=3), "not that of a finished run: incomplete in num_heads"),
        (lambda m: m.update(hash="0" * 12), "contradicts itself: its hash is 000000000000, that of its description "),
    ],
)
def test_the_field_that_is_amiss_is_named(change: Callable[[dict[str, Any]], object], message: str, records: Path) -> None:
    path = records / "cct-small-s0" / "manifest.json"
    before = path.read_bytes()
    manifest = json.loads(before)
    change(manifest)
    path.write_bytes(seal(manifest))
    try:
        with pytest.raises(StoreError, match=rf"^cannot read the run {path.parent}: {message}"):
            store.read(path.parent)
    finally:
        path.write_bytes(before)


NESTED = b'{"format": ' * 900 + b"1" + b"}" * 900


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"null", b"[" * 100_000, NESTED, b"NaN", b'"digest"'])
def test_what_is_no_manifest_is_refused(content: bytes, records: Path) -> None:
    for paths in manifests(records):
        assert refused(paths[0], content)


def test_a_default_that_changed_in_the_library_is_refused_by_its_name(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = json.loads((records / "cct-small-s0" / "manifest.json").read_bytes())
    assert manifest["model"]["conv_channels"] == 64
    assert manifest["model"].keys() == asdict(store.read(records / "cct-small-s0").network(0).config).keys()
    monkeypatch.setattr(
        "snp_lib.store.manifest.configuration", lambda name, **options: configuration(name, **{"conv_channels": 32} | options)
    )
    with pytest.raises(OutdatedError, match=r"made by another definition of cct-small-s0 \(differs in model.conv_channels\)"):
        store.read(records / "cct-small-s0")


def without_digest(path: Path) -> bytes:
    """Make a manifest what it was before there were digests; returns what it was until now."""
    before = path.read_bytes()
    manifest = {field: value for field, value in json.loads(before).items() if field not in ("digest", "model")}
    path.write_bytes(json.dumps(manifest, indent=1).encode() + b"\n")
    return before


def test_manifests_from_before_digests_are_upgraded_once_and_explicitly(records: Path) -> None:
    paths = [records / "cct-small-s0" / "manifest.json", records / "derived" / "cct-small-s0" / "stage-001.json"]
    for path, done, again in zip(paths, ("upgraded", "1 of "), ("has its digest already", "0 of "), strict=True):
        before = without_digest(path)
        with pytest.raises(StoreError, match=r"was made before manifests had a digest. `snp upgrade` adds it after a full check\.$"):
            use(path)
        assert upkeep.upgrade(path.parent).startswith(done)
        assert path.read_bytes() == before
        assert upkeep.upgrade(path.parent).startswith(again)
        assert [file.name for file in path.parent.iterdir() if "partial" in file.name] == []


def test_what_is_damaged_gets_no_digest(records: Path) -> None:
    run, measured = records / "cct-small-s0", records / "derived" / "cct-small-s0"
    for path, data in ((run / "manifest.json", run / "arrays.npz"), (measured / "stage-001.json", measured / "stage-001.npz")):
        before, whole = without_digest(path), data.read_bytes()
        old = path.read_bytes()
        data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(StoreError, match="SHA-256"):
            upkeep.upgrade(path.parent)
        assert path.read_bytes() == old
        data.write_bytes(whole)
        path.write_bytes(old.replace(b'"format"', b'"farmat"'))
        with pytest.raises(StoreError, match="has format None"):
            upkeep.upgrade(path.parent)
        path.write_bytes(before)
