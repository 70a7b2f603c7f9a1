"""Checking everything that is stored, and giving manifests from before digests theirs (defined here)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from snp_lib.store import bundle, derived, runs, transport
from snp_lib.store.disk import StoreError
from snp_lib.store.runs import Place


def stored(paths: Sequence[Path] = ()) -> list[Path]:
    """What can be checked: transport files, folders of runs, and folders ``derived/ID`` of measurements.

    Args:
        paths: such files and folders, and folders that hold some; default: all records and runs.

    Raises:
        StoreError: a folder that holds none.
    """
    chosen = []
    for path in paths or [runs.root(place) for place in get_args(Place)]:
        inside = [folder for folder in (path, *_folders(path), *_folders(path / "derived")) if _is_run(folder) or _measurements(folder)]
        inside += sorted(path.glob("[!.]*.snprun")) if path.is_dir() else []
        if paths and path.is_dir() and not inside:
            raise StoreError(f"{path} is no run (it has no manifest.json) and holds none")
        chosen += inside if path.is_dir() else [path] if paths else []
    return chosen


def verify(path: Path) -> str:
    """Check every byte of a transport file, a run or the measurements of one, and say what it holds; raises StoreError."""
    if measurements := _measurements(path):
        return f"{len(_all(derived.check, measurements))} measurements"
    if path.suffix == bundle.SUFFIX:
        raise StoreError(f"{path} is a part of a bundle, which `snp import` checks as it takes all of its parts")
    run = runs.read(path) if path.is_dir() else transport.check(path)
    if path.is_dir():
        run.look_into()
        if path.resolve().name != run.experiment.id:
            raise StoreError(f"{path} holds {run.experiment.id}; a run is only found in a folder of its own name. Rename the folder.")
    return f"test accuracy {run.metrics['test_accuracy']:.2%}"


def upgrade(path: Path) -> str:
    """Give the manifests in a folder of a run or of measurements their digest, after a full check, and say how many had none.

    A manifest is replaced whole or not at all; one that has a digest stays as it is.

    Raises:
        StoreError: anything else is amiss, or it is a transport file.
    """
    if path.is_file():
        raise StoreError(f"{path} stays as it was packed; `snp import` takes it as it is")
    if measurements := _measurements(path):
        return f"{sum(_all(derived.upgrade, measurements))} of {len(measurements)} measurements upgraded"
    return "upgraded" if runs.upgrade(path) else "has its digest already"


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in runs.RECORD_FILES)


def _measurements(path: Path) -> list[Path]:
    return sorted(path.glob("*.json")) if path.parent.name == "derived" else []


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.glob("[!.]*") if folder.is_dir())


def _all(check: Callable[[Path], Any], paths: list[Path]) -> list[Any]:
    results, errors = [], []
    for path in paths:
        try:
            results.append(check(path))
        except StoreError as error:
            errors.append(str(error))
    if errors:
        raise StoreError("\n".join(errors))
    return results
