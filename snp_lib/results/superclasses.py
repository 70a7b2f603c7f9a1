"""Labels that belong together: superclasses of the data set, and whether the clusters of nodes follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Int

from snp_lib import data
from snp_lib.performance import THETA, summarize
from snp_lib.performance.superclasses import cluster_pairs, kinship
from snp_lib.results.equal_density import matrices_by_state
from snp_lib.results.setting import Measurement, Setting
from snp_lib.store import Run
from snp_lib.store.derived import Arrays


@dataclass(frozen=True, kw_only=True)
class Superclasses(Measurement):
    """The superclass of every label, kept with a run so that its record tells it without the data.

    Arrays by name: ``names`` (superclass,), and ``superclass`` (label,), the number of each label's among them.

    Raises:
        ValueError: the labels of the data set have no superclasses.
    """

    what: ClassVar[str] = "superclasses"

    def name(self, run: Run) -> str:
        return "superclasses"

    def options(self, run: Run) -> dict[str, Any]:
        return {}

    def epochs(self, run: Run) -> tuple[int | None, ...]:
        return ()

    def compute(self, setting: Setting) -> Arrays:
        if setting.dataset.superclasses is None:
            raise ValueError(f"the labels of {setting.dataset.name} have no superclasses")
        names, superclass = np.unique(setting.dataset.superclasses, return_inverse=True)
        return {"names": names, "superclass": superclass.astype(np.int64)}


def superclasses_of(run: Run) -> list[Measurement]:
    """The superclasses of a run's labels, where its data set has some."""
    return [Superclasses()] if data.source(run.experiment.dataset).superclasses else []


def superclass(run: Run) -> Int[np.ndarray, " label"]:
    """Number of the superclass of each label; raises StoreError, saying what to run, where nobody kept them."""
    return Superclasses().read(run)["superclass"]


def superclass_kinship(runs: Sequence[Run], *, kind: str = "mha", theta: float = THETA, permutations: int = 1000) -> pd.DataFrame:
    """How much more often two labels of one cluster share a superclass than shuffled: one row per seed, network and site.

    Args:
        kind: of the sites whose nodes are measured.

    Returns:
        Columns seed, network (trained, untrained where its class means are kept), block, pairs, share, expected, p, see
        :class:`snp_lib.performance.superclasses.Kinship`; ratio, ratio_low and ratio_high (between which 95 % of the shuffles lie)
        and ratio_chance (their mean, 1).
    """
    rows = []
    for run in runs:
        groups = superclass(run)
        for state, _, block, matrices in matrices_by_state(run, (kind,), ends=False):
            pairs = cluster_pairs(summarize(matrices, theta).cluster_of)
            kin = kinship(pairs, groups, permutations=permutations, seed=run.experiment.seed)
            low, high = kin.chance
            row: dict[str, Any] = {"seed": run.experiment.seed, "network": state, "block": block, "pairs": kin.pairs}
            row |= {"share": kin.share, "expected": kin.expected, "p": kin.p}
            rows.append(row | {"ratio": kin.ratio, "ratio_low": low, "ratio_high": high, "ratio_chance": 1.0})
    return pd.DataFrame(rows)
