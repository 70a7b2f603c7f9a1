"""Rivals of AFCC: what filters and their connections are worth by the size of their weights and by first-order Taylor.

Both rank by a number for every weight w, its absolute value for the L1 norm (Li et al., "Pruning filters for efficient ConvNets",
arXiv:1608.08710), w · ∂L/∂w for the first-order change of the loss L when w goes (Molchanov et al., "Importance estimation for
neural network pruning", arXiv:1906.10771, where the square of its sum is the importance of a filter). Gradients are of
training images alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from snp_lib.models.sites import Network, evaluating
from snp_lib.pruning.masks import Masks, connections, grouped, layers, whole_connections
from snp_lib.training.sparsity import Mask

Worth = dict[str, Float32[Tensor, "output input"]]
"""Name of a layer's weight → what each connection between two units is worth; see :func:`l1_norm` and :func:`taylor`."""


def l1_norm(model: Network, names: Iterable[str]) -> Worth:
    """Sum of the absolute weights of every connection; raises ValueError for a name of no layer that can be pruned."""
    return {name: _by_connection(model, name, model.get_parameter(name).detach().abs()) for name in names}


def taylor(model: Network, names: Iterable[str], batches: Iterable[tuple[Tensor, Tensor]], prepare: Callable[[Tensor], Tensor]) -> Worth:
    """Σ w · ∂L/∂w over the weights of every connection, of the mean cross-entropy L over all inputs; errors as for :func:`l1_norm`.

    Signed, so that sums over the connections of a filter are its own first-order change. The network runs in eval mode, in float32.

    Args:
        batches: inputs and labels of the training split.
        prepare: from inputs to what the network reads.
    """
    weights = {name: model.get_parameter(name) for name in names}
    totals, seen = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0
    device = next(model.parameters()).device
    with evaluating(model), torch.enable_grad():
        for inputs, labels in batches:
            loss = F.cross_entropy(model(prepare(inputs.to(device))), labels.to(device), reduction="sum")
            for name, gradient in zip(totals, torch.autograd.grad(loss, list(weights.values())), strict=True):
                totals[name] += gradient
            seen += len(labels)
    return {name: _by_connection(model, name, weights[name].detach() * total / seen) for name, total in totals.items()}


def strongest_connections(worth: Mapping[str, Tensor], like: Mapping[str, Mask], model: Network) -> Masks:
    """The connections worth most by absolute value, as many in every layer as ``like`` keeps; among equals the first."""
    kept = {}
    for name, mask in connections(like, model).items():
        order = worth[name].abs().flatten().cpu().argsort(descending=True, stable=True)
        chosen = torch.zeros(mask.numel(), dtype=torch.bool)
        chosen[order[: int(mask.sum())]] = True
        kept[name] = chosen.view(mask.shape)
    return whole_connections(kept, model)


def strongest_filters(worth: Mapping[str, Tensor], like: Mapping[str, Mask], model: Network) -> Masks:
    """Whole filters: the weakest go with all that they read and write, until about as many weights are left as in ``like``.

    What a filter is worth is the sum over the connections that it reads, by absolute value. The same share goes in every layer whose
    filters are read and written by layers of ``like``, which therefore share the weights otherwise than in ``like``; of a single
    layer the filters that it writes go, of a classifier those that it reads. The number of filters is the one that leaves the nearest
    number of weights (defined here).

    Args:
        worth: of the layers that write these filters.
    """
    chosen = {name: layers(model)[name] for name in like}
    sites = [layer.outputs for layer in chosen.values() if layer.outputs is not None] or [layer.inputs for layer in chosen.values()]
    writers = {layer.outputs: name for name, layer in layers(model).items() if layer.outputs is not None and layer.outputs in sites}
    order = {site: worth[name].sum(1).abs().cpu().argsort(descending=True, stable=True) for site, name in writers.items()}

    def alive(number: int, site: str) -> Mask:
        kept = torch.zeros(len(order[site]), dtype=torch.bool)
        kept[order[site][: round(number / most * len(kept))]] = True
        return kept

    def masks(number: int) -> Masks:
        kept = {name: torch.ones_like(mask) for name, mask in connected.items()}
        for name, layer in chosen.items():
            if layer.outputs is not None:
                kept[name] &= alive(number, layer.outputs).unsqueeze(1)
            if layer.inputs in order:
                kept[name] &= alive(number, layer.inputs)
        return kept

    def left(kept: Mapping[str, Mask]) -> int:
        return sum(int(mask.sum()) * chosen[name].parts for name, mask in kept.items())

    connected, most = connections(like, model), max(map(len, order.values()))
    return whole_connections(min(map(masks, range(most + 1)), key=lambda kept: abs(left(kept) - left(connected))), model)


def _by_connection(model: Network, name: str, values: Tensor) -> Float32[Tensor, "output input"]:
    return values.reshape(grouped(name, values.shape, model)).sum(2).float()
