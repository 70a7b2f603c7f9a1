"""Pruned runs: accuracy and latency by arm and density, and arms compared seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from snp_lib import prunings, removal
from snp_lib.reporting import half_width
from snp_lib.store import Run

SPREAD = ("ratio", "low", "high")


def pruned(
    runs: Sequence[Run],
    *,
    arms: Sequence[prunings.Arm] = prunings.ARMS,
    encoder: int | None = None,
    classifier: bool = True,
    thetas: Sequence[float] | None = None,
    tuning: prunings.FineTuning | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Pruned networks by arm and density: one row per seed, arm and θ; ``dense`` has the θ of NaN and a density of 1.

    Returns:
        Columns seed, arm, theta, density (share of the weights of the pruned layers that is kept); before, before_top5,
        after and after_top5, test accuracy in [0, 1] before and after fine-tuning (without the last two where there is
        none); kept, compact and blocks, multiply-accumulates of the pruned layers as shares of the dense ones.
    """
    rows = []
    for run in runs:
        for arm in arms:
            arrays = prunings.pruning(run, arm, encoder=encoder, classifier=classifier, thetas=thetas, tuning=tuning, device=device)
            for t, theta in enumerate(arrays["thetas"]):
                row: dict[str, Any] = {"seed": run.experiment.seed, "arm": arm, "theta": theta, "density": arrays["total"][t]}
                if arm == "dense":
                    row |= {"theta": np.nan, "density": 1.0}
                for when in ("before", "after"):
                    if when in arrays:
                        row |= dict(zip((when, f"{when}_top5"), arrays[when][t], strict=True))
                dense, *forms = arrays["macs"][t]
                row |= {name: cost / dense if dense else 1.0 for name, cost in zip(prunings.COSTS[1:], forms, strict=True)}
                rows.append(row)
    return pd.DataFrame(rows)


def pruned_latency(runs: Sequence[Run], *, thetas: Sequence[float] | None = None, device: str = "auto") -> pd.DataFrame:
    """Latency of pruned networks over that of the dense one: one row per seed, batch, form and θ.

    Returns:
        Columns seed, batch, form (``compact``, ``blocks`` or ``dense``, which is the dense network once more and shows the
        noise), theta (NaN for dense); ratio, low and high, the median, 5th and 95th percentile over rounds.
    """
    rows = []
    for run in runs:
        arrays = removal.pruned_latency(run, thetas=thetas, device=device)
        for b, batch in enumerate(arrays["batches"]):
            place = {"seed": run.experiment.seed, "batch": batch}
            rows.append(place | {"form": "dense", "theta": np.nan} | dict(zip(SPREAD, arrays["noise"][b], strict=True)))
            for f, form in enumerate(removal.FORMS):
                for t, theta in enumerate(arrays["thetas"]):
                    rows.append(place | {"form": form, "theta": theta} | dict(zip(SPREAD, arrays["ratio"][b, f, t], strict=True)))
    return pd.DataFrame(rows)


def difference_per_seed(table: pd.DataFrame, arm: str, against: str, *, theta: float | None = None, column: str = "after") -> list[float]:
    """An arm of :func:`pruned` minus another at the same seed and θ, in the order of the seeds; without a θ the mean over all."""
    first, second = (table[table.arm == name].set_index("seed") for name in (arm, against))
    differences = []
    for seed in first.index.unique():
        ours, other = first.loc[[seed]].set_index("theta")[column], second.loc[[seed]].set_index("theta")[column]
        gap = ours - (other.item() if len(other) == 1 else other)  # the intact network has one value for every θ
        differences.append(float(gap.mean() if theta is None else gap[theta]))
    return differences


def paired(table: pd.DataFrame, arm: str, against: str, *, column: str = "after") -> pd.DataFrame:
    """The same as one row per θ: columns theta, density and difference (means over seeds), half_width of its 95 % interval."""
    rows = []
    for theta, density in table[table.arm == arm].groupby("theta").density.mean().items():
        differences = difference_per_seed(table, arm, against, theta=float(str(theta)), column=column)
        row = {"theta": theta, "density": density, "difference": np.mean(differences)}
        rows.append(row | {"half_width": half_width(differences)})
    return pd.DataFrame(rows)
