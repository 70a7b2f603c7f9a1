"""Weights of compact transformers as their authors released them (SHI-Labs/Compact-Transformers), under our names."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from snp_lib.models import create_model
from snp_lib.models.sites import Network

LAYERS = {
    "pre_norm": "norm1",
    "self_attn.qkv": "attention.qkv",
    "self_attn.proj": "projection",
    "norm1": "norm2",
    "linear1": "ff1",
    "linear2": "ff2",
}
"""Layers of an encoder, the released name to ours."""

REST = {"norm": "norm", "attention_pool": "pool", "fc": "classifier"}


def translated(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a released state dict, or of vit-pytorch's CCT, which names them alike, under the names of our CCT.

    Raises:
        ValueError: a name that no released CCT has.
    """
    out = {}
    for key, tensor in weights.items():
        parts = key.removeprefix("module.").split(".")  # as saved from a data-parallel training
        try:
            out[_name(parts)] = tensor
        except (KeyError, IndexError, ValueError):
            raise ValueError(
                f"{key!r} is no tensor of a released CCT, whose names begin with tokenizer.conv_layers or classifier"
            ) from None
    return out


def _name(parts: list[str]) -> str:
    if parts[:2] == ["tokenizer", "conv_layers"]:
        return f"tokenizer.{3 * int(parts[2])}.weight"  # each of conv, ReLU, pool counts here
    if parts[0] != "classifier":
        raise ValueError(parts[0])
    if parts[1] == "positional_emb":
        return "positions"
    if parts[1] == "blocks":
        return f"encoders.{int(parts[2])}.{LAYERS['.'.join(parts[3:-1])]}.{parts[-1]}"
    return f"{REST[parts[1]]}.{parts[-1]}"


def load_released(path: str | Path, name: str, *, num_classes: int, **options: Any) -> Network:
    """A CCT with weights from a file of the authors, in eval mode.

    Args:
        path: ``.safetensors``, or a checkpoint of torch, of which tensors alone are read: nothing in it is run.
        name, num_classes, options: as for :func:`snp_lib.models.create_model`, such as ``cct_7_3x1`` and 100.

    Raises:
        ValueError: no such file, other content, or tensors of another network; the message names the first that differs.
    """
    file = Path(path).expanduser()
    try:
        if file.suffix != ".safetensors" and file.exists() and not zipfile.is_zipfile(file):
            raise ValueError("neither .safetensors nor an archive that torch.save wrote")
        content: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"cannot read weights from {file}: {str(error).splitlines()[0]}") from error
    for entry in ("state_dict", "model"):  # as training scripts wrap them
        content = content[entry] if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping) else content
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{file} holds no state dict, a mapping of names to tensors")
    weights, network = translated(content), create_model(name, num_classes=num_classes, **options)
    expected = network.state_dict()
    for key in sorted({*weights, *expected}):
        shapes = [str(tuple(side[key].shape)) if key in side else "none" for side in (weights, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{file} is no {name} of {num_classes} labels: {key} has shape {shapes[0]} there, expected {shapes[1]}")
    network.load_state_dict(weights)
    return network.eval()
