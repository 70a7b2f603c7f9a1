"""One unit of a run: its matrix, what a threshold leaves of it, and its clusters in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from snp_lib.performance import THETA, binarize, summarize
from snp_lib.store import Run, Unit


@dataclass(frozen=True)
class OneUnit:
    """A node, head or filter as a figure shows it.

    Attributes:
        matrix, binary: its performance matrix, and the elements above the threshold.
        clusters: labels of each of its clusters.
        words: how many labels, clusters and ones of noise it has.
    """

    matrix: Float[np.ndarray, "label output"]
    binary: Bool[np.ndarray, "label output"]
    clusters: list[list[int]]
    words: str


def one_unit(run: Run, site: str, index: int, *, unit: Unit = "node", theta: float = THETA) -> OneUnit:
    """The unit at this place, from 0, of a site; raises ValueError as :meth:`snp_lib.store.Run.matrices` does."""
    matrix = run.matrices(site, unit=unit)[index : index + 1]
    summary = summarize(matrix, theta)
    words = f"{summary.labels_of_unit[0]} labels in {summary.clusters_of_unit[0]} clusters, noise {summary.noise[0]}"
    return OneUnit(matrix[0], binarize(matrix, theta)[0], summary.clusters[0], words)


def typical(run: Run, site: str, *, theta: float = THETA) -> int:
    """The node of a site that recognises a median number of labels; the first of several."""
    order = np.argsort(summarize(run.matrices(site), theta).labels_of_unit, kind="stable")
    return int(order[len(order) // 2])
