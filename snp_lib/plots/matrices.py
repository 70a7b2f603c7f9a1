"""Performance matrices, and maps of claims."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from snp_lib.plots.style import COLORS


def matrix_triptych(raw: np.ndarray, binary: np.ndarray, clusters: Sequence[Sequence[int]]) -> Figure:
    """One unit's matrix as measured, thresholded, and with labels permuted so that clusters stand on the diagonal."""
    order = cluster_order(clusters, len(raw))
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 3.0), layout="constrained")
    limit = np.abs(raw).max()
    axes[0].imshow(raw / limit, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    ink = ListedColormap(["#ffffff", COLORS["mha"]])
    axes[1].imshow(binary, cmap=ink, vmin=0, vmax=1, interpolation="nearest")
    axes[2].imshow(binary[np.ix_(order, order)], cmap=ink, vmin=0, vmax=1, interpolation="nearest")
    start = 0
    for cluster in clusters:
        axes[2].add_patch(Rectangle((start - 0.5, start - 0.5), len(cluster), len(cluster), fill=False, ec="#d55e00", lw=1.5))
        start += len(cluster)
    for axis, title in zip(axes, ("measured", "thresholded", "clusters first"), strict=True):
        axis.set(xlabel="output", xticks=[], yticks=[], title=title)
        sns.despine(ax=axis, top=False, right=False)
    axes[0].set_ylabel("true label")
    return figure


def cluster_order(clusters: Sequence[Sequence[int]], labels: int) -> list[int]:
    """Labels permuted for display: the clusters one after the other, then the rest."""
    taken = [label for cluster in clusters for label in cluster]
    return taken + [label for label in range(labels) if label not in set(taken)]


def matrix_pixels(binary: np.ndarray, clusters: Sequence[Sequence[int]], *, ordered: bool) -> np.ndarray:
    """RGB pixels of a thresholded matrix, one per element: clusters orange, noise blue, zero white."""
    pixels = np.ones((*binary.shape, 3))
    pixels[binary] = to_rgb(COLORS["mha"])
    for cluster in clusters:
        pixels[np.ix_(cluster, cluster)] = to_rgb("#d55e00")
    if ordered:
        order = cluster_order(clusters, len(binary))
        pixels = pixels[np.ix_(order, order)]
    return (255 * pixels).astype(np.uint8)


def claim_maps(maps: dict[str, np.ndarray]) -> Figure:
    """One strip per encoder: heads down, labels across, sorted by the head that claims them most; dark is many nodes.

    Every label's claims are shown as shares of its own claims, so that a column says who claims it.
    """
    figure, axes = plt.subplots(len(maps), 1, figsize=(6.4, 1.0 * len(maps) + 0.8), layout="constrained", squeeze=False)
    for axis, (title, claims) in zip(axes.flat, maps.items(), strict=True):
        share = claims / np.maximum(claims.sum(axis=0), 1)
        order = np.lexsort((-share.max(axis=0), share.argmax(axis=0)))
        image = axis.imshow(share[:, order], aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axis.set(ylabel=title, xticks=[], yticks=range(len(claims)), yticklabels=range(1, len(claims) + 1))
        axis.tick_params(labelsize=9, length=0)
    axes.flat[-1].set_xlabel("labels, sorted by the head that claims them most")
    figure.colorbar(image, ax=axes, label="share of the label's claims", shrink=min(1.0, 2.5 / len(maps)))
    return figure
