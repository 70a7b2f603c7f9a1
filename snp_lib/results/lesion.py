"""Accuracy of runs without single residual units, beside that without their heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from snp_lib.analysis.ablation import kept_heads
from snp_lib.analysis.lesion import correct_when_lesioned
from snp_lib.models.sites import split_site
from snp_lib.results.fourier import places
from snp_lib.results.heads import head_ablation
from snp_lib.results.setting import Measurement, Setting, drawn
from snp_lib.store import Run
from snp_lib.store.derived import Arrays


@dataclass(frozen=True, kw_only=True)
class Lesion(Measurement):
    """Which test images the network classifies correctly without single residual units.

    See :func:`snp_lib.analysis.lesion.correct_when_lesioned`.

    Arrays by name, for U units and N images: ``units`` (U,) their names; ``correct`` (1 + U, ⌈N/8⌉), packed bits, the intact network
    first; ``images`` (1,), how many.

    Attributes:
        images: test images drawn by the seed of the run, or all of fewer.

    Raises:
        StoreError: the weights of the run are not here.
        ValueError: the network says of no residual unit what it adds.
    """

    images: int = 500

    @property
    def what(self) -> str | None:
        return "lesion" if self == type(self)() else None

    def name(self, run: Run) -> str:
        return "lesion"

    def options(self, run: Run) -> dict[str, Any]:
        return {"images": self.images}

    def compute(self, setting: Setting) -> Arrays:
        chosen = drawn(setting.dataset.test, self.images, setting.run.experiment.seed)
        correct = correct_when_lesioned(setting.network, chosen, setting.prepare, progress=setting.progress, **setting.passes)
        return {
            "units": np.array([unit.name for unit in setting.network.residual_units]),
            "correct": np.packbits(correct, axis=1),
            "images": np.array([len(chosen)]),
        }


def lesion_of(run: Run) -> list[Measurement]:
    """What a run has for the other half of chapter D4: its residual units removed, where it has any."""
    return [Lesion()] if run.network(0).residual_units else []


def lesions(runs: Sequence[Run]) -> pd.DataFrame:
    """Accuracy without every residual unit: one row per seed and unit.

    Returns:
        Columns seed, network (trained), depth (of the unit, from 1), block, kind; accuracy without it and intact in [0, 1]; lost, their
        difference in percentage points.
    """
    rows = []
    for run in runs:
        arrays = Lesion().read(run)
        correct = np.unpackbits(arrays["correct"], axis=1, count=int(arrays["images"][0]))
        intact, *accuracy = correct.mean(1)
        table = pd.DataFrame(places(run, "trained", arrays)).assign(accuracy=accuracy, intact=intact)
        rows.append(table.assign(lost=100 * (table.intact - table.accuracy)))
    return pd.concat(rows, ignore_index=True)


def excess_of(table: pd.DataFrame, runs: Sequence[Run], blocks: Sequence[int], kind: str = "attention") -> list[float]:
    """Accuracy lost without the units of a kind in these blocks minus that without the others of it, means, for each run in [0, 1]."""
    chosen = table[table.kind == kind]
    inside = chosen.block.isin(blocks)
    means = [chosen[part].groupby("seed").lost.mean() for part in (inside, ~inside)]
    return [float(means[0][run.experiment.seed] - means[1][run.experiment.seed]) / 100 for run in runs]


def last_minus_first(table: pd.DataFrame, runs: Sequence[Run]) -> list[float]:
    """Accuracy lost without the last unit of a stage minus that without its first, for each run in [0, 1].

    Mean over the stages that end with attention; a stage are the blocks of one width.

    Args:
        table: of :func:`lesions`, of runs with such stages.
    """
    values = []
    for run in runs:
        widths = {split_site(site)[0]: run.sites[site] for site in run.sites_of("block")}
        rows = table[table.seed == run.experiment.seed].sort_values("depth")
        stages = [stage for _, stage in rows.groupby(rows.block.map(widths)) if stage.kind.iloc[-1] == "attention"]
        values.append(float(np.mean([stage.lost.iloc[-1] - stage.lost.iloc[0] for stage in stages])) / 100)
    return values


def beside_heads(table: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """The attention of every encoder removed, beside its heads switched off one at a time: one row per seed and encoder.

    Args:
        table: of :func:`lesions`.
        runs: with their heads' ablation measured, on all test images.

    Returns:
        Columns seed, block and, in percentage points, lost without the whole attention; one head, the mean of what is lost without one
        of them; all heads, the sum of what is lost without each; together, lost minus that sum.
    """
    rows = []
    for run in runs:
        ablation = head_ablation(run)
        for site in ablation.sites:
            lost = 100 * ablation.lost(site, kept_heads("removed", run.num_heads)).mean(1)
            rows.append({"seed": run.experiment.seed, "block": split_site(site)[0], "one head": lost.mean(), "all heads": lost.sum()})
    attention = table[table.kind == "attention"][["seed", "block", "lost"]]
    merged = attention.merge(pd.DataFrame(rows), on=["seed", "block"])
    return merged.assign(together=merged.lost - merged["all heads"])
