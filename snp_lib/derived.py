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
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from snp_lib import making, store
from snp_lib.disk import locked, sha256, write_durably
from snp_lib.store import Run, StoreError

FORMAT = "snp-derived-1"
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
    if Path(name).name != name or name.startswith("."):
        raise ValueError(f"a measurement needs a plain name, got {name!r}")
    if not refresh and (found := find(run, name, options)) is not None:
        return found
    with locked(f"{run.experiment.id}.{name}", progress=True):
        if not refresh and (found := find(run, name, options)) is not None:
            return found  # another process made it while this one waited
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
        path = place / f"{file}.npz"
        try:
            manifest = json.loads(path.with_suffix(".json").read_bytes())
            if any(manifest[key] != wanted[key] for key in ("format", "run", "options")):
                continue
            if sha256(path) != manifest["sha256"]:
                raise ValueError("its SHA-256 is not the one its manifest vouches for")
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"cannot read the measurement {path}: {error}. Delete it to make it again.") from error
    return None


def promote(run: Run) -> list[Path]:
    """Copy the measurements of a run to the committed records; those of an older training there go.

    Raises:
        StoreError: a record of that name was made with other options: delete the one that is not wanted.
    """
    source, target = folder(run, "runs"), folder(run, "records")
    made_of = _manifest(run, {})["run"]
    for path in target.glob("*.json"):
        if json.loads(path.read_bytes())["run"] != made_of:
            path.with_suffix(".npz").unlink(missing_ok=True)
            path.unlink()
    new = {path: manifest for path in sorted(source.glob("*.json")) if (manifest := json.loads(path.read_bytes()))["run"] == made_of}
    for path, manifest in new.items():
        there = target / path.name
        if there.exists() and json.loads(there.read_bytes())["options"] != manifest["options"]:
            raise StoreError(f"{there} was made with other options than {path}: delete the one that is not wanted")
    copied = []
    for path in new:
        target.mkdir(parents=True, exist_ok=True)
        for file in (path.with_suffix(".npz"), path):
            copied.append(Path(shutil.copyfile(file, target / file.name)))
    return copied


def folder(run: Run, place: store.Place) -> Path:
    """Where the measurements of a run are kept."""
    return store.root(place) / "derived" / run.experiment.id


def _manifest(run: Run, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "experiment": run.experiment.id,
        "run": run.manifest["files"]["arrays.npz"],
        "options": json.loads(json.dumps(dict(options))),
        "code": making.code_version(),
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
        write_durably(partial["json"], json.dumps(manifest, indent=1).encode() + b"\n")
        for suffix, path in partial.items():  # both are whole: a full disk can no longer part them
            os.replace(path, target / f"{name}.{suffix}")
    except OSError as error:
        raise StoreError(f"cannot write the measurement {target / name}: {error}. Make room; nothing half-written is left.") from error
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def _taken(path: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a measurement of the same run with other options stands there."""
    try:
        there = json.loads(path.read_bytes())
        return bool(there["run"] == manifest["run"] and there["options"] != manifest["options"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # nothing, or nothing that could be read
