"""Clusters, noise and signal-to-noise of performance matrices, vectorised over units.

Source: paper C (AFCC) and its released code for thresholds, clusters and noise; the treatment of silent units and the
signal-to-noise ratio are defined here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from numpy.typing import ArrayLike

THETA = 0.3  # threshold of the released code of paper C


def binarize(matrices: ArrayLike, threshold: float = THETA) -> Bool[np.ndarray, "unit label output"]:
    """Divide each unit's matrix by its largest element and mark what exceeds the threshold.

    A unit without a positive element is silent and all False (defined here: the released code divides by the negative
    maximum, which marks every element of such a unit).

    Raises:
        ValueError: not square matrices, NaN or infinite elements, or a threshold outside [0, 1).
    """
    values = np.asarray(matrices)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"expected real numbers, got dtype {values.dtype}")
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    if values.ndim != 3 or values.shape[1] != values.shape[2]:
        raise ValueError(f"expected matrices (unit, label, label), got shape {values.shape}")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must lie in [0, 1), got {threshold}")
    binary, quotients = np.empty(values.shape, dtype=bool), np.empty_like(values[:16])
    for start in range(0, len(values), 16):  # a few units at a time in the same memory, which stays in the cache
        part = values[start : start + 16]
        if not (finite := np.isfinite(part)).all():
            unit = start + int(np.argwhere(~finite)[0, 0])
            raise ValueError(f"the matrix of unit {unit} holds NaN or infinity: the measurement before it went wrong")
        largest = part.max(axis=(1, 2), keepdims=True, initial=-np.inf)
        with np.errstate(over="ignore"):  # a tiny maximum under a huge negative element: −inf stays below any threshold
            shares = np.divide(part, np.where(largest > 0, largest, 1), out=quotients[: len(part)])
        np.greater(shares, threshold, out=binary[start : start + 16])
        binary[start : start + 16][largest[:, 0, 0] <= 0] = False
    return binary


def diagonal_sets(binary: Bool[np.ndarray, "unit label label"]) -> Bool[np.ndarray, "unit label"]:
    """Labels that each unit recognises, D_u = {i : B[i, i]}, from the thresholded matrices of :func:`binarize`."""
    return np.diagonal(binary, axis1=1, axis2=2).copy()


def diagonal_shares(matrices: Float[np.ndarray, "unit label output"]) -> Float[np.ndarray, "unit label"]:
    """Diagonal elements of each unit's matrix over its largest element, −1 for a silent unit: what exceeds θ is its diagonal set."""
    largest = matrices.max(axis=(1, 2))[:, None]
    diagonal = np.diagonal(matrices, axis1=1, axis2=2)
    return np.where(largest > 0, diagonal / np.where(largest > 0, largest, 1), -1)


def cluster_index(binary: Bool[np.ndarray, "unit label label"]) -> Int[np.ndarray, "unit label"]:
    """Cluster that each label belongs to, numbered in the order found; −1 for labels outside the diagonal set.

    The greedy walk of the released code: open a cluster with the first free label of the diagonal set, add each later
    free label for which the square over the cluster stays all ones, repeat. Done here as first fit, label by label: a
    label enters the first cluster whose members all agree with it. Both orders accept the same labels, because whether
    a cluster takes a label depends only on the cluster's earlier members.
    """
    units, labels, _ = binary.shape
    diagonal = diagonal_sets(binary)
    # accepts[u, c, l]: every member of cluster c agrees with label l; a cluster not yet open accepts every label
    accepts = np.ones((units, int(diagonal.sum(axis=1).max(initial=0)), labels), dtype=bool)
    index = np.full((units, labels), -1)
    for label in np.flatnonzero(diagonal.any(axis=0)):
        active = np.flatnonzero(diagonal[:, label])
        first = accepts[active, :, label].argmax(axis=1)
        index[active, label] = first
        accepts[active, first] &= binary[active, label] & binary[active, :, label]
    return index


def find_clusters(binary: ArrayLike) -> list[list[int]]:
    """Clusters of one unit: lists of labels, in the order found, each in ascending order.

    Args:
        binary: one thresholded performance matrix, Boolean, label × label.

    Raises:
        ValueError: not one square Boolean matrix.
    """
    matrix = np.asarray(binary)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype != bool:
        raise ValueError(f"expected one square Boolean matrix, got {matrix.dtype} of shape {matrix.shape}")
    index = cluster_index(matrix[None])[0]
    return [np.flatnonzero(index == c).tolist() for c in range(index.max(initial=-1) + 1)]


def column_noise(binary: Bool[np.ndarray, "unit label label"]) -> Int[np.ndarray, " unit"]:
    """Ones outside the cluster squares in the columns of the labels that each unit recognises alone.

    The second noise of the released code of paper C: what raises one of the unit's own flags for a wrong label. The first, which
    counts the ones of all columns, is that of :class:`Summary`.
    """
    squares = (_sizes(cluster_index(binary)) ** 2).sum(axis=1)
    return np.asarray(np.einsum("uij,uj->u", binary, diagonal_sets(binary), dtype=np.int64) - squares)


@dataclass(frozen=True)
class Summary:
    """What the units of one site know. U units, K labels; the averages of a site are properties.

    Attributes:
        silent: (U,) units whose matrix has no positive element.
        diagonal: (U, K) labels that a unit recognises, D_u.
        cluster_of: (U, K) index of each label's cluster, −1 outside D_u.
        noise: (U,) ones of the thresholded matrix outside the cluster squares, n_u.
    """

    silent: Bool[np.ndarray, " unit"]
    diagonal: Bool[np.ndarray, "unit label"]
    cluster_of: Int[np.ndarray, "unit label"]
    noise: Int[np.ndarray, " unit"]

    @property
    def clusters(self) -> list[list[list[int]]]:
        """Per unit its clusters, as :func:`find_clusters` gives them."""
        return [[np.flatnonzero(row == c).tolist() for c in range(row.max(initial=-1) + 1)] for row in self.cluster_of]

    @property
    def cluster_sizes(self) -> Int[np.ndarray, "unit cluster"]:
        """Labels in each cluster, zero where a unit has fewer clusters."""
        return _sizes(self.cluster_of)

    @property
    def labels_of_unit(self) -> Int[np.ndarray, " unit"]:
        """Labels that each unit recognises, ``|D_u|``."""
        return np.asarray(self.diagonal.sum(axis=1))

    @property
    def clusters_of_unit(self) -> Int[np.ndarray, " unit"]:
        """Clusters of each unit."""
        return np.asarray(self.cluster_of.max(axis=1, initial=-1) + 1)

    def _mean(self, values: Num[np.ndarray, " unit"], clustered_only: bool) -> float:
        chosen = values[self.clusters_of_unit > 0] if clustered_only else values
        return float(chosen.mean()) if len(chosen) else float("nan")

    def labels_per_unit(self, clustered_only: bool = False) -> float:
        """Mean of ``|D_u|`` over all units, or over those with a cluster (NaN if there are none)."""
        return self._mean(self.labels_of_unit, clustered_only)

    def clusters_per_unit(self, clustered_only: bool = False) -> float:
        """Mean number of clusters, over all units or over those with one."""
        return self._mean(self.clusters_of_unit, clustered_only)

    def noise_per_unit(self, clustered_only: bool = False) -> float:
        """Mean of n_u, over all units or over those with a cluster."""
        return self._mean(self.noise, clustered_only)

    @property
    def cluster_size(self) -> float:
        """Mean size over all clusters of the site, in labels (NaN if there are none)."""
        clusters = int(self.clusters_of_unit.sum())
        return float(self.diagonal.sum() / clusters) if clusters else float("nan")

    @property
    def unit_clusters(self) -> float:
        """Share of clusters that hold a single label (NaN if there are none)."""
        sizes = self.cluster_sizes
        clusters = int((sizes > 0).sum())
        return float((sizes == 1).sum() / clusters) if clusters else float("nan")

    @property
    def signal(self) -> float:
        """``S = Σ_u |D_u| / K``, units that raise the flag of a label, averaged over labels."""
        return float(self.diagonal.sum() / self.diagonal.shape[1])

    @property
    def internal_noise(self) -> float:
        """``Σ_u Σ_c |c|(|c|−1) / (K(K−1))``, ones inside cluster squares that point to another label of the cluster."""
        sizes = self.cluster_sizes
        return float((sizes * (sizes - 1)).sum() / self._pairs)

    @property
    def external_noise(self) -> float:
        """Σ_u n_u / (K(K−1))."""
        return float(self.noise.sum() / self._pairs)

    @property
    def snr(self) -> float:
        """signal / (internal + external noise); infinite without noise, NaN without signal and noise."""
        noise = self.internal_noise + self.external_noise
        if noise == 0:
            return float("inf") if self.signal else float("nan")
        return self.signal / noise

    def averages(self) -> dict[str, float]:
        """Every statistic of the site by the name that tables give it."""
        return {
            "labels": self.labels_per_unit(),
            "labels_clustered": self.labels_per_unit(clustered_only=True),
            "clusters": self.clusters_per_unit(),
            "cluster_size": self.cluster_size,
            "unit_clusters": self.unit_clusters,
            "noise": self.noise_per_unit(),
            "noise_clustered": self.noise_per_unit(clustered_only=True),
            "unclustered": float((self.clusters_of_unit == 0).mean()),
            "signal": self.signal,
            "internal_noise": self.internal_noise,
            "external_noise": self.external_noise,
            "snr": self.snr,
        }

    @property
    def _pairs(self) -> int:
        labels: int = self.diagonal.shape[1]
        return labels * (labels - 1)


def summarize(matrices: ArrayLike, threshold: float = THETA) -> Summary:
    """Thresholded matrices of all units of a site to diagonal sets, clusters and noise.

    Args:
        matrices: performance matrices (unit, label, label), as :func:`snp_lib.performance.unit_matrices` gives them.
        threshold: θ, as a share of each unit's largest element.

    Raises:
        ValueError: wrong shape, NaN or infinite elements, fewer than two labels, or a threshold outside [0, 1).
    """
    binary = binarize(matrices, threshold)
    if binary.shape[1] < 2:
        raise ValueError("a signal-to-noise ratio needs at least two labels")
    index = cluster_index(binary)
    ones = binary.sum(axis=(1, 2))
    return Summary(
        silent=ones == 0,
        diagonal=diagonal_sets(binary),
        cluster_of=index,
        noise=ones - (_sizes(index) ** 2).sum(axis=1),
    )


def _sizes(cluster_of: Int[np.ndarray, "unit label"]) -> Int[np.ndarray, "unit cluster"]:
    """Labels in each cluster of each unit; as many places as labels, the last ones zero."""
    units, labels = cluster_of.shape
    places = labels * np.arange(units)[:, None] + cluster_of
    return np.bincount(places[cluster_of >= 0], minlength=units * labels).reshape(units, labels)
