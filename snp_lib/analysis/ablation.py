"""What heads do for labels: accuracy per label with heads switched off, and whether their claims explain it.

Source: defined here, as the causal test of the symmetry breaking that paper A (arXiv:2501.12900) describes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from tqdm.auto import tqdm

from snp_lib.data import Split
from snp_lib.data.dataset import inputs_per_label
from snp_lib.models.sites import Network, depth_of, evaluating

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
        accuracy: (sites, V, K) share of the inputs of a label that are classified correctly, in [0, 1].
        baseline: (K,) the same of the intact network.
        counts: (K,) inputs of each label.
        replacement: what stands in the place of a head: ``zero``, or its ``mean`` over images and tokens.
    """

    sites: tuple[str, ...]
    kept: Bool[np.ndarray, "variant head"]
    accuracy: Float64[np.ndarray, "site variant label"]
    baseline: Float64[np.ndarray, " label"]
    counts: Int64[np.ndarray, " label"]
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
    model: Network,
    split: Split,
    prepare: Callable[[Tensor], Tensor],
    kept: Bool[np.ndarray, "variant head"],
    *,
    sites: Sequence[str] | None = None,
    replacement: Replacement = "zero",
    batch_size: int = 128,
    rows: int = 256,
    bfloat16: bool = False,
    progress: bool = False,
) -> HeadAblation:
    """Accuracy per label with heads switched off in one block at a time, before the output projection.

    What stands before a head is computed once for all variants, so V variants at every block of L cost little more than
    V·L/2 forward passes instead of V·L.

    Args:
        model: trained network; used in eval mode, its weights and modes are left as they were.
        kept: heads left on in each variant, such as ``kept_heads("removed", num_heads)``; concatenate to measure several.
        sites: ``mha`` sites, default all.
        replacement: ``zero`` (what the head writes vanishes) or ``mean`` (its mean over all inputs of the split and all
            tokens: what it writes on average stays). A mean costs one more forward pass.
        batch_size: inputs in the shared part of a pass.
        rows: inputs × variants behind it, at most (at least one variant); bounds the memory.
        bfloat16: on a GPU the network's products in bfloat16.

    Raises:
        ValueError: not H columns in ``kept`` or no row, a site that is no ``mha`` site of this model, an unknown
            replacement, a label without an input.
    """
    sites = _checked_sites(model, kept, sites)
    if replacement not in ("zero", "mean"):
        raise ValueError(f'replacement must be "zero" or "mean", got {replacement!r}')
    if batch_size < 1 or rows < 1:
        raise ValueError(f"batch_size and rows must be at least 1, got {batch_size} and {rows}")
    classes = model.config.num_classes
    counts = inputs_per_label(split, classes)
    device = next(model.parameters()).device
    hits = torch.zeros(1 + len(sites) * len(kept), classes, dtype=torch.long, device=device)
    steps = -(-len(split) // batch_size)
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16 and device.type == "cuda"):
        means = _head_means(model, split, prepare, sites, batch_size) if replacement == "mean" else None
        for inputs, labels in tqdm(split.batches(batch_size), total=steps, desc="ablation", unit="step", disable=not progress, leave=False):
            labels = labels.to(device)
            intact, ablated = ablated_logits(model, prepare(inputs.to(device)), kept, sites=sites, means=means, rows=rows)
            logits = torch.cat([intact[None], *ablated.values()])  # (1 + sites · V, N, K)
            hits.index_add_(1, labels, (logits.argmax(2) == labels).long())
    accuracy = hits.cpu().double() / counts
    return HeadAblation(
        sites=tuple(sites),
        kept=kept.copy(),
        accuracy=accuracy[1:].view(len(sites), len(kept), classes).numpy(),
        baseline=accuracy[0].numpy(),
        counts=counts.numpy(),
        replacement=replacement,
    )


@torch.no_grad()
def ablated_logits(
    model: Network,
    inputs: Tensor,
    kept: Bool[np.ndarray, "variant head"],
    *,
    sites: Sequence[str] | None = None,
    means: Mapping[str, Float[Tensor, " d"]] | None = None,
    rows: int = 256,
) -> tuple[Float[Tensor, "n k"], dict[str, Float[Tensor, "variant n k"]]]:
    """Logits of the intact network, and per site those of every variant, in the model's present mode.

    Args:
        inputs: as the network reads them.
        means: per site what stands in the place of a head that is switched off, channel by channel; None is zero.
        kept, sites, rows: as for :func:`ablate_heads`.

    Raises:
        ValueError: as :func:`ablate_heads`.
    """
    sites = _checked_sites(model, kept, sites)
    on = torch.from_numpy(kept).to(inputs.device)
    ablated = {}
    hidden = model.before(inputs, 1)
    for block in range(1, depth_of(model.sites) + 1):
        mha = model.attention(hidden, block)
        if (site := f"block{block}.mha") in sites:
            off = means[site] if means is not None else mha.new_zeros(())
            channels = on.repeat_interleave(mha.shape[-1] // on.shape[1], dim=1)
            chunks = channels.split(max(1, rows // len(inputs)))
            ablated[site] = torch.cat([_continue(model, block, hidden, mha, chunk, off) for chunk in chunks])
        hidden = model.after_attention(hidden, mha, block)
    return model.behind(hidden, block + 1), {site: ablated[site] for site in sites}


def _continue(
    model: Network,
    block: int,
    hidden: Float[Tensor, "n t d"],
    mha: Float[Tensor, "n t d"],
    on: Bool[Tensor, "v d"],
    off: Float[Tensor, "*d"],
) -> Float[Tensor, "v n k"]:
    """From behind the attention of a block to the logits of variants that keep the channels ``on``."""
    changed = torch.where(on[:, None, None], mha, off).flatten(0, 1)  # (V · N, T, d)
    hidden = model.after_attention(hidden.repeat(len(on), 1, 1), changed, block)
    return model.behind(hidden, block + 1).view(len(on), len(mha), -1)


def _head_means(
    model: Network, split: Split, prepare: Callable[[Tensor], Tensor], sites: Sequence[str], batch_size: int
) -> dict[str, Float[Tensor, " d"]]:
    """Mean of every ``mha`` channel over all inputs of the split and all tokens that are there."""
    device = next(model.parameters()).device
    sums = {site: torch.zeros(model.sites[site], dtype=torch.float64, device=device) for site in sites}
    tokens = 0
    for inputs, _ in split.batches(batch_size):
        prepared = prepare(inputs.to(device))
        for site, feature in model(prepared, sites=sites)[1].items():
            sums[site] += feature.double().sum((0, 1))
        mask = model.mask(prepared)  # features are zero at tokens that are not there
        tokens += feature.shape[:2].numel() if mask is None else int(mask.sum())
    return {site: (total / tokens).float() for site, total in sums.items()}


def _checked_sites(model: Network, kept: Bool[np.ndarray, "variant head"], sites: Sequence[str] | None) -> list[str]:
    heads = model.config.num_heads
    if kept.ndim != 2 or kept.shape[1] != heads or not len(kept):
        raise ValueError(f"kept must be (variant, {heads}) for a model of {heads} heads, got shape {kept.shape}")
    if sites is not None and not len(sites):
        raise ValueError("name at least one site")
    there = [site for site in model.sites if site.endswith(".mha")]
    if unknown := [site for site in sites or () if site not in there]:
        raise ValueError(f"unknown site {unknown[0]!r}; heads live at {', '.join(there)}")
    return there if sites is None else [site for site in there if site in sites]
