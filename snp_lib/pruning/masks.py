"""Which weights a pruned network keeps: ANDC and its controls, each a function to ``{parameter name: mask}``.

ANDC (paper A, arXiv:2501.12900; the rule is defined here, inferred from its name and from AFCC of paper C): a weight
between two nodes stays when both recognise a common label, D_i ∩ D_j ≠ ∅; a weight from a node to an output label j stays
when j ∈ D_i. Biases stay. The threshold θ of the diagonal sets D sets the density: a larger θ shrinks every D, so its
mask is a subset of that of a smaller θ.

The controls keep as many weights in every layer as the mask they are compared with (``like``). The fourth of them,
training from scratch, is the method's own mask on a freshly initialised network.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor, nn

from snp_lib.models.sites import Layer, Network
from snp_lib.training.sparsity import Holder, Mask

Sets = Mapping[str, Bool[np.ndarray, "_unit label"]]  # site to its diagonal sets; see performance.diagonal_sets

Masks = dict[str, Mask]  # parameter name to a mask of its shape, True where the weight is kept


def layers(model: nn.Module, *, encoders: Sequence[int] | None = None, classifier: bool = True) -> dict[str, Layer]:
    """The layers of a network that are pruned, by the name of their weight; what they are, the network itself says.

    Args:
        encoders: which blocks, counted from 1 as in the names of sites; None: all.
        classifier: whether the layer behind the blocks is among them.

    Raises:
        TypeError: a network that names no layers.
        ValueError: a block that the network does not have.
    """
    known = model.layers if isinstance(model, Network) else {}
    if not known:
        raise TypeError(f"no layers to prune are defined for {type(model).__name__}")
    there = {layer.block for layer in known.values() if layer.block is not None}
    if wrong := [b for b in encoders or () if b not in there]:
        raise ValueError(f"no encoder {wrong[0]} to prune: this model has encoders 1 to {max(there)}")
    chosen = there if encoders is None else set(encoders)
    return {name: layer for name, layer in known.items() if (classifier if layer.block is None else layer.block in chosen)}


def andc(sets: Sets, model: nn.Module, *, encoders: Sequence[int] | None = None, classifier: bool = True) -> Masks:
    """The masks of ANDC. ``sets`` must come from the training split, or the test accuracy after pruning is biased.

    Args:
        sets: diagonal sets of at least the sites that :func:`layers` names.
        encoders, classifier: as for :func:`layers`.

    Raises:
        ValueError: a site without sets, or sets whose units or labels are not those of the model.
        TypeError: a network without layers to prune.
    """
    return _connect(sets, model, layers(model, encoders=encoders, classifier=classifier))


def random_clusters(sets: Sets, model: nn.Module, like: Mapping[str, Mask], *, seed: int) -> Masks:
    """The rule of ANDC on random labels, with as many weights in every layer as ``like``.

    The sets are those of :func:`random_sets`. Where their mask keeps more or fewer weights than ``like``, as many as the
    difference are cleared or set, drawn at random: the fewest changes that make the counts equal (defined here).

    Raises:
        ValueError: ``like`` masks something else than the layers of ANDC; else as for :func:`andc`.
        TypeError: a network without layers to prune.
    """
    known = layers(model)
    if unknown := [name for name in like if name not in known]:
        raise ValueError(f"random clusters are not defined for {unknown[0]!r}; they are for {', '.join(known)}")
    drawn = _connect(random_sets(sets, seed=seed), model, {name: known[name] for name in like})
    for name, mask in drawn.items():
        flat, surplus = mask.view(-1), int(mask.sum() - like[name].sum())
        candidates = (flat == (surplus > 0)).nonzero().squeeze(1)
        order = torch.randperm(len(candidates), generator=_generator(seed, f"random clusters {name}"))
        flat[candidates[order[: abs(surplus)]]] = surplus < 0
    return drawn


def random_sets(sets: Sets, *, seed: int) -> dict[str, Bool[np.ndarray, "_unit label"]]:
    """Random labels for every unit, as many as it has in ``sets``, evenly spread over the labels of each site.

    Units take turns in random order; each takes the labels taken least often so far, ties drawn at random. So the
    numbers of units of any two labels differ by one at most (defined here; the released control of paper C spreads five
    labels for every filter evenly).
    """
    out = {}
    for site, own in sets.items():
        rng = np.random.default_rng([seed, zlib.crc32(site.encode())])
        taken, drawn = np.zeros(own.shape[1], dtype=int), np.zeros_like(own)
        for unit in rng.permutation(len(own)):
            rarest = np.lexsort((rng.random(len(taken)), taken))[: own[unit].sum()]
            drawn[unit, rarest] = True
            taken[rarest] += 1
        out[site] = drawn
    return out


def magnitude(model: nn.Module, like: Mapping[str, Mask]) -> Masks:
    """The largest weights by absolute value, as many in every layer as ``like`` keeps; among equals the first.

    Raises:
        ValueError: ``like`` names no parameter of the model.
    """
    parameters = dict(model.named_parameters())
    if unknown := [name for name in like if name not in parameters]:
        raise ValueError(f"no parameter {unknown[0]!r}; this model has {', '.join(parameters)}")
    out = {}
    for name, mask in like.items():
        order = parameters[name].detach().abs().flatten().cpu().argsort(descending=True, stable=True)
        kept = torch.zeros(mask.numel(), dtype=torch.bool)
        kept[order[: int(mask.sum())]] = True
        out[name] = kept.view(mask.shape)
    return out


def shuffled(like: Mapping[str, Mask], *, seed: int) -> Masks:
    """The entries of every mask in random order: the same number of ones, without any structure."""
    out = {}
    for name, mask in like.items():
        order = torch.randperm(mask.numel(), generator=_generator(seed, f"shuffled {name}"))
        out[name] = mask.flatten()[order].view(mask.shape)
    return out


def apply_masks(model: nn.Module, masks: Mapping[str, Mask]) -> None:
    """Make every weight outside its mask zero, in place; raises ValueError for a mask that fits no parameter."""
    Holder(model, masks).zero_weights()


def density(masks: Mapping[str, Mask]) -> dict[str, float]:
    """Share of weights kept, in [0, 1]: per layer, and of all of them under ``total`` (NaN without any weight)."""
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    sizes = {name: mask.numel() for name, mask in masks.items()}
    total = sum(kept.values()) / sum(sizes.values()) if masks else float("nan")
    return {name: kept[name] / sizes[name] for name in masks} | {"total": total}


def _connect(sets: Sets, model: nn.Module, chosen: Mapping[str, Layer]) -> Masks:
    """The rule, layer by layer."""
    return {name: _mask(sets, layer, name, tuple(model.get_parameter(name).shape)) for name, layer in chosen.items()}


def _mask(sets: Sets, layer: Layer, name: str, shape: tuple[int, ...]) -> Bool[Tensor, "output input"]:
    inputs = _labels(sets, layer.inputs, units=shape[1])
    # an output recognises its own label
    outputs = torch.eye(shape[0]) if layer.outputs is None else _labels(sets, layer.outputs, units=shape[0])
    if inputs.shape[1] != outputs.shape[1]:
        raise ValueError(f"{name} joins sets over {inputs.shape[1]} labels ({layer.inputs}) and {outputs.shape[1]} labels")
    return outputs @ inputs.T > 0  # common labels, counted: whole numbers, exact in float32


def _labels(sets: Sets, site: str, units: int) -> Float32[Tensor, "unit label"]:
    if site not in sets:
        raise ValueError(f"no diagonal sets for site {site!r}; given are {', '.join(sets) or 'none'}")
    if len(sets[site]) != units:
        raise ValueError(f"site {site!r} has {units} units in this model, the diagonal sets have {len(sets[site])}")
    return torch.from_numpy(sets[site]).float()


def _generator(seed: int, purpose: str) -> torch.Generator:
    """A stream of its own for every layer and purpose, whatever the other layers are."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {purpose}".encode()))
