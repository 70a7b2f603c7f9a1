"""Trained tensors on the disk: written durably, looked into when read, and in half precision to travel (defined here)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from snp_lib.store.disk import flush
from snp_lib.training import checkpoint

FULL = "weights.safetensors"  # network and readouts; the manifest vouches for it

HALF = "weights-half.safetensors"  # the same in half precision, which vouches for itself

Tensors = Mapping[str, Tensor]


def write(path: Path, tensors: Tensors) -> None:
    """Write tensors and wait until the disk has them; raises OSError."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # how safetensors reports a failed write
        raise OSError(str(error)) from error
    flush(path)


def read(path: Path, expected: Tensors) -> dict[str, Tensor]:
    """The tensors of a file: those expected, each with its shape and type, and finite.

    Raises:
        OSError: no such file.
        ValueError: no file of tensors, or others than expected; names the first.
    """
    tensors = _open(path)[0]
    _compare(tensors, expected)
    return tensors


def halved(tensors: Tensors, arrays: str) -> bytes:
    """The content of a file of these tensors in half precision; equal tensors give equal bytes.

    Args:
        arrays: SHA-256 of the arrays of the run; tensors of one run are not taken for those of another.

    Raises:
        ValueError: a weight is too large for half precision.
    """
    small = half_of(tensors)
    _compare(small, small)
    return save({name: tensor.contiguous() for name, tensor in small.items()}, {"sha256": _vouched(small, arrays)})


def half_of(tensors: Tensors) -> dict[str, Tensor]:
    """The same in half precision, whole numbers as they are."""
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def read_halved(path: Path, expected: Tensors, arrays: str) -> dict[str, Tensor]:
    """The tensors of a file that :func:`halved` made, each in the type expected; raises as :func:`read`."""
    tensors, metadata = _open(path)
    if metadata != {"sha256": _vouched(tensors, arrays)}:
        raise ValueError("its SHA-256 is not that of its content and of the arrays of this run")
    _compare(tensors, half_of(expected))
    return {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 - it has no iterator
    except SafetensorError as error:
        raise ValueError(f"it is no file of tensors ({error})") from error


def _vouched(tensors: Tensors, arrays: str) -> str:
    return checkpoint.digest(tensors, {"format": "snp-weights-half-1", "arrays": arrays})


def _compare(tensors: Tensors, expected: Tensors) -> None:
    if odd := sorted(tensors.keys() ^ expected.keys()):
        raise ValueError(f"the tensor {odd[0]!r} is {'missing' if odd[0] in expected else 'unexpected'}")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"{name!r} is {tensor.dtype}{list(tensor.shape)}; expected {wanted.dtype}{list(wanted.shape)}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name!r} holds numbers that are not finite")
