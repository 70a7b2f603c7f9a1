"""Where the random numbers of a training come from: functions of its seed, the epoch and the step."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor


def epoch_seed(seed: int, epoch: int) -> int:
    """63-bit seed of the order of an epoch: distinct streams for neighbouring seeds and epochs."""
    return (seed * 1_000_003 + epoch + 1) * 0x9E3779B97F4A7C15 % 2**63


def step_seed(seed: int, step: int) -> int:
    """63-bit seed of the augmentation and the dropout of a step, counted from the start of the training."""
    return (seed * 1_000_000_007 + step + 1) * 0xD1342543DE82EF95 % 2**63


def shuffled_batches(total: int, batch_size: int, generator: torch.Generator) -> list[Int64[Tensor, " b"]]:
    """Indices of one epoch in random order, in full batches; the remainder is left out."""
    order = torch.randperm(total, generator=generator, device=generator.device)
    return list(order[: total // batch_size * batch_size].split(batch_size))
