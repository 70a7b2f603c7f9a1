"""How a step runs on a GPU: recorded once as a CUDA graph and replayed, its encoders compiled where asked for.

Neither changes what is computed. A graph launches the hundreds of kernels of a small batch at once, where the processor would
need longer to launch them one by one than the GPU to run them; a compiled encoder reads and writes its features fewer times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from snp_lib.models.encoder import Encoder

WARM_UP = 3  # runs before recording, in which libraries allocate and choose their kernels


class Captured:
    """``compute`` on tensors of these shapes as one CUDA graph; called with others of the same shapes, it copies and replays.

    Args:
        compute: looks at no value on the host. Whatever it leaves behind, such as gradients, lies at the same place after every
            replay, overwritten; random numbers follow the seed set before a call.
        inputs: examples.
    """

    def __init__(self, compute: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor]) -> None:
        self.inputs = [x.clone(memory_format=torch.preserve_format) for x in inputs]
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
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.outputs


def capturable(device: torch.device) -> bool:
    """Whether torch can record graphs there."""
    return device.type == "cuda" and torch.version.cuda is not None


@contextmanager
def compiled_encoders(model: nn.Module) -> Iterator[None]:
    """Within, the transformer encoders of a model run as ``torch.compile`` makes them; equal ones share what was compiled."""
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    for encoder in encoders:
        encoder.compile(dynamic=False)
    try:
        yield
    finally:
        for encoder in encoders:
            encoder._compiled_call_impl = None  # back to the plain call
