"""Measurements that hang off a run, kept with it and with the options behind them (defined here).

A measurement is a few arrays, ``NAME.npz``, and a manifest, ``NAME.json``, in ``derived/ID/`` of the user's runs or of
the committed records. One made from another training, with other options, or damaged, is never used; one that another
version of the library made is, and its manifest names that version. Where a measurement of the same run stands with other
options, a new one is named ``NAME@HASH``, so that none is lost.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from snp_lib import machine, store
from snp_lib.store import Run, StoreError
from snp_lib.store.disk import flush, locked, replace_file, sha256, write_durably
from snp_lib.store.manifest import differences, parse, read_arrays, refusing, seal, upgraded
from snp_lib.store.schema import DERIVED

FORMAT = "snp-derived-1"

NAME = re.compile(r"\w[\w@=+.-]{0,99}", re.ASCII)

Arrays = dict[str, np.ndarray]


def derived(
    run: Run, name: str, options: Mapping[str, Any], compute: Callable[[], Mapping[str, np.ndarray]], *, refresh: bool = False
) -> Arrays:
    """A measurement of a run: from the user's runs, else from the records, else by computing it now.

    Args:
        name: of the measurement, such as ``stage-004``; a plain file name.
        options: whatever the result depends on besides the run, as JSON values.
        compute: returns the arrays.
        refresh: compute anew even where it exists.

    Raises:
        StoreError: what is stored is damaged, or the disk refuses.
        ValueError: a name that is no plain file name, or arrays of objects.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"a measurement needs a plain name, got {name!r}")
    if not refresh and (stored := find(run, name, options)) is not None:
        return stored
    with locked(f"{run.experiment.id}.{name}", progress=True):
        if not refresh and (stored := find(run, name, options)) is not None:
            return stored  # another process made it while this one waited
        arrays = {key: np.asarray(value) for key, value in compute().items()}
        if objects := [key for key, value in arrays.items() if value.dtype.hasobject]:
            raise ValueError(f"the array {objects[0]!r} of {name} holds objects, not numbers")
        _write(folder(run, "runs"), name, arrays, _manifest(run, options))
        return arrays


def find(run: Run, name: str, options: Mapping[str, Any]) -> Arrays | None:
    """The stored measurement of this very run with these options, or None; raises StoreError if it is damaged."""
    wanted = _manifest(run, options)
    folders = folder(run, "runs"), folder(run, "records")
    for place, file in itertools.product(folders, (name, _name_of_options(name, wanted))):
        path = place / f"{file}.json"
        if path.exists() and _same(manifest := read(path), wanted):
            return _arrays(path, manifest)
    return None


def check(path: Path) -> dict[str, Any]:
    """The manifest of a measurement, given its JSON, after every byte of both files was checked; raises StoreError."""
    manifest = read(path)
    _arrays(path, manifest)
    return manifest


def read(path: Path) -> dict[str, Any]:
    """The manifest of a measurement, given its JSON; raises StoreError where it is damaged or of another format."""
    with refusing(f"the measurement {path}", _advice(path)):
        return parse(path.read_bytes(), FORMAT, DERIVED)


def upgrade(path: Path) -> bool:
    """Give the manifest of a measurement its digest after a full check; returns whether it had none. Raises StoreError."""
    with refusing(f"the measurement {path}", _advice(path)):
        content = path.read_bytes()
        new = upgraded(content)
        _arrays(path, parse(new, FORMAT, DERIVED))
        if new != content:
            replace_file(path, new)
    return new != content


def of_run(run: Run) -> list[Path]:
    """The JSON of every measurement of this very run, the user's own before those of the records; raises StoreError."""
    paths = {path.name: path for place in ("records", "runs") for path in sorted(folder(run, place).glob("*.json")) if _is_of(run, path)}
    return [paths[name] for name in sorted(paths)]


def carry(run: Run, source: Path, place: store.Place, *, replace: bool = True) -> list[Path]:
    """Copy the measurements of a run from a folder to the runs or records; among the records, those of an older training go.

    Args:
        replace: also where the same measurement, with the same options, stands.

    Returns:
        The files copied.

    Raises:
        StoreError: one of that name was made with other options: delete the one that is not wanted. Or one is damaged.
    """
    target, made_of = folder(run, place), _manifest(run, {})["run"]
    new = {path: check(path) for path in sorted(source.glob("*.json")) if _is_of(run, path)}
    standing = {path.name: read(path) for path in target.glob("*.json")}
    for path, manifest in new.items():
        other = standing.get(path.name, manifest)
        if other["run"] == made_of and not _same(other, manifest):
            raise StoreError(f"{target / path.name} was made with other options than the new one: delete the one that is not wanted")
    copied = []
    try:
        for name, manifest in standing.items():
            if place == "records" and manifest["run"] != made_of:
                (target / name).with_suffix(".npz").unlink(missing_ok=True)
                (target / name).unlink()
        for path, manifest in new.items():
            if replace or not _same(standing.get(path.name, {}), manifest):
                target.mkdir(parents=True, exist_ok=True)
                copied += [replace_file(target / file.name, file.read_bytes()) for file in (path.with_suffix(".npz"), path)]
    except OSError as error:
        raise StoreError(f"cannot write to {target}: {error}. Make room; what is there is whole.") from error
    return copied


def folder(run: Run, place: store.Place) -> Path:
    """Where the measurements of a run are kept."""
    return store.root(place) / "derived" / run.experiment.id


def _manifest(run: Run, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "experiment": run.experiment.id,
        "run": run.manifest["files"]["arrays.npz"],
        "options": json.loads(json.dumps(dict(options), allow_nan=False)),
        "code": machine.code_version(),
        "date": datetime.date.today().isoformat(),
    }


def _name_of_options(name: str, manifest: Mapping[str, Any]) -> str:
    return f"{name}@{hashlib.sha256(json.dumps(manifest['options'], sort_keys=True).encode()).hexdigest()[:8]}"


def _write(target: Path, name: str, arrays: Arrays, manifest: dict[str, Any]) -> None:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    partial = {suffix: target / f".{name}.{suffix}.partial-{os.getpid()}" for suffix in ("npz", "json")}
    try:
        target.mkdir(parents=True, exist_ok=True)
        if _taken(target / f"{name}.json", manifest):
            name = _name_of_options(name, manifest)
        write_durably(partial["npz"], stream.getvalue())
        manifest["sha256"] = sha256(partial["npz"])
        write_durably(partial["json"], seal(manifest))
        for suffix, path in partial.items():  # both are whole: a full disk can no longer part them
            os.replace(path, target / f"{name}.{suffix}")
        flush(target)
    except OSError as error:
        raise StoreError(f"cannot write the measurement {target / name}: {error}. Make room; nothing half-written is left.") from error
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def _taken(path: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a measurement of the same run with other options stands there."""
    try:
        standing = read(path)
        return bool(standing["run"] == manifest["run"] and not _same(standing, manifest))
    except StoreError:
        return False  # nothing, or nothing that could be read


def _is_of(run: Run, path: Path) -> bool:
    return bool(read(path)["run"] == run.manifest["files"]["arrays.npz"])


def _same(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return not any(differences(stored.get(field), wanted[field]) for field in ("run", "options"))


def _arrays(path: Path, manifest: Mapping[str, Any]) -> Arrays:
    path = path.with_suffix(".npz")
    with refusing(f"the measurement {path}", _advice(path)):
        if sha256(path) != manifest["sha256"]:
            raise ValueError("its SHA-256 is not the one its manifest vouches for")
        return read_arrays(path)


def _advice(path: Path) -> str:
    """What to do about a broken measurement; only what is ours is named for deletion."""
    ours = path.resolve().parent.parent in [(store.root(place) / "derived").resolve() for place in ("runs", "records")]
    return " Delete it to make it again." if ours else ""
