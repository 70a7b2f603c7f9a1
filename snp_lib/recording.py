"""Making a set of records in order of value, within a budget of time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from snp_lib import derived, experiments, store, transport
from snp_lib.experiments import Scale
from snp_lib.store import OutdatedError, Run
from snp_lib.training import team


def record_set(
    name: str, scale: Scale, *, budget: float, device: str = "auto", compiled: bool = False, to: Path | None = None, progress: bool = True
) -> Iterator[tuple[Run, Path]]:
    """Make the runs of a set one after the other, the most valuable first, and keep each as soon as it is whole.

    A run already there is read, one made by an older definition is made again. A run that the budget cuts keeps its
    checkpoint among the unfinished ones and leaves no record.

    Args:
        budget: seconds for all.
        compiled: as for :func:`snp_lib.run`.
        to: folder for one transport file a run; default: the committed records.

    Yields:
        Each finished run with the path of its record.

    Raises:
        Stopped: the budget was used up before the last run was finished.
        StoreError: what is stored is damaged or of a newer version: it is not replaced unasked.
        ValueError: unknown set.
    """
    deadline = time.monotonic() + budget
    for experiment in experiments.members(name, scale):
        refresh = _outdated(experiment)
        finished = store.run(experiment, device=device, refresh=refresh, deadline=deadline, compiled=compiled, progress=progress)
        if team.rank() == 0:
            yield finished, keep(finished) if to is None else transport.pack(finished, to)


def keep(run: Run) -> Path:
    """Copy a run and the measurements that hang off it to the committed records; raises StoreError as both do."""
    path = store.promote(run)
    derived.promote(run)
    return path


def _outdated(experiment: experiments.Experiment) -> bool:
    try:
        store.find(experiment)
    except OutdatedError:
        return True
    return False
