"""Checkpoints of an unfinished training: checksummed safetensors, written atomically, the one before kept.

A checkpoint that cannot be read gives way to the one before it; one of another training is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

FORMAT = "snp-checkpoint-2"


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or belongs to another training."""


class _DamagedError(CheckpointError):
    """Not whole, so that the one before may serve in its place."""


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one is kept."""
    return path.with_name(path.name + ".previous")


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, fingerprint: str, state: Mapping[str, Any]) -> None:
    """Write weights, optimiser state and ``state`` (plain JSON values); a crash at any moment leaves a whole checkpoint.

    Raises:
        OSError: the disk is full or not writable; the checkpoints there are as before.
    """
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        for key, value in slots.items():
            if value is not None:  # plain SGD keeps an empty slot
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value).contiguous()
    metadata = {"format": FORMAT, "fingerprint": fingerprint, "state": json.dumps(state)}
    metadata["sha256"] = digest(tensors, metadata)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata=metadata)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())  # on the disk before it takes the place of the good one
        if path.exists():
            os.replace(path, previous(path))
        os.replace(partial, path)
    except SafetensorError as error:  # how safetensors reports a failed write
        raise OSError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, fingerprint: str) -> dict[str, Any]:
    """Restore weights and optimiser state in place and return the ``state`` saved with them.

    A damaged checkpoint is passed over, with a warning, when the one before it is whole.

    Raises:
        CheckpointError: no whole checkpoint, or one of another training, format or model; the model and the optimiser
            are then as before.
    """
    try:
        return _load(path, model, optimizer, fingerprint)
    except _DamagedError as error:
        if not path.exists():  # a crash between the two renamings
            return _load(previous(path), model, optimizer, fingerprint)
        try:
            state = _load(previous(path), model, optimizer, fingerprint)
        except CheckpointError:
            raise error from None
        warnings.warn(f"{error} Going on from the one before it, {previous(path).name}.", stacklevel=2)
        return state


def exists(path: Path) -> bool:
    """Whether there is anything to resume from."""
    return path.exists() or previous(path).exists()


def remove(path: Path) -> None:
    """Delete the checkpoint and the one before it."""
    path.unlink(missing_ok=True)
    previous(path).unlink(missing_ok=True)


def _load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str) -> dict[str, Any]:
    advice = _advice(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open has no iterator
    except (SafetensorError, OSError) as error:
        raise _DamagedError(f"cannot read the checkpoint {path}: {error}. {advice}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {metadata.get('format')!r}, this version reads {FORMAT!r}. {advice}")
    if metadata.pop("sha256", None) != digest(tensors, metadata):
        raise _DamagedError(f"the checkpoint {path} is damaged: its SHA-256 is not that of its content. {advice}")
    if metadata["fingerprint"] != fingerprint:
        raise CheckpointError(f"{path} belongs to another training ({metadata['fingerprint']}, this one is {fingerprint}). {advice}")
    weights = {key.removeprefix("model."): t for key, t in tensors.items() if key.startswith("model.")}
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if {name: tuple(t.shape) for name, t in weights.items()} != expected:
        raise CheckpointError(f"{path} does not hold the tensors of this model. {advice}")
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            slots.setdefault(int(index), {})[name] = tensor
    state: dict[str, Any] = json.loads(metadata["state"])
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, own in optimizer.state.items():
        for key, slot in own.items():
            if slot.shape == parameter.shape:  # fused kernels walk memory: a slot must lie as its parameter does
                own[key] = torch.empty_like(parameter).copy_(slot)
    return state


def _advice(path: Path) -> str:
    stem = path.name.removesuffix(".previous")
    return f"Delete {path.with_name(stem)} and {stem}.previous to train from the beginning."


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
