"""How work runs on a GPU: recorded once as a CUDA graph and replayed, its parts compiled, its products in bfloat16.

A graph launches the hundreds of kernels of a small batch at once, where the processor would need longer to launch them one by
one than the GPU to run them; a compiled part reads and writes its features fewer times.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from snp_lib.models import Network

WARM_UP = 3  # runs before recording, in which libraries allocate and choose their kernels

AHEAD = 16  # batches that are augmented at once

ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

VARIANTS = 64  # of one part that may be compiled in a process: other widths, heads and batches, with and without gradients


class Captured:
    """``compute`` on tensors of these shapes as one CUDA graph; called with others of the same shapes, it copies and replays.

    Recording leaves no trace: the tensors given as ``state`` and the optimiser are put back.

    Args:
        compute: looks at no value on the host. Whatever it leaves behind lies at the same place after every replay,
            overwritten; random numbers follow the seed set before a call.
        inputs: examples.
        state: what ``compute`` changes in place, apart from the state of the optimiser.
    """

    def __init__(
        self,
        compute: Callable[..., tuple[Tensor, ...]],
        inputs: Sequence[Tensor],
        *,
        state: Sequence[Tensor] = (),
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.inputs = [x.clone(memory_format=torch.preserve_format) for x in inputs]
        begun = bool(optimizer.state) if optimizer is not None else False
        changed = [*state, *(slots(optimizer) if optimizer is not None else ())]
        before = [tensor.detach().clone() for tensor in changed]
        self._record(compute)
        with torch.no_grad():
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)
            for tensor in slots(optimizer) if optimizer is not None and not begun else ():
                tensor.zero_()  # as an optimiser begins

    def _record(self, compute: Callable[..., tuple[Tensor, ...]]) -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                compute(*self.inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = compute(*self.inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for buffer, given in zip(self.inputs, inputs, strict=True):
            buffer.copy_(given)
        self.graph.replay()
        return self.outputs


def slots(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Every tensor that an optimiser keeps of the steps before."""
    return [value for slot in optimizer.state.values() for value in slot.values() if isinstance(value, Tensor)]


def capturable(device: torch.device) -> bool:
    """Whether torch can record graphs there."""
    return device.type == "cuda" and torch.version.cuda is not None


def lowered(model: Any) -> Any:
    """A copy whose products run in bfloat16: weights of linear layers and convolutions are copies, all else is the model's own.

    After the model has changed, :func:`refresh` brings the copies up to date.
    """
    shared: list[Tensor] = []
    for module in model.modules():
        mine = [*module.buffers(recurse=False)]
        shared += mine if isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention) else [*module.parameters(recurse=False), *mine]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    for module in twin.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not any(parameter is tensor for tensor in shared):
                setattr(module, name, nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=parameter.requires_grad))
    return twin


@torch.no_grad()
def refresh(twin: nn.Module, model: nn.Module) -> None:
    """Bring the bfloat16 copies of :func:`lowered` up to date with the model."""
    pairs = [(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True) if a is not b]
    if pairs:
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])


@contextmanager
def compiled_parts(*models: Any) -> Iterator[None]:
    """Within, the parts of networks run as ``torch.compile`` makes them; equal ones share what was compiled."""
    parts = [part for model in models for part in (model.parts if isinstance(model, Network) else [])]
    made: dict[tuple[type, str], Any] = {}
    with torch._dynamo.config.patch(recompile_limit=VARIANTS):
        try:
            for module, name in parts:
                key = type(module), name
                made.setdefault(key, torch.compile(getattr(type(module), name), dynamic=False))
                setattr(module, name, types.MethodType(made[key], module))
            yield
        finally:
            for module, name in parts:
                module.__dict__.pop(name, None)  # back to the method of its class


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as ``torch.compile`` makes it, anew for other shapes, as often as parts of networks are."""
    made = torch.compile(function, dynamic=False)

    def call(*given: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=VARIANTS):
            return made(*given)

    return call


@contextmanager
def fast_attention() -> Iterator[None]:
    """Within, torch takes the first of ``ATTENTION`` that serves."""
    with sdpa_kernel(ATTENTION, set_priority=True):
        yield
