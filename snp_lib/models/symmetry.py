"""The symmetry between attention heads: all of them made alike up to a share ε, exchanged, and their parameters side by side.

The heads of a block are exchangeable: what they write adds up, so that the network does not change when two of them change
places. Everything here follows from the axes that a network names in ``head_axes`` (defined here).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from snp_lib.models.sites import HeadAxis, Network


def by_head(parameter: Tensor, axis: HeadAxis) -> Tensor:
    """A view (part, head, …) of a parameter; what is written into it is written into the parameter.

    Raises:
        ValueError: its axis does not divide into that many parts and heads.
    """
    size = parameter.shape[axis.axis]
    if size % (len(axis.parts) * axis.heads):
        raise ValueError(f"{size} rows do not divide into {len(axis.parts)} parts of {axis.heads} heads")
    shares: Tensor = parameter.unflatten(axis.axis, (len(axis.parts), axis.heads, -1))
    return shares.movedim((axis.axis, axis.axis + 1), (0, 1))


@torch.no_grad()
def make_heads_alike(network: Network, epsilon: float) -> None:
    """Put every head at the first one of its block plus ``epsilon`` times what parts them, in place.

    W_h becomes W_1 + ε (W_h − W_1), for the rows of queries, keys and values and the columns of the output projection.
    ε = 1 leaves every bit as it was, ε = 0 makes all heads of a block equal.

    Raises:
        ValueError: ε outside [0, 1], or a network without heads.
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon must lie in [0, 1], got {epsilon}")
    for name, axis in _axes(network).items():
        heads = by_head(network.get_parameter(name), axis)
        heads.copy_(torch.lerp(heads[:, :1].clone(), heads, epsilon))  # exact at both ends


@torch.no_grad()
def exchange_heads(network: Network, order: Sequence[int]) -> None:
    """Give head i of every block the parameters of head ``order[i]``, in place; the network as a function stays the same.

    Raises:
        ValueError: no order of the heads, or a network without heads.
    """
    for name, axis in _axes(network).items():
        if sorted(order) != list(range(axis.heads)):
            raise ValueError(f"expected an order of heads 0 to {axis.heads - 1}, got {list(order)}")
        heads = by_head(network.get_parameter(name), axis)
        heads.copy_(heads[:, list(order)].clone())


def head_parameters(network: Network) -> dict[tuple[int, str], Float[Tensor, "head parameter"]]:
    """The parameters of each head in a row, by block and part, such as ``(1, "query")``; weights and biases together.

    Raises:
        ValueError: a network without heads.
    """
    found: dict[tuple[int, str], list[Tensor]] = {}
    for name, axis in _axes(network).items():
        for part, heads in zip(axis.parts, by_head(network.get_parameter(name).detach(), axis), strict=True):
            found.setdefault((axis.block, part), []).append(heads.flatten(1))
    return {place: torch.cat(rows, dim=1) for place, rows in found.items()}


def _axes(network: Network) -> dict[str, HeadAxis]:
    if not network.head_axes:
        raise ValueError(f"{type(network).__name__} has no heads whose parameters could be told apart")
    return network.head_axes
