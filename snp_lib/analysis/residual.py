"""What a network adds to its stream, one residual unit after the other, and the maps of the stream (defined here).

A unit reads the stream, adds to it what its branch says, and hands it on, see :class:`snp_lib.models.sites.ResidualUnit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from snp_lib.data import Split
from snp_lib.models.sites import Network, ResidualUnit, evaluating


@dataclass(frozen=True)
class Addition:
    """What a unit does to a batch, as maps (N, C, h, w) of one shape.

    Attributes:
        skip: the stream without what the unit adds.
        output: the stream with it.
        shuffled: the stream with the same update of every image at other positions, all channels of a position together.
    """

    unit: ResidualUnit
    skip: Float[Tensor, "n c h w"]
    output: Float[Tensor, "n c h w"]
    shuffled: Float[Tensor, "n c h w"]


def as_maps(hidden: Float[Tensor, "n t d"] | Float[Tensor, "n c h w"], model: Network) -> Float[Tensor, "n c h w"]:
    """A stream of maps as it is, and one of tokens as maps on the grid of the network, without a class token.

    Raises:
        NotImplementedError: tokens that stand on no grid.
    """
    if hidden.ndim == 4:
        return hidden
    rows, columns = model.grid
    maps: Tensor = hidden[:, hidden.shape[1] - rows * columns :].mT.unflatten(2, (rows, columns))
    return maps


def additions(model: Network, inputs: Tensor, generator: torch.Generator) -> Iterator[Addition]:
    """What every unit does to these inputs, in the order of the forward pass and in the model's present mode.

    Args:
        inputs: as the network reads them.
        generator: of the CPU, for the positions of the shuffled updates.
    """
    hidden = model.before(inputs, 1)
    for unit in model.residual_units:
        skip, update = unit.skip(hidden), unit.branch(hidden)
        hidden = unit.after(skip + update)
        base, added = as_maps(skip, model), as_maps(update, model)
        moved = unit.after(base + at_other_positions(added, generator))
        yield Addition(unit=unit, skip=as_maps(unit.after(skip), model), output=as_maps(hidden, model), shuffled=moved)


def at_other_positions(maps: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Every image with its positions in an order of its own, the same one for all channels."""
    flat = maps.flatten(2)
    order = torch.rand(len(maps), flat.shape[2], generator=generator).argsort(1).to(maps.device)
    return flat.gather(2, order[:, None].expand_as(flat)).view_as(maps)


@dataclass(frozen=True)
class Measured:
    """A measure of the maps of every image in the three states of an :class:`Addition`.

    Attributes:
        unit: its name.
        side: rows of the maps.
    """

    unit: str
    side: int
    skip: Float[Tensor, "n k"]
    output: Float[Tensor, "n k"]
    shuffled: Float[Tensor, "n k"]


@torch.no_grad()
def of_additions(
    model: Network,
    split: Split,
    prepare: Callable[[Tensor], Tensor],
    measure: Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n k"]],
    *,
    seed: int = 0,
    batch_size: int = 128,
    bfloat16: bool = False,
    progress: bool = False,
) -> list[Measured]:
    """A measure of the maps of each image without, with and with the shuffled update of every unit, in the order of the units.

    Args:
        model: used in eval mode, its weights and modes are left as they were.
        measure: from maps to k numbers an image; it gets float32.
        seed: of the positions of the shuffled updates.
        batch_size: images in a pass.
        bfloat16: on a GPU the network's products in bfloat16.

    Raises:
        ValueError: a network without residual units.
    """
    if not model.residual_units:
        raise ValueError(f"{type(model).__name__} says of no residual unit what it adds")
    device, generator = next(model.parameters()).device, torch.Generator().manual_seed(seed)
    batches: list[list[Measured]] = []
    steps = -(-len(split) // batch_size)
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16 and device.type == "cuda"):
        for inputs, _ in tqdm(split.batches(batch_size), total=steps, desc="feature maps", unit="step", disable=not progress, leave=False):
            batches.append([_measured(each, measure) for each in additions(model, prepare(inputs.to(device)), generator)])
    return [_together(parts) for parts in zip(*batches, strict=True)]


STATES = ("skip", "output", "shuffled")


def _measured(addition: Addition, measure: Callable[[Tensor], Tensor]) -> Measured:
    values = {state: measure(getattr(addition, state).float()).cpu() for state in STATES}
    return Measured(unit=addition.unit.name, side=addition.skip.shape[2], **values)


def _together(parts: Sequence[Measured]) -> Measured:
    values: dict[str, Any] = {state: torch.cat([getattr(part, state) for part in parts]) for state in STATES}
    return replace(parts[0], **values)
