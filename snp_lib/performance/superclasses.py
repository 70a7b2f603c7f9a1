"""Do the labels that a unit joins in one cluster belong together? Pairs of labels against shuffled superclasses (defined here).

The null model keeps every cluster and the size of every superclass, and deals the superclasses anew to the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from snp_lib.performance.statistics import p_value, shuffled_orders


@dataclass(frozen=True)
class Kinship:
    """How many pairs of labels within clusters are of one superclass, and how many would be by chance.

    Attributes:
        pairs: pairs of labels that share a cluster, counted once for every cluster.
        share: of them, those of one superclass, in [0, 1]; NaN without a pair.
        null: the same share for each shuffle.
    """

    pairs: int
    share: float
    null: Float[np.ndarray, " permutation"]

    @property
    def expected(self) -> float:
        """Mean share of the shuffles."""
        return float(self.null.mean())

    @property
    def ratio(self) -> float:
        """The share over that of chance."""
        return self.share / self.expected

    @property
    def chance(self) -> tuple[float, float]:
        """Ratio that 95 % of the shuffles have."""
        low, high = np.quantile(self.null, (0.025, 0.975)) / self.expected
        return float(low), float(high)

    @property
    def p(self) -> float:
        """One-sided, (1 + shuffles with at least this share) / (1 + shuffles)."""
        return float(p_value(self.null, self.share))


def cluster_pairs(cluster_of: Int[np.ndarray, "unit label"]) -> Int[np.ndarray, "label label"]:
    """In how many clusters two labels stand together, from :class:`snp_lib.performance.Summary`; zero for a label with itself."""
    labels = cluster_of.shape[1]
    pairs = np.zeros((labels, labels), dtype=np.int64)
    for cluster in range(cluster_of.max(initial=-1) + 1):
        members = (cluster_of == cluster).astype(np.int64)
        pairs += members.T @ members
    np.fill_diagonal(pairs, 0)
    return pairs


def kinship(
    pairs: Int[np.ndarray, "label label"], superclass: Int[np.ndarray, " label"], *, permutations: int = 2000, seed: int = 0
) -> Kinship:
    """Pairs within clusters against superclasses of labels.

    Args:
        pairs: from :func:`cluster_pairs`.
        superclass: number of the superclass of each label.

    Raises:
        ValueError: fewer than one permutation.
    """
    orders = shuffled_orders(len(superclass), permutations, np.random.default_rng(seed))
    total = int(pairs.sum()) // 2

    def share(groups: Int[np.ndarray, " label"]) -> float:
        return float(pairs[groups[:, None] == groups].sum()) / 2 / total if total else float("nan")

    return Kinship(total, share(superclass), np.array([share(superclass[order]) for order in orders]))
