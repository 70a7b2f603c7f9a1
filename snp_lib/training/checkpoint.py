"""Checkpoints of an unfinished training: safetensors, written atomically, refused when they belong elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

FORMAT = "snp-checkpoint-1"


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or belongs to another training."""


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, fingerprint: str, history: list[dict[str, Any]]) -> None:
    """Write weights, optimiser state and history; a crash at any moment leaves the previous checkpoint whole."""
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value).contiguous()
    metadata = {"format": FORMAT, "fingerprint": fingerprint, "history": json.dumps(history)}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata=metadata)
    os.replace(partial, path)


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, fingerprint: str) -> list[dict[str, Any]]:
    """Restore weights and optimiser state in place and return the history.

    Raises:
        CheckpointError: truncated or foreign file, other experiment, or other tensors than the model's; the model and
            the optimiser are then as before.
    """
    advice = f"Delete {path} to train from the beginning."
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open has no iterator
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}. {advice}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {metadata.get('format')!r}, expected {FORMAT!r}. {advice}")
    if metadata.get("fingerprint") != fingerprint:
        raise CheckpointError(f"{path} belongs to another training ({metadata.get('fingerprint')}, this one is {fingerprint}). {advice}")
    weights = {key.removeprefix("model."): t for key, t in tensors.items() if key.startswith("model.")}
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if {name: tuple(t.shape) for name, t in weights.items()} != expected:
        raise CheckpointError(f"{path} does not hold the tensors of this model. {advice}")
    state: dict[int, dict[str, Tensor]] = {}
    try:
        history = list(json.loads(metadata["history"]))
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = tensor
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} holds no readable history or optimiser state: {error!r}. {advice}") from error
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return history
