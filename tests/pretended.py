"""A CUDA device that is none: tensors that say they are on a GPU and are worked out on the CPU.

What a GPU would refuse is refused: a CPU tensor among its operands, a generator of another device, numpy's look at it.
Kernels, speed and bfloat16 are the CPU's, so that a computation gives the numbers of the CPU, bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
_plain = torch._C.DisableTorchFunctionSubclass

MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}
LOOKS = {Tensor.numpy, Tensor.__array__}
INDEXES = {Tensor.__getitem__, Tensor.__setitem__}
COPIES = {Tensor.copy_, Tensor.module_load, torch._has_compatible_shallow_copy_type}


class OnGpu(Tensor):
    """A tensor that says it is on the GPU."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.device.__get__:
            return CUDA
        if func in (Tensor.is_cuda.__get__, Tensor.is_cpu.__get__):
            return func == Tensor.is_cuda.__get__
        if func in LOOKS:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if func in MOVES:
            return _moved(func, args, kwargs)
        _check(func, args, kwargs)
        found = super().__torch_function__(func, types, args, _on_cpu(kwargs))
        return _wrapped(found) if func == Tensor.grad.__get__ else found  # which torch leaves as it is

    def __deepcopy__(self, memo: dict[int, Any]) -> OnGpu:
        with _plain():
            copied = self.detach().clone().as_subclass(OnGpu).requires_grad_(self.requires_grad)
        copied.__dict__.update(self.__dict__)  # whether it is a parameter
        return memo.setdefault(id(self), copied)


class Generator(torch.Generator):
    """Random numbers of the CPU, said to be the GPU's."""

    _of: torch.device

    def __new__(cls, device: Any = CPU) -> Generator:
        found = super().__new__(cls)
        found._of = torch.device(device)
        return found

    @property
    def device(self) -> torch.device:
        return CUDA if self._of.type == "cuda" else CPU


class _Made(TorchFunctionMode):
    """Tensors that are made on the device, or moved to it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MOVES:
            return _moved(func, args, kwargs)
        device = kwargs.get("device")
        on_gpu = device is not None and torch.device(device).type == "cuda"
        if device is not None and (generator := kwargs.get("generator")) is not None and (generator.device.type == "cuda") != on_gpu:
            raise RuntimeError(f"Expected a {torch.device(device)} device type for generator but found {generator.device}")
        found = func(*args, **_on_cpu(kwargs))
        return _wrapped(found) if on_gpu else found


def _wrapped(found: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t if isinstance(t, OnGpu) else t.as_subclass(OnGpu), found)


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    return kwargs | {"device": CPU} if kwargs.get("device") is not None else kwargs


def _moved(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """``to``, ``cpu`` and ``cuda``; never the same tensor on another device."""
    tensor, *rest = args
    if func is not Tensor.to:
        device, dtype, layout = CUDA if func is Tensor.cuda else CPU, None, None
    elif rest and isinstance(rest[0], Tensor):
        device, dtype, layout = rest[0].device, rest[0].dtype, None
    else:
        device, dtype, _, layout = torch._C._nn._parse_to(*rest, **kwargs)
    there = isinstance(tensor, OnGpu)
    to_gpu = there if device is None else device.type == "cuda"
    with _plain():
        bare = tensor.as_subclass(Tensor) if there else tensor
        found = bare.to(CPU, dtype or bare.dtype, memory_format=layout or torch.preserve_format)
        if found is bare:
            if to_gpu == there:
                return tensor
            found = bare.clone()
        return found.as_subclass(OnGpu) if to_gpu else found


def _check(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Refuse what a GPU refuses: tensors of the CPU, unless they are single numbers, are copied from, or index one of the GPU."""
    if func in COPIES or (func in INDEXES and isinstance(args[0], OnGpu)):
        return
    leaves = tree_leaves((args, kwargs))
    if any(isinstance(leaf, Tensor) and not isinstance(leaf, OnGpu) and leaf.ndim > 0 for leaf in leaves):
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got one on the CPU")
    if any(isinstance(leaf, torch.Generator) and leaf.device.type != "cuda" for leaf in leaves):
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu': {func}")


class Event:
    """A CUDA event that is the time of day."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 1000 * (end.at - self.at)


@contextlib.contextmanager
def gpu() -> Iterator[None]:
    """Within, torch has a CUDA device."""
    patches: dict[str, Any] = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: False,
        "get_device_name": lambda device=None: "pretended GPU",
        "_lazy_init": lambda: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "Event": Event,
    }
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        # built without CUDA: there are no graphs to record
        with (
            mock.patch.multiple(torch.cuda, **patches),
            mock.patch.object(torch.version, "cuda", None),
            mock.patch.object(torch, "Generator", Generator),
            _Made(),
        ):
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
