"""Committed records: promoting runs, and making a set in order of value within a budget of time."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from snp_lib import experiments
from snp_lib.experiments import Scale
from snp_lib.store import bundle as bundles, derived, transport
from snp_lib.store.disk import OutdatedError, StoreError
from snp_lib.store.make import run
from snp_lib.store.runs import Run, check_record_size, put, read, record_files, root
from snp_lib.training import team


def promote(finished: Run) -> Path:
    """Copy a run, without weights, to the committed records; replaces an older record of the same id.

    Raises:
        StoreError: the record would exceed 8 MB.
    """
    members = record_files(finished)
    check_record_size(finished.experiment.id, members)
    target = root("records") / finished.experiment.id
    return target if finished.path == target else put(target, members)


def make_set(
    name: str,
    scale: Scale,
    *,
    budget: float,
    device: str = "auto",
    compiled: bool = False,
    to: Path | None = None,
    weights: bool = False,
    bundled: bool = False,
    measure: Callable[[Run, float], None] | None = None,
    progress: bool = True,
) -> Iterator[tuple[Run, Path]]:
    """Make the runs of a set one after the other, the most valuable first, and keep each as soon as it is whole.

    A run already there is read, one made by an older definition is made again. A run that the budget cuts keeps its
    checkpoint among the unfinished ones and leaves no record.

    Args:
        budget: seconds for all trainings and measurements.
        compiled: as for :func:`snp_lib.run`.
        to, weights: as for :func:`keep`.
        bundled: as few files as there can be in ``to``, see :mod:`snp_lib.store.bundle`, in place of one a run.
        measure: called with each run once it is kept, and the deadline; it is then kept again, with what was measured.

    Yields:
        Each finished run with the path of its record.

    Raises:
        Stopped: the budget was used up before the last run was finished.
        StoreError: what is stored is damaged or of a newer version: it is not replaced unasked.
        ValueError: unknown set.
    """
    deadline, bundle = time.monotonic() + budget, f"{name}-{scale}" if bundled else None
    for experiment in experiments.members(name, scale):
        make = functools.partial(run, experiment, device=device, deadline=deadline, compiled=compiled, progress=progress)
        try:
            finished = make()
        except OutdatedError:
            finished = make(refresh=True)
        if team.rank() == 0:
            path = keep(finished, to, weights=weights, bundle=bundle)
            if measure is not None:
                try:
                    measure(finished, deadline)
                finally:  # what was measured before the time was up is kept as well
                    path = keep(finished, to, weights=weights, bundle=bundle)
            yield finished, path


def keep(run: Run, to: Path | None = None, *, weights: bool = False, bundle: str | None = None) -> Path:
    """Copy a run and the measurements that hang off it to the committed records, or pack them into one file.

    Args:
        to: folder for a transport file; None: the committed records.
        weights: the trained weights too, in half precision; only where there is a folder.
        bundle: name of the bundle there that the file goes into, with all that were put there before.

    Returns:
        The folder of the record, or the file, or the last part of the bundle.

    Raises:
        StoreError: as both do.
    """
    if to is not None and bundle is not None:
        with tempfile.TemporaryDirectory() as folder:
            there = _unpacked(bundles.bundles(bundles.parts_of(to, bundle)), Path(folder))
            return bundles.write(to, bundle, {*there, transport.pack(run, folder, weights=weights)})[-1]
    if to is not None:
        return transport.pack(run, to, weights=weights)
    path = promote(run)
    derived.carry(run, derived.folder(run, "runs"), "records")
    return path


def _unpacked(found: Sequence[Sequence[Path]], folder: Path) -> list[Path]:
    """The files of the last bundle that is whole; raises StoreError where there are some and none is."""
    error = None
    for parts in reversed(found):
        try:
            return bundles.unpack(parts, folder)
        except StoreError as damage:
            error = error or damage
    if error is not None:
        raise error
    return []


def expected(name: str, scale: Scale) -> str:
    """The test accuracy of an experiment in its records, mean ± sd (n − 1) with n, in words; empty where there is none."""
    runs = [read(path) for path in sorted(root("records").glob(f"{name}-{scale}-s*"))]
    if not runs:
        return ""
    values = [run.metrics["test_accuracy"] for run in runs]
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"test accuracy {statistics.fmean(values):.3f}{spread} on {runs[0].experiment.dataset} (n = {len(values)})"
