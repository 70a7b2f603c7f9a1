"""Tables of chapter 3: how the nodes sharpen along the encoders at stages, thresholds and readouts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from snp_lib import stages
from snp_lib.derived import Arrays
from snp_lib.models.sites import split_site
from snp_lib.performance import THETA, Pooling
from snp_lib.store import Run, Unit
from snp_lib.tables import site_statistics

READOUTS: dict[str, Pooling | None] = {"sequence pooling": None, "mean pooling": "mean", "flattened": "flat"}
"""Readouts by the name that tables give them; the first is that of the runs."""


def statistics_at_stages(
    runs: Sequence[Run],
    *,
    thetas: Iterable[float] = (THETA,),
    epochs: Sequence[int] | None = None,
    pooling: Pooling | None = None,
    unit: Unit = "node",
    device: str = "auto",
) -> pd.DataFrame:
    """Averages over the units of each site at stages of the training: one row per seed, epoch, site and threshold.

    The end of a training is read from the run itself, unless other readouts are asked for.

    Args:
        epochs: finished epochs; default: every stage of the run, see :func:`snp_lib.stages.stages`.
        pooling: of other readouts, see :func:`snp_lib.stages.stage`.
        unit: ``head`` for the heads of the ``mha`` sites.

    Returns:
        Columns seed, epoch, block, kind, theta, accuracy (of the site's readout) and those of
        ``STATISTICS``, which are named as in :func:`snp_lib.tables.site_statistics`.

    Raises:
        ValueError: a θ that the stages do not keep.
    """
    rows, thetas = [], list(thetas)
    for run in runs:
        for epoch in epochs if epochs is not None else stages.stages(run):
            if pooling is None and epoch == run.experiment.recipe.epochs:
                rows.append(_of_the_run(run, thetas, unit))
            else:
                arrays = stages.stage(run, epoch, pooling, unit=unit, device=device)
                rows.append(_of_a_measurement(arrays, thetas, run.experiment.seed, _sites(run, unit)).assign(epoch=epoch))
    columns = ["seed", "epoch", "block", "kind", "theta", "accuracy", *stages.STATISTICS]
    return pd.concat(rows, ignore_index=True)[columns]


def statistics_by_readout(runs: Sequence[Run], *, thetas: Iterable[float] = (THETA,), device: str = "auto") -> pd.DataFrame:
    """The same before and after the training for every one of ``READOUTS``: a column readout more."""
    thetas, tables = list(thetas), []
    for name, pooling in READOUTS.items():
        for run in runs:
            ends = [0, run.experiment.recipe.epochs]
            found = statistics_at_stages([run], thetas=thetas, epochs=ends, pooling=pooling, device=device)
            tables.append(found.assign(readout=name))
    return pd.concat(tables, ignore_index=True)


def silencing(runs: Sequence[Run], *, thetas: Iterable[float] = (THETA,), device: str = "auto") -> pd.DataFrame:
    """Nodes silenced after the pooling, as everywhere else, and before it: one row per seed, site, threshold and way.

    Returns:
        Columns seed, block, kind, theta, silenced (after the pooling, before the pooling), accuracy (of the sum of the
        fields), those of ``STATISTICS``, and jaccard and chance: agreement of a node's two diagonal sets, and that of
        different nodes, see :func:`snp_lib.stages.silenced_first`.
    """
    rows, thetas = [], list(thetas)
    for run in runs:
        arrays = stages.silenced_first(run, device=device)
        ways = {"after the pooling": ("after", "readout_accuracy"), "before the pooling": ("statistics", "accuracy")}
        for way, (statistics, accuracy) in ways.items():
            found = _of_a_measurement(arrays, thetas, run.experiment.seed, _sites(run, "node"), statistics, accuracy, ("jaccard", "chance"))
            rows.append(found.assign(silenced=way))
    return pd.concat(rows, ignore_index=True)


def learned(rises: pd.DataFrame) -> pd.DataFrame:
    """The rise at the end of the training minus that before it, in column learned: as :func:`snp_lib.tables.rises`, without epochs."""
    keys = [name for name in rises.columns if name not in ("epoch", "rise")]
    rise = rises.pivot(index=keys, columns="epoch", values="rise")
    return (rise[rise.columns.max()] - rise[0]).rename("learned").reset_index()


def smallest(table: pd.DataFrame, column: str, runs: Sequence[Run], kind: str) -> list[float]:
    """The smallest value of a column at one kind of site, for each run; NaN where any is NaN."""
    values = table[table.kind == kind].groupby("seed")[column].agg(lambda found: found.min(skipna=False))
    return [float(values[run.experiment.seed]) for run in runs]


def _sites(run: Run, unit: Unit) -> list[str]:
    return [site for site in run.sites if unit == "node" or split_site(site)[1] == "mha"]


def _of_the_run(run: Run, thetas: Sequence[float], unit: Unit) -> pd.DataFrame:
    sites = _sites(run, unit)
    accuracy = [run.metrics["readout_accuracy"][site] for site in sites for _ in thetas]
    kinds = {split_site(site)[1] for site in sites}
    return site_statistics([run], kinds=kinds, thetas=thetas, unit=unit).assign(epoch=run.experiment.recipe.epochs, accuracy=accuracy)


def _of_a_measurement(
    arrays: Arrays,
    thetas: Sequence[float],
    seed: int,
    sites: Sequence[str],
    statistics: str = "statistics",
    accuracy: str = "readout_accuracy",
    more: Sequence[str] = (),
) -> pd.DataFrame:
    rows = []
    for s, site in enumerate(sites):
        block, kind = split_site(site)
        for theta in thetas:
            at = stages.index_of(arrays, theta)
            row: dict[str, Any] = {"seed": seed, "block": block, "kind": kind, "theta": theta}
            row |= {"accuracy": arrays[accuracy][s]} | {name: arrays[name][s, at] for name in more}
            rows.append(row | dict(zip(stages.STATISTICS, np.asarray(arrays[statistics][s, at]), strict=True)))
    return pd.DataFrame(rows)
