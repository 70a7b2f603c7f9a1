"""What heads attend to: maps of attention, how focused it is and how far it reaches, and what it tells of the label.

The attention map of a head on an image is what every token receives, the mean of its attention weights over queries (defined
here). Mean attention distance: Dosovitskiy et al., arXiv:2010.11929, section 4.5. What the label explains is the correlation
ratio η² of analysis of variance, over all tokens of a map together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor
from tqdm.auto import tqdm

from snp_lib.data import Split
from snp_lib.models.sites import Network, depth_of, evaluating

RIDGE = 0.01  # share of the mean variance: maps sum to one, so one direction has none


@dataclass(frozen=True)
class Attention:
    """What the heads of a network attend to on every image. L encoders, H heads, N images, T tokens.

    Attributes:
        maps: (L, H, N, T) what every token receives, mean over queries; sums to one over tokens.
        entropy: (L, H, N) of the attention weights of a query, mean over queries, bits; at most log2 T.
        distance: (L, H, N) between a query and what it attends to, weighted by attention, mean over queries, in tokens.
    """

    maps: Float32[np.ndarray, "block head image token"]
    entropy: Float32[np.ndarray, "block head image"]
    distance: Float32[np.ndarray, "block head image"]


@torch.no_grad()
def attend_to(
    model: Network,
    split: Split,
    prepare: Callable[[Tensor], Tensor],
    *,
    batch_size: int = 128,
    rows: int = 2,
    bfloat16: bool = False,
    progress: bool = False,
) -> Attention:
    """The attention of every head of every encoder on each input of a split, in one pass over it.

    Args:
        model: used in eval mode, its weights and modes are left as they were.
        rows: images whose attention weights are held at a time; so few stay in the cache of a core.
        bfloat16: the network's products in bfloat16; the weights of the attention and their sums stay in float32.

    Raises:
        NotImplementedError: a network that does not say what its heads attend to.
    """
    device = next(model.parameters()).device
    apart = token_distances(*model.grid).to(device)
    blocks, steps = range(1, depth_of(model.sites) + 1), -(-len(split) // batch_size)
    batches = []
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        for inputs, _ in tqdm(split.batches(batch_size), total=steps, desc="attention", unit="step", disable=not progress, leave=False):
            prepared = prepare(inputs.to(device))
            hidden, mask, found = model.before(prepared, 1), model.mask(prepared), []
            queries = [None] * len(hidden) if mask is None else mask.sum(1).split(rows)
            for block in blocks:
                parts = [
                    reduced(model.attention_weights(part, block), apart, count)
                    for part, count in zip(hidden.split(rows), queries, strict=False)
                ]
                found.append([torch.cat(each).cpu() for each in zip(*parts, strict=True)])
                hidden = model.after_attention(hidden, model.attention(hidden, block), block)
            batches.append([torch.stack(each) for each in zip(*found, strict=True)])  # (L, n, H, …)
    maps, entropy, distance = (torch.cat(each, dim=1).transpose(1, 2).numpy() for each in zip(*batches, strict=True))
    return Attention(maps=maps, entropy=entropy, distance=distance)


def reduced(
    weights: Float[Tensor, "n h t t"], apart: Float[Tensor, "t t"], queries: Int64[Tensor, " n"] | None = None
) -> tuple[Float[Tensor, "n h t"], Float[Tensor, "n h"], Float[Tensor, "n h"]]:
    """Attention weights to what every token receives, entropy in bits and distance in the units of ``apart``, means over queries.

    Args:
        queries: how many tokens of each input are there; rows of the others are zero. None: all.
    """
    tokens: int | Tensor = weights.shape[-1] if queries is None else queries[:, None]
    with torch.autocast(weights.device.type, enabled=False):
        flat = weights.flatten(2)
        logarithms = flat.clamp_min(torch.finfo(flat.dtype).tiny).log_()  # three times as fast as torch.special.entr
        entropy = -torch.linalg.vecdot(flat, logarithms) / (tokens * np.log(2))
        received = weights.mean(2) if queries is None else weights.sum(2) / queries[:, None, None]
        return received, entropy, flat @ apart.flatten() / tokens


def token_distances(height: int, width: int) -> Float[Tensor, "t t"]:
    """Distance between any two tokens of a grid, row by row, in tokens."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1).float()
    return (places[:, None] - places).square().sum(2).sqrt()


def uniform_distance(height: int, width: int) -> float:
    """Mean attention distance of a head that attends to all tokens alike, in tokens."""
    return float(token_distances(height, width).mean())


def explained_by_label(
    maps: Float[np.ndarray, "image token"], labels: Int[np.ndarray, " image"], num_labels: int
) -> Float[np.ndarray, " label"]:
    """What each label adds to η², the share of the variance of the maps over images that lies between labels.

    Label l adds n_l·‖m_l − m‖² / Σ_i ‖x_i − m‖², m_l being its mean map and m that of all images; NaN where all maps are equal.

    Raises:
        ValueError: a label without an image.
    """
    counts, means = _class_means(maps, labels, num_labels)
    centre = maps.mean(axis=0, dtype=np.float64)
    total = ((maps - centre) ** 2).sum()
    between = counts * ((means - centre) ** 2).sum(axis=1)
    return np.asarray(between / total if total > 0 else np.full(num_labels, np.nan))


def explained_by_chance(counts: Int[np.ndarray, " label"]) -> Float[np.ndarray, " label"]:
    """Mean of :func:`explained_by_label` over all ways to shuffle the labels: (1 − n_l/n) / (n − 1), of (K − 1)/(n − 1) in all."""
    images = counts.sum()
    return np.asarray((1 - counts / images) / (images - 1))


def decoded(
    maps: Float[np.ndarray, "image token"], labels: Int[np.ndarray, " image"], num_labels: int, *, whitened: bool = False
) -> Int[np.ndarray, " label"]:
    """Images of each label whose map lies nearest to the mean map of that label, of all labels, over the *other* half of the images.

    Every second image of a label makes up one half.

    Args:
        whitened: distances relative to the spread of maps within labels (linear discriminant analysis, ``RIDGE`` of the mean
            variance added to every token), over the other half too; else Euclidean distances.

    Raises:
        ValueError: a label with fewer than two images.
    """
    half = halves(labels, num_labels)
    hits = np.zeros(num_labels, dtype=np.int64)
    for tested in (False, True):
        known, named = maps[half != tested].astype(np.float64), labels[half != tested]
        means = _class_means(known, named, num_labels)[1]
        seen, truth = maps[half == tested].astype(np.float64), labels[half == tested]
        if whitened:
            metric = _whitening(known - means[named])
            means, seen = means @ metric, seen @ metric
        nearest = ((means**2).sum(axis=1) - 2 * seen @ means.T).argmin(axis=1)
        hits += np.bincount(truth[nearest == truth], minlength=num_labels)
    return hits


def _whitening(residuals: Float[np.ndarray, "image token"]) -> Float[np.ndarray, "token token"]:
    """W with ‖(x − y)W‖² the squared distance of two rows relative to the covariance of these."""
    covariance = residuals.T @ residuals / len(residuals)
    variances, axes = np.linalg.eigh(covariance)
    floor = RIDGE * variances.mean()
    return np.asarray(axes / np.sqrt(np.maximum(variances, 0) + floor) if floor > 0 else np.eye(len(axes)))


def halves(labels: Int[np.ndarray, " image"], num_labels: int) -> np.ndarray:
    """False for the first, third … image of every label and True for the others; raises ValueError for a label with fewer than two."""
    if (few := np.flatnonzero(np.bincount(labels, minlength=num_labels) < 2)).size:
        raise ValueError(f"label {few[0]} has fewer than two images, so no two halves")
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], labels[order])
    half = np.empty(len(labels), dtype=bool)
    half[order] = (np.arange(len(labels)) - first) % 2 == 1
    return half


def pooled(maps: Float[np.ndarray, "*batch token"], grid: tuple[int, int], most: int = 8) -> Float[np.ndarray, "*batch row column"]:
    """Maps on their grid, neighbouring tokens averaged until no side is longer than ``most`` or two no longer divide it."""
    image = maps.reshape(*maps.shape[:-1], *grid)
    while max(image.shape[-2:]) > most and not (image.shape[-2] % 2 or image.shape[-1] % 2):
        image = image.reshape(*image.shape[:-2], image.shape[-2] // 2, 2, image.shape[-1] // 2, 2).mean(axis=(-3, -1))
    return np.asarray(image)


def means_by_label(
    values: Float[np.ndarray, "*batch image"], labels: Int[np.ndarray, " image"], num_labels: int
) -> Float[np.ndarray, "*batch label"]:
    """Mean over the images of each label; raises ValueError for a label without an image."""
    means = _class_means(np.moveaxis(values, -1, 0).reshape(len(labels), -1), labels, num_labels)[1]
    return np.asarray(np.moveaxis(means.reshape(num_labels, *values.shape[:-1]), 0, -1))


def _class_means(
    rows: Float[np.ndarray, "image feature"], labels: Int[np.ndarray, " image"], num_labels: int
) -> tuple[Int[np.ndarray, " label"], Float[np.ndarray, "label feature"]]:
    """Images of each label, and the mean of their rows."""
    counts = np.bincount(labels, minlength=num_labels)
    if not counts.all():
        raise ValueError(f"label {counts.argmin()} has no image, so no mean")
    order = np.argsort(labels, kind="stable")
    sums = np.add.reduceat(rows[order].astype(np.float64), np.cumsum(counts) - counts, axis=0)
    return counts, sums / counts[:, None]
