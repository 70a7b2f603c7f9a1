"""Fine-tuning of a pruned network, its mask held throughout."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from snp_lib.data import Dataset
from snp_lib.training import Recipe, train
from snp_lib.training.holding import Holder, Mask


def apply_masks(model: nn.Module, masks: Mapping[str, Mask]) -> None:
    """Make every weight outside its mask zero, in place; raises ValueError for a mask that fits no parameter."""
    Holder(model, masks).zero_weights()


def digest(masks: Mapping[str, Mask]) -> str:
    """First 12 hex digits of the SHA-256 of names, shapes and entries; the order of the layers does not matter."""
    found = hashlib.sha256()
    for name in sorted(masks):
        found.update(f"{name} {tuple(masks[name].shape)}".encode())
        found.update(masks[name].cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def finetune(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    masks: Mapping[str, Mask],
    *,
    seed: int,
    device: torch.device,
    fingerprint: str = "",
    checkpoint: Path | None = None,
    deadline: float = math.inf,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Apply the masks and train ``model`` in place under them; returns the history of :func:`snp_lib.training.train`.

    Masked weights are exactly zero from the first step to the last and in every checkpoint; biases and layers without
    a mask train as ever (defined here). Arms that share the seed and the recipe see the same augmented batches in the
    same order. Parameters with ``requires_grad`` off stay as they are. The optimiser starts afresh.

    Args:
        fingerprint: identifies the network and the recipe; the masks are added to it, so that a checkpoint made under
            other masks is refused.
        checkpoint, deadline: as for ``train``.

    Raises:
        ValueError, TrainingError, Stopped, CheckpointError: as ``train``.
    """
    return train(
        model,
        dataset,
        recipe,
        seed=seed,
        device=device,
        fingerprint=f"{fingerprint} masks {digest(masks)}".strip(),
        checkpoint=checkpoint,
        deadline=deadline,
        masks=masks,
        progress=progress,
    )
