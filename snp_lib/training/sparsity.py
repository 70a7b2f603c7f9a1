"""Weights held at zero through a training: the masks of a pruned network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor, nn

Mask = Bool[Tensor, "..."]  # of any shape


class Holder:
    """Keeps the weights outside the masks at zero; parameters without a mask are untouched.

    Gradients are zeroed before the step, so that clipping sees the norm of the pruned network and momentum never gathers
    for a weight that is not there; weights are zeroed after it, so that nothing depends on how the optimiser works.

    Args:
        masks: parameter name to a mask of its shape, True where the weight is kept.

    Raises:
        ValueError: a name that is no parameter of the model, or a mask of another shape.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Mask]) -> None:
        parameters = dict(model.named_parameters())
        if unknown := [name for name in masks if name not in parameters]:
            raise ValueError(f"no parameter {unknown[0]!r} to mask; this model has {', '.join(parameters)}")
        self.held: list[tuple[nn.Parameter, Tensor]] = []
        self.names = list(masks)
        for name, mask in masks.items():
            parameter = parameters[name]
            _check(name, mask, parameter)
            self.held.append((parameter, ~mask.to(parameter.device)))

    def replace(self, masks: Mapping[str, Mask]) -> None:
        """Hold these in place of those of the same names; a name that is missing holds nothing.

        Raises:
            ValueError: another name or shape.
        """
        if unknown := [name for name in masks if name not in self.names]:
            raise ValueError(f"no mask of {unknown[0]!r} was given at first; there are {', '.join(self.names) or 'none'}")
        for name, (parameter, dropped) in zip(self.names, self.held, strict=True):
            if name in masks:
                _check(name, masks[name], parameter)
            dropped.copy_(~masks[name] if name in masks else torch.zeros_like(dropped))

    @torch.no_grad()
    def zero_weights(self) -> None:
        """Make every weight outside its mask zero."""
        for parameter, dropped in self.held:
            parameter.masked_fill_(dropped, 0)

    @torch.no_grad()
    def zero_gradients(self) -> None:
        """The same for the gradients of those that have one; a frozen parameter has none."""
        for parameter, dropped in self.held:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(dropped, 0)


def _check(name: str, mask: Mask, parameter: Tensor) -> None:
    if mask.shape != parameter.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"the mask of {name} must be Boolean of shape {tuple(parameter.shape)}, got {mask.dtype} of shape {tuple(mask.shape)}"
        )
