"""What heads do for labels: accuracy per label with heads switched off, and whether their claims explain it.

Source: defined here, as the causal test of the symmetry breaking that paper A (arXiv:2501.12900) describes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Num
from scipy.stats import rankdata
from torch import Tensor, nn
from tqdm.auto import tqdm

from snp_lib.data import Split
from snp_lib.models import CCT
from snp_lib.models.cct import Encoder
from snp_lib.performance.heads import p_value, shuffled_orders
from snp_lib.performance.readout import images_per_label

Variants = Literal["removed", "alone", "pairs"]
Replacement = Literal["zero", "mean"]


def kept_heads(variants: Variants, num_heads: int) -> Bool[np.ndarray, "variant head"]:
    """Heads that are left on: all but each one (``removed``), each one only (``alone``), or all but each two (``pairs``).

    Row h of ``removed`` and ``alone`` is head h; ``pairs`` follow ``itertools.combinations``, (0, 1) first.

    Raises:
        ValueError: unknown variants, or too few heads to take away that many.
    """
    if variants not in ("removed", "alone", "pairs"):
        raise ValueError(f'variants must be "removed", "alone" or "pairs", got {variants!r}')
    if num_heads < (2 if variants == "pairs" else 1):
        raise ValueError(f"{variants} of {num_heads} heads do not exist")
    if variants == "alone":
        return np.eye(num_heads, dtype=bool)
    groups = list(combinations(range(num_heads), 2 if variants == "pairs" else 1))
    kept = np.ones((len(groups), num_heads), dtype=bool)
    np.put_along_axis(kept, np.array(groups), False, axis=1)
    return kept


@dataclass(frozen=True)
class HeadAblation:
    """Accuracy per label of a network some of whose heads were switched off, one block at a time. K labels.

    Attributes:
        sites: the ``mha`` sites at which heads were switched off.
        kept: (V, H) heads left on in each variant, the same variants at every site.
        accuracy: (sites, V, K) share of the images of a label that are classified correctly, in [0, 1].
        baseline: (K,) the same of the intact network.
        images: (K,) images of each label.
        replacement: what stands in the place of a head: ``zero``, or its ``mean`` over images and tokens.
    """

    sites: tuple[str, ...]
    kept: Bool[np.ndarray, "variant head"]
    accuracy: Float64[np.ndarray, "site variant label"]
    baseline: Float64[np.ndarray, " label"]
    images: Int64[np.ndarray, " label"]
    replacement: Replacement

    def accuracy_of(self, site: str, kept: Bool[np.ndarray, "some head"]) -> Float64[np.ndarray, "some label"]:
        """Accuracy per label with these heads left on at a site; raises ValueError for what was not measured."""
        if site not in self.sites:
            raise ValueError(f"no head was switched off at {site!r}; measured were {', '.join(self.sites)}")
        rows = [np.flatnonzero((self.kept == wanted).all(axis=1)) for wanted in kept]
        for row, wanted in zip(rows, kept, strict=True):
            if not len(row):
                raise ValueError(f"the variant that keeps heads {np.flatnonzero(wanted).tolist()} was not measured")
        found: np.ndarray = self.accuracy[self.sites.index(site), [row[0] for row in rows]]
        return found

    def lost(self, site: str, kept: Bool[np.ndarray, "some head"]) -> Float64[np.ndarray, "some label"]:
        """Baseline accuracy minus accuracy per label; negative where the network does better without."""
        lost: np.ndarray = self.baseline - self.accuracy_of(site, kept)
        return lost


@torch.no_grad()
def ablate_heads(
    model: CCT,
    split: Split,
    normalize: Callable[[Tensor], Tensor],
    kept: Bool[np.ndarray, "variant head"],
    *,
    sites: Sequence[str] | None = None,
    replacement: Replacement = "zero",
    batch_size: int = 128,
    rows: int = 256,
    progress: bool = False,
) -> HeadAblation:
    """Accuracy per label with heads switched off in one block at a time, before the output projection.

    What stands before a head is computed once for all variants, so V variants at every block of L cost little more than
    V·L/2 forward passes instead of V·L.

    Args:
        model: trained network; used in eval mode, its weights and modes are left as they were.
        kept: heads left on in each variant, such as ``kept_heads("removed", num_heads)``; concatenate to measure several.
        sites: ``mha`` sites, default all.
        replacement: ``zero`` (what the head writes vanishes) or ``mean`` (its mean over all images of the split and all
            tokens: what it writes on average stays). A mean costs one more forward pass.
        batch_size: images in the shared part of a pass.
        rows: images × variants behind it, at most (at least one variant); bounds the memory.

    Raises:
        ValueError: not H columns in ``kept`` or no row, a site that is no ``mha`` site of this model, an unknown
            replacement, a label without an image.
    """
    sites = _checked_sites(model, kept, sites)
    if replacement not in ("zero", "mean"):
        raise ValueError(f'replacement must be "zero" or "mean", got {replacement!r}')
    if batch_size < 1 or rows < 1:
        raise ValueError(f"batch_size and rows must be at least 1, got {batch_size} and {rows}")
    classes = model.config.num_classes
    counts = images_per_label(split, classes)
    device = next(model.parameters()).device
    hits = torch.zeros(1 + len(sites) * len(kept), classes, dtype=torch.long, device=device)
    steps = -(-len(split) // batch_size)
    with evaluating(model):
        means = _head_means(model, split, normalize, sites, batch_size) if replacement == "mean" else None
        batches = zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True)
        for images, labels in tqdm(batches, total=steps, desc="ablation", unit="step", disable=not progress, leave=False):
            labels = labels.to(device)
            intact, ablated = ablated_logits(model, normalize(images.to(device)), kept, sites=sites, means=means, rows=rows)
            logits = torch.cat([intact[None], *ablated.values()])  # (1 + sites · V, N, K)
            hits.index_add_(1, labels, (logits.argmax(2) == labels).long())
    accuracy = hits.cpu().double() / counts
    return HeadAblation(
        sites=tuple(sites),
        kept=kept.copy(),
        accuracy=accuracy[1:].view(len(sites), len(kept), classes).numpy(),
        baseline=accuracy[0].numpy(),
        images=counts.numpy(),
        replacement=replacement,
    )


@torch.no_grad()
def ablated_logits(
    model: CCT,
    images: Float[Tensor, "n c s s"],
    kept: Bool[np.ndarray, "variant head"],
    *,
    sites: Sequence[str] | None = None,
    means: Mapping[str, Float[Tensor, " d"]] | None = None,
    rows: int = 256,
) -> tuple[Float[Tensor, "n k"], dict[str, Float[Tensor, "variant n k"]]]:
    """Logits of the intact network, and per site those of every variant, in the model's present mode.

    Args:
        images: normalised images.
        means: per site what stands in the place of a head that is switched off, channel by channel; None is zero.
        kept, sites, rows: as for :func:`ablate_heads`.

    Raises:
        ValueError: as :func:`ablate_heads`.
    """
    sites = _checked_sites(model, kept, sites)
    on = torch.from_numpy(kept).to(images.device).repeat_interleave(model.config.embed_dim // model.config.num_heads, dim=1)
    ablated = {}
    tokens = model.embed(images)
    encoders = cast(list[Encoder], list(model.encoders))
    for b, encoder in enumerate(encoders, start=1):
        mha = encoder.attention(encoder.norm1(tokens))
        if (site := f"block{b}.mha") in sites:
            off = means[site] if means is not None else mha.new_zeros(())
            chunks = on.split(max(1, rows // len(images)))
            ablated[site] = torch.cat([_continue(model, b, tokens, mha, chunk, off) for chunk in chunks])
        tokens = encoder.after_attention(tokens, mha)["block"]
    return model.classify(tokens), {site: ablated[site] for site in sites}


def _continue(
    model: CCT,
    block: int,
    tokens: Float[Tensor, "n t d"],
    mha: Float[Tensor, "n t d"],
    on: Bool[Tensor, "v d"],
    off: Float[Tensor, "*d"],
) -> Float[Tensor, "v n k"]:
    """From behind the attention of an encoder to the logits of variants that keep the channels ``on``."""
    changed = torch.where(on[:, None, None], mha, off).flatten(0, 1)  # (V · N, T, d)
    tokens = cast(Encoder, model.encoders[block - 1]).after_attention(tokens.repeat(len(on), 1, 1), changed)["block"]
    return model.behind(tokens, block + 1).view(len(on), len(mha), -1)


def _head_means(
    model: CCT, split: Split, normalize: Callable[[Tensor], Tensor], sites: Sequence[str], batch_size: int
) -> dict[str, Float[Tensor, " d"]]:
    """Mean of every ``mha`` channel over all images of the split and all tokens."""
    device = next(model.parameters()).device
    sums = {site: torch.zeros(model.config.embed_dim, dtype=torch.float64, device=device) for site in sites}
    for images in split.images.split(batch_size):
        for site, feature in model(normalize(images.to(device)), sites=sites)[1].items():
            sums[site] += feature.double().sum((0, 1))
    return {site: (total / (len(split) * model.config.num_tokens)).float() for site, total in sums.items()}


def _checked_sites(model: CCT, kept: Bool[np.ndarray, "variant head"], sites: Sequence[str] | None) -> list[str]:
    heads = model.config.num_heads
    if kept.ndim != 2 or kept.shape[1] != heads or not len(kept):
        raise ValueError(f"kept must be (variant, {heads}) for a model of {heads} heads, got shape {kept.shape}")
    if sites is not None and not len(sites):
        raise ValueError("name at least one site")
    there = [site for site in model.sites if site.endswith(".mha")]
    if unknown := [site for site in sites or () if site not in there]:
        raise ValueError(f"unknown site {unknown[0]!r}; heads live at {', '.join(there)}")
    return there if sites is None else [site for site in there if site in sites]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards each of its modules is back in its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class Explanation:
    """Spearman's rank correlation of claims and lost accuracy over all (head, label), and how sure it is.

    Attributes:
        correlation: ρ in [−1, 1]; NaN where all claims or all losses are equal, and then the rest is NaN too.
        interval: 95 % percentile interval over resampled labels (resamples without a correlation are left out).
        p: one-sided, (1 + shuffles with at least this ρ) / (1 + P), shuffling the labels of the losses, all heads together.
        null_mean: mean ρ of the shuffles; not zero where heads with more claims lose more on every label.
    """

    correlation: float
    interval: tuple[float, float]
    p: float
    null_mean: float


def claims_explain(
    claims: Num[np.ndarray, "head label"],
    lost: Float[np.ndarray, "head label"],
    *,
    within_label: bool = False,
    bootstrap: int = 1000,
    permutations: int = 1000,
    seed: int = 0,
) -> Explanation:
    """Do the labels that a head claims suffer when the head is taken away?

    Labels are what is resampled and shuffled, never single (head, label) pairs: the heads of a label are not independent.
    A shuffle keeps every head's losses, so a head that matters for all labels explains nothing by itself.

    Args:
        claims: A[h, l].
        lost: baseline accuracy minus accuracy without head h, per label, as :meth:`HeadAblation.lost` gives it.
        within_label: subtract each label's mean over heads from both sides first, so that a label widely known and easily
            lost counts for nothing and only *which* head it is remains.
        bootstrap: resamples of the labels for the interval.
        permutations: shuffles for p, P.

    Raises:
        ValueError: shapes that differ, an element that is not finite, or fewer than one resample or permutation.
    """
    if claims.shape != lost.shape:
        raise ValueError(f"claims and lost must agree in heads and labels, got {claims.shape} and {lost.shape}")
    if not (np.isfinite(claims).all() and np.isfinite(lost).all()):
        raise ValueError("claims and lost accuracies must be finite")
    if bootstrap < 1:
        raise ValueError(f"bootstrap must be at least 1, got {bootstrap}")
    rng = np.random.default_rng(seed)
    x, y = np.asarray(claims, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    if within_label:
        x, y = (np.round(side - side.mean(axis=0), 12) for side in (x, y))  # rounding noise would break ties into ranks
    labels = x.shape[1]
    orders = shuffled_orders(labels, permutations, rng)
    draws = rng.integers(labels, size=(bootstrap, labels))
    observed = float(_spearman(x[:, None], y[:, None])[0])
    if np.isnan(observed):
        return Explanation(observed, (observed, observed), observed, observed)
    null = _spearman(x[:, None], y[:, orders])
    resampled = _spearman(x[:, draws], y[:, draws])
    low, high = np.nanquantile(resampled, (0.025, 0.975)) if np.isfinite(resampled).any() else (np.nan, np.nan)
    return Explanation(observed, (float(low), float(high)), float(p_value(null, observed)), float(null.mean()))


def _spearman(x: Float[np.ndarray, "head _ label"], y: Float[np.ndarray, "head _ label"]) -> Float[np.ndarray, " sample"]:
    """Pearson's correlation of the ranks (ties share their mean rank) over heads and labels; NaN where a side is constant.

    One sample against many is broadcast.
    """
    ranks = (rankdata(side.swapaxes(0, 1).reshape(side.shape[1], -1), axis=1) for side in (x, y))
    u, v = (side - side.mean(axis=1, keepdims=True) for side in ranks)
    scale = np.sqrt((u * u).sum(axis=1) * (v * v).sum(axis=1))
    correlation: np.ndarray = np.divide((u * v).sum(axis=1), scale, out=np.full(scale.shape, np.nan), where=scale > 0)
    return correlation
