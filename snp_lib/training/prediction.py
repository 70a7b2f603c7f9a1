"""What a network answers on a split, and how often it is right."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from snp_lib.data import Split


@torch.no_grad()
def predict(
    model: nn.Module, split: Split, prepare: Callable[[Tensor], Tensor], *, batch_size: int = 256, bfloat16: bool = False
) -> Float[Tensor, "n classes"]:
    """Logits of every input of the split, in order, in eval mode, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        return torch.cat([model(prepare(inputs.to(device))).float() for inputs, _ in split.batches(batch_size)]).cpu()


def accuracy(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]) -> float:
    """Share of inputs whose largest logit is the label's, in [0, 1]."""
    return (logits.argmax(1) == labels).double().mean().item()


def top_accuracy(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"], k: int) -> float:
    """Share of inputs whose label is among the k largest logits, in [0, 1]; raises ValueError for more than there are labels."""
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k must lie in [1, {logits.shape[1]}], got {k}")
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(1).double().mean().item()
