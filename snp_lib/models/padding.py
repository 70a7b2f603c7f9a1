"""Inputs of several lengths in one batch: which tokens are there, and how all others are kept out (defined here)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Padding:
    """Which tokens of a padded stream are there, ``mask`` (N, T): all others are vectors of zeros, and encoders keep them so.

    Defined here. On a CPU the others are left out of every product. Elsewhere they are computed and made zero, since shapes must
    not hang on values where a step is recorded.
    """

    def __init__(self, mask: Bool[Tensor, "n t"]) -> None:
        self.mask = mask
        self.rows = mask.flatten().nonzero().squeeze(1) if mask.device.type == "cpu" else None

    def take(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "m s d"]:
        """The tokens that are there, as those of one input."""
        if self.rows is None:
            return x
        tokens: Tensor = x.flatten(0, 1).index_select(0, self.rows)
        return tokens.unsqueeze(0)

    def put(self, x: Float[Tensor, "m s d"]) -> Float[Tensor, "n t d"]:
        """Tokens where :meth:`take` has them from, among zeros."""
        if self.rows is None:
            return x * self.mask.unsqueeze(2)
        tokens: Tensor = x.new_zeros(self.mask.numel(), x.shape[2]).index_copy_(0, self.rows, x.squeeze(0))
        return tokens.view(*self.mask.shape, -1)


def masked(scores: Float[Tensor, "n t *s"], mask: Bool[Tensor, "n t"] | None) -> Float[Tensor, "n t *s"]:
    """Scores before a softmax over tokens, −∞ outside of ``mask``."""
    return scores if mask is None else scores.masked_fill(~mask.view(*mask.shape, *[1] * (scores.ndim - 2)), -torch.inf)
