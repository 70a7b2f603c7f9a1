"""Which weights a pruned network keeps: ANDC and its controls, each a function to ``{parameter name: mask}``.

ANDC (paper A, arXiv:2501.12900; the rule is defined here, inferred from its name and from AFCC of paper C): a weight
between two nodes stays when both recognise a common label, D_i ∩ D_j ≠ ∅; a weight from a node to an output label j stays
when j ∈ D_i. Biases stay. The threshold θ of the diagonal sets D sets the density: a larger θ shrinks every D, so its
mask is a subset of that of a smaller θ.

Between filters the same rule is AFCC (paper C, arXiv:2501.12880, the README of its released code): two filters of
consecutive layers stay connected, by all weights of the kernel between them, when a cluster of one and a cluster of the
other share a label; the union of a filter's clusters is its D. A filter without a cluster loses every connection. The
released script takes the number of a cluster for that of its filter, which is right only where each filter has one cluster.

The controls keep as many weights in every layer as the mask they are compared with (``like``). The fourth of them,
training from scratch, is the method's own mask on a freshly initialised network.
"""

from __future__ import annotations

import math
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


def random_clusters(sets: Sets, model: nn.Module, like: Mapping[str, Mask], *, seed: int, labels: int | None = None) -> Masks:
    """The rule of ANDC on random labels, with as many connections in every layer as ``like``.

    The sets are those of :func:`random_sets`. Where their mask keeps more or fewer connections than ``like``, as many as the
    difference are cleared or set, drawn at random: the fewest changes that make the counts equal (defined here).

    Args:
        labels: of every unit; None: as many as it has in ``sets``.

    Raises:
        ValueError: ``like`` masks something else than the layers of ANDC; else as for :func:`andc`.
        TypeError: a network without layers to prune.
    """
    known = layers(model)
    if unknown := [name for name in like if name not in known]:
        raise ValueError(f"random clusters are not defined for {unknown[0]!r}; they are for {', '.join(known)}")
    chosen = {name: known[name] for name in like}
    drawn, wanted = connections(_connect(random_sets(sets, seed=seed, labels=labels), model, chosen), model), connections(like, model)
    for name, mask in drawn.items():
        flat, surplus = mask.view(-1), int(mask.sum() - wanted[name].sum())
        candidates = (flat == (surplus > 0)).nonzero().squeeze(1)
        order = torch.randperm(len(candidates), generator=_generator(seed, f"random clusters {name}"))
        flat[candidates[order[: abs(surplus)]]] = surplus < 0
    return whole_connections(drawn, model)


def random_sets(sets: Sets, *, seed: int, labels: int | None = None) -> dict[str, Bool[np.ndarray, "_unit label"]]:
    """Random labels for every unit, as many as it has in ``sets`` or ``labels``, evenly spread over the labels of each site.

    Units take turns in random order; each takes the labels taken least often so far, ties drawn at random. So the
    numbers of units of any two labels differ by one at most (defined here; the released control of paper C spreads five
    labels for every filter evenly).
    """
    out = {}
    for site, own in sets.items():
        rng = np.random.default_rng([seed, zlib.crc32(site.encode())])
        taken, drawn = np.zeros(own.shape[1], dtype=int), np.zeros_like(own)
        for unit in rng.permutation(len(own)):
            rarest = np.lexsort((rng.random(len(taken)), taken))[: own[unit].sum() if labels is None else labels]
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


def shuffled(like: Mapping[str, Mask], *, seed: int, model: nn.Module | None = None) -> Masks:
    """The entries of every mask in random order: the same number of ones, without any structure.

    Args:
        model: whose connections stay whole, all weights of a kernel together; None: every weight for itself.
    """
    if model is not None:
        return whole_connections(shuffled(connections(like, model), seed=seed), model)
    out = {}
    for name, mask in like.items():
        order = torch.randperm(mask.numel(), generator=_generator(seed, f"shuffled {name}"))
        out[name] = mask.flatten()[order].view(mask.shape)
    return out


def connections(masks: Mapping[str, Mask], model: nn.Module) -> Masks:
    """Masks of weights to masks (output, input) of units: a connection is there where any of its weights is.

    Raises:
        ValueError: a mask of no layer that can be pruned.
        TypeError: a network without layers to prune.
    """
    return {name: mask.reshape(grouped(name, mask.shape, model)).any(2) for name, mask in masks.items()}


def whole_connections(connected: Mapping[str, Mask], model: nn.Module) -> Masks:
    """Masks (output, input) of units to masks of weights, all of a connection alike; errors as for :func:`connections`."""
    shapes = {name: model.get_parameter(name).shape for name in connected}
    parts = {name: grouped(name, shape, model)[2] for name, shape in shapes.items()}
    return {name: mask.unsqueeze(2).expand(-1, -1, parts[name]).reshape(shapes[name]) for name, mask in connected.items()}


def grouped(name: str, shape: Sequence[int], model: nn.Module) -> tuple[int, int, int]:
    """Output units, input units, and weights between two of them: those of a kernel, or of the places of a map, stand side by side.

    Raises:
        ValueError: a name of no layer that can be pruned.
        TypeError: a network without layers to prune.
    """
    if name not in (known := layers(model)):
        raise ValueError(f"{name!r} is no layer between units; those are {', '.join(known)}")
    return shape[0], math.prod(shape[1:]) // known[name].parts, known[name].parts


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
    sizes = {name: grouped(name, model.get_parameter(name).shape, model)[:2] for name in chosen}
    return whole_connections({name: _common(sets, layer, name, sizes[name]) for name, layer in chosen.items()}, model)


def _common(sets: Sets, layer: Layer, name: str, size: tuple[int, int]) -> Bool[Tensor, "output input"]:
    """Whether two units share a label."""
    inputs = _labels(sets, layer.inputs, units=size[1])
    # an output recognises its own label
    outputs = torch.eye(size[0]) if layer.outputs is None else _labels(sets, layer.outputs, units=size[0])
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
