"""Fused attention for heads of at most 16 channels, which the usual fused kernels pad to 32 and more (defined here).

The operator ``snp::narrow_attention`` is opaque to ``torch.compile`` and waits for nothing on the host, so it can stand in
compiled code and in a recorded CUDA graph. Its kernels (``narrow_kernels``) are written in Triton and loaded at first use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

AVAILABLE = find_spec("triton") is not None  # asked once: a compiler cannot look for it
WIDEST = 16  # channels of a head: the tile of the kernels
MAX_TOKENS = 512
Context = Any  # what torch hands to a backward pass


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How a kernel cuts its work: powers of 2, at least 16 for ``queries`` and ``keys``.

    Args:
        queries: tokens of one block of queries.
        keys: tokens of one block of keys.
        warps: of one program.
        splits: programs that share the blocks of queries (forward pass only).
        stages: of Triton's software pipeline.
        registers: limit for a thread; None leaves it to the compiler.
    """

    queries: int
    keys: int
    warps: int
    splits: int = 1
    stages: int = 1
    registers: int | None = None


# By width of a head and number of tokens; other shapes take ``usual``. ``benchmarks/narrow_heads.py`` compares choices.
FORWARD: dict[tuple[int, int], Blocks] = {
    (2, 256): Blocks(queries=64, keys=64, warps=4, splits=2),
    (4, 256): Blocks(queries=64, keys=64, warps=4, splits=4),
    (8, 256): Blocks(queries=64, keys=64, warps=4, splits=2),
    (16, 256): Blocks(queries=64, keys=64, warps=4, splits=1),
}
BACKWARD: dict[tuple[int, int], Blocks] = {
    (2, 256): Blocks(queries=64, keys=64, warps=4),
    (4, 256): Blocks(queries=64, keys=64, warps=4),
    (8, 256): Blocks(queries=64, keys=64, warps=4),
    (16, 256): Blocks(queries=64, keys=64, warps=4),
}


def usual(tokens: int) -> Blocks:
    """The choice for a shape that stands in no table: blocks of 64 tokens, or of all where there are fewer."""
    size = min(64, max(16, 1 << (tokens - 1).bit_length()))
    return Blocks(queries=size, keys=size, warps=4 if size == 64 else 1)


def serves(qkv: Tensor) -> bool:
    """Whether the kernels can be had (Triton is installed) and are made for this packed tensor (N, T, 3, H, w).

    They are for bfloat16 on a CUDA device, w ≤ 16 and T ≤ 512.
    """
    made = qkv.ndim == 5 and qkv.is_cuda and qkv.dtype == torch.bfloat16 and qkv.shape[-1] <= WIDEST and qkv.shape[1] <= MAX_TOKENS
    return made and AVAILABLE


def narrow_attention(qkv: Tensor) -> Tensor:
    """Scaled dot-product attention of every head, softmax(q·kᵀ/√w)·v, from q, k and v in one tensor (defined here).

    Exact up to the rounding of bfloat16: sums and exponentials are float32, the attention weights enter the product
    with v in bfloat16. Differentiable once.

    Args:
        qkv: (N, T, 3, H, w) bfloat16 on a GPU, w ≤ 16, T ≤ 512; one that is not contiguous is copied first.

    Returns:
        The outputs of the heads side by side, (N, T, H·w) bfloat16.

    Raises:
        ValueError: if the shape or the type is another.
        ModuleNotFoundError: if Triton is not installed; ``serves`` says so before.
    """
    if qkv.ndim != 5 or qkv.shape[2] != 3 or not 1 <= qkv.shape[4] <= WIDEST or not 1 <= qkv.shape[1] <= MAX_TOKENS:
        raise ValueError(f"queries, keys and values need the shape (N, T ≤ {MAX_TOKENS}, 3, H, w ≤ {WIDEST}), not {tuple(qkv.shape)}")
    if qkv.dtype != torch.bfloat16:
        raise ValueError(f"queries, keys and values need the type torch.bfloat16, not {qkv.dtype}")
    out, _ = torch.ops.snp.narrow_attention(qkv)
    assert isinstance(out, Tensor)
    return out


def forward(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (N, T, H·w) and, in base 2, the logarithm of every softmax's denominator, (N, H, T) float32."""
    n, t, _, h, w = qkv.shape
    qkv, (out, lse) = qkv.contiguous(), shapes(qkv)
    blocks = FORWARD.get((w, t), usual(t))
    with torch.cuda.device_of(qkv):
        kernel("forward")[programs(n, h, w), blocks.splits](
            qkv, out, lse, scale(w), t, h, w, blocks.queries, blocks.keys, **options(blocks)
        )
    return out, lse


def backward(grad_out: Tensor, qkv: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    """Gradient of the packed q, k and v, (N, T, 3, H, w), from that of the outputs, (N, T, H·w), of any strides."""
    n, t, _, h, w = qkv.shape
    qkv, grad_out = qkv.contiguous(), grad_out.contiguous()
    blocks = BACKWARD.get((w, t), usual(t))
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    partial = torch.empty_like(out, dtype=torch.float32) if blocks.keys < t else lse
    with torch.cuda.device_of(qkv):
        kernel("backward")[(programs(n, h, w),)](
            grad_out, qkv, out, lse, grad_qkv, partial, scale(w), t, h, w, blocks.queries, blocks.keys, **options(blocks)
        )
    return grad_qkv


def shapes(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """What ``forward`` returns, unwritten."""
    n, t, _, h, w = qkv.shape
    return qkv.new_empty(n, t, h * w), qkv.new_empty(n, h, t, dtype=torch.float32)


def kernel(name: str) -> Any:
    return getattr(import_module("snp_lib.models.narrow_kernels"), f"{name}_kernel")


def programs(n: int, h: int, w: int) -> int:
    """Images times tiles of ⌊16/w⌋ heads."""
    return n * -(-h // (WIDEST // w))


def scale(w: int) -> float:
    """Of the scores, so that a power of 2 is their exponential: log₂e/√w."""
    return math.log2(math.e) / math.sqrt(w)


def options(blocks: Blocks) -> dict[str, Any]:
    return {"num_warps": blocks.warps, "num_stages": blocks.stages, "maxnreg": blocks.registers}


def keep(ctx: Context, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)  # else a gradient of zeros is written for the denominators at every step


def differentiate(ctx: Context, grad_out: Tensor | None, _: Tensor | None) -> Tensor | None:
    if grad_out is None:
        return None
    gradient: Tensor = torch.ops.snp.narrow_attention_backward(grad_out, *ctx.saved_tensors)
    return gradient


def register() -> None:
    """Make the two operators known to torch; the schemas are written out because checked signatures hide the types."""
    custom_op = torch.library.custom_op
    forward_op = custom_op("snp::narrow_attention", forward, mutates_args=(), schema="(Tensor qkv) -> (Tensor, Tensor)")
    schema = "(Tensor grad_out, Tensor qkv, Tensor out, Tensor lse) -> Tensor"
    backward_op = custom_op("snp::narrow_attention_backward", backward, mutates_args=(), schema=schema)
    forward_op.register_fake(shapes)
    backward_op.register_fake(lambda grad_out, qkv, out, lse: torch.empty_like(qkv, memory_format=torch.contiguous_format))
    forward_op.register_autograd(differentiate, setup_context=keep)


register()
