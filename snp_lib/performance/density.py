"""The signal-to-noise ratio at equal density: what is left of it when every unit has as many ones (defined here).

With K labels the SNR of :class:`snp_lib.performance.clusters.Summary` is the density of ones on the diagonal of the
thresholded matrices over the density off it, ``Σ_u |D_u| / K`` over ``Σ_u (ones_u − |D_u|) / (K(K − 1))``, so that the
clusters cancel. So it rises by mere sparsity wherever a fixed θ leaves fewer ones, the largest of which lie on the diagonal
more often. Here the number of ones is given, in place of θ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Matrices = Float[np.ndarray, "unit label output"]


def ratio(hits: float, ones: float, labels: int) -> float:
    """SNR of units that have so many ones together, ``hits`` of them on the diagonal; infinite where all are there, NaN without ones."""
    if ones == 0:
        return float("nan")
    return float("inf") if hits == ones else (labels - 1) * hits / (ones - hits)


def diagonal_ranks(matrices: Matrices) -> Int[np.ndarray, "unit label"]:
    """How many elements of its unit come before each diagonal element, the largest first; among equals those earlier in reading order.

    A unit without a positive element is silent: its ranks are K², beyond all.
    """
    units, labels, _ = matrices.shape
    values = matrices.reshape(units, -1)
    places = np.arange(labels) * (labels + 1)
    ranks = np.full((units, labels), labels * labels)
    ordered = np.sort(values, axis=1)
    for unit in np.flatnonzero(ordered[:, -1] > 0):
        diagonal = values[unit, places]
        above = labels * labels - np.searchsorted(ordered[unit], diagonal, side="right")
        equal = labels * labels - np.searchsorted(ordered[unit], diagonal, side="left") - above
        for label in np.flatnonzero(equal > 1):
            above[label] += (values[unit, : places[label]] == diagonal[label]).sum()
        ranks[unit] = above
    return ranks


def snr_at_density(matrices: Matrices, ones: int | Int[np.ndarray, " unit"]) -> float:
    """SNR of a site where each unit keeps so many of its largest elements.

    Args:
        matrices: performance matrices, as :func:`snp_lib.performance.unit_matrices` gives them.
        ones: for all units, or of each.

    Raises:
        ValueError: a number of ones that a matrix has not.
    """
    return _snr(diagonal_ranks(matrices), ones)


def operating_curve(matrices: Matrices, counts: Sequence[int | Int[np.ndarray, " unit"]]) -> Float[np.ndarray, " count"]:
    """The same for several numbers of ones, each for all units or of each, from one sorting."""
    ranks = diagonal_ranks(matrices)
    return np.array([_snr(ranks, count) for count in counts])


def _snr(ranks: Int[np.ndarray, "unit label"], ones: int | Int[np.ndarray, " unit"]) -> float:
    units, labels = ranks.shape
    given, most = np.broadcast_to(np.asarray(ones), (units,)), labels * labels
    if given.min() < 0 or given.max() > most:
        raise ValueError(f"a matrix of {labels} labels has 0 to {most} ones, not {given.min()} to {given.max()}")
    heard = ranks[:, 0] < most
    return ratio(float((ranks < given[:, None]).sum()), float((given * heard).sum()), labels)


@dataclass(frozen=True)
class Decomposition:
    """The rise of the SNR from one site to another, in two factors: rise = sparsity · alignment.

    Attributes:
        rise: SNR of the second site over that of the first, each at θ.
        sparsity: what the first site gains where its units are given as many ones as the second's have: unit by unit in
            the order of their ones.
        alignment: what is left: the second site over the first at that number of ones.
    """

    rise: float
    sparsity: float
    alignment: float


def decompose(first: Matrices, second: Float[np.ndarray, "other label output"], theta: float) -> Decomposition:
    """The rise from the first to the second site at a threshold, infinite or NaN where the first has nothing on its diagonal.

    Raises:
        ValueError: sites of different size.
    """
    if first.shape != second.shape:
        raise ValueError(f"sites of equal shape are needed, got {first.shape} and {second.shape}")
    before, after = ones_at(first, theta), ones_at(second, theta)
    given = np.empty_like(before)
    given[np.argsort(before, kind="stable")] = np.sort(after)
    ranks = diagonal_ranks(first)
    start, moved = _snr(ranks, before), _snr(ranks, given)
    end = snr_at_density(second, after)
    with np.errstate(divide="ignore", invalid="ignore"):  # a site without a one on its diagonal
        rise, sparsity, alignment = np.divide([end, moved, end], [start, start, moved]).tolist()
    return Decomposition(rise=rise, sparsity=sparsity, alignment=alignment)


def ones_at(matrices: Matrices, theta: float) -> Int[np.ndarray, " unit"]:
    """Elements of each unit above θ times its largest one; none of a silent unit."""
    largest = matrices.max(axis=(1, 2))
    shares = matrices / np.where(largest > 0, largest, 1)[:, None, None]
    return np.asarray(((shares > theta).sum(axis=(1, 2)) * (largest > 0)).astype(np.int64))


def centred(matrices: Matrices) -> Matrices:
    """The matrices with every output's mean over labels taken away, as if the class means of each feature were centred over labels.

    A feature that is large whatever the label puts ones in whole columns of a rank-one matrix, W_ju φ_iu; this takes it away.
    """
    return np.asarray(matrices - matrices.mean(axis=1, keepdims=True))


def gauged(matrices: Matrices) -> Matrices:
    """The matrices in the gauge Σ_j W_j = 0: every label's mean over outputs taken away.

    Adding one vector to the weights of all outputs leaves every prediction alone, but not the matrices; this makes them one.
    """
    return np.asarray(matrices - matrices.mean(axis=2, keepdims=True))
