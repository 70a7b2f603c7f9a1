"""Microseconds of one attention layer for one image, forward and backward: narrow heads in Triton and torch's fused kernels.

    python benchmarks/narrow_heads.py [--quick] [--images 256] [--tokens 256] [--heads 16,32,64,128]

Every shape has 256 channels. Outputs and gradients are first compared with plain products in float32 on two images
(`error`: largest deviation as a share of the largest value, of the output and of the gradients of q, k and v). `--quick`
times the choice of the tables alone; without it other choices follow, of both passes at once, each timed by itself. The last
lines are the best, to be copied into `snp_lib/models/narrow.py`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from snp_lib.models import narrow
from snp_lib.models.narrow import Blocks, narrow_attention

CHANNELS = 256
ROUNDS, REPEATS = 5, 5
FORWARD = [
    Blocks(queries=64, keys=64, warps=4, splits=1),
    Blocks(queries=64, keys=64, warps=4, splits=4),
    Blocks(queries=64, keys=128, warps=4, splits=2),
    Blocks(queries=64, keys=256, warps=4, splits=2),
    Blocks(queries=32, keys=64, warps=2, splits=2),
]
BACKWARD = [
    Blocks(queries=32, keys=64, warps=4),
    Blocks(queries=64, keys=64, warps=4, stages=2),
    Blocks(queries=64, keys=64, warps=4, registers=128),
    Blocks(queries=64, keys=256, warps=8),
    Blocks(queries=32, keys=64, warps=2),
]


def plain(qkv: Tensor) -> Tensor:
    n, t, _, h, w = qkv.shape
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return ((q @ k.mT * w**-0.5).softmax(-1) @ v).transpose(1, 2).reshape(n, t, h * w)


def fused(qkv: Tensor) -> Tensor:
    n, t, _, h, w = qkv.shape
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, h * w)


def errors(qkv: Tensor, grad_out: Tensor) -> str:
    """Of the output and the gradients of q, k and v, against plain products in float32."""
    results = []
    for attention, dtype in ((narrow_attention, torch.bfloat16), (plain, torch.float32)):
        leaf = qkv[:2].to(dtype).requires_grad_()
        out = attention(leaf)
        (gradient,) = torch.autograd.grad(out, leaf, grad_out[:2].to(dtype))
        results.append([out.float(), *gradient.float().unbind(2)])
    return " ".join(f"{((a - b).abs().max() / b.abs().max()).item():.4f}" for a, b in zip(*results, strict=True))


def seconds(call: Callable[[], object]) -> float:
    """Median of several rounds of calls behind two for warming up."""
    call()
    call()
    times = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(REPEATS):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / REPEATS)
    return statistics.median(times)


def timed(attention: Callable[[Tensor], Tensor], qkv: Tensor, grad_out: Tensor) -> tuple[float, float]:
    """Microseconds for one image of the forward and of the backward pass."""
    leaf = qkv.detach().requires_grad_()
    out = attention(leaf)
    backward = seconds(lambda: torch.autograd.grad(out, leaf, grad_out, retain_graph=True))
    with torch.no_grad():
        forward = seconds(lambda: attention(leaf))
    return forward / len(qkv) * 1e6, backward / len(qkv) * 1e6


def choices(shape: tuple[int, int], quick: bool) -> Iterator[tuple[Blocks, Blocks]]:
    """Blocks of the forward and of the backward pass: those of the tables, then the pairs above."""
    usual = narrow.usual(shape[1])
    forward, backward = narrow.FORWARD.get(shape, usual), narrow.BACKWARD.get(shape, usual)
    yield forward, backward
    if not quick:
        yield from zip(FORWARD, BACKWARD, strict=True)


def measure(heads: int, arguments: argparse.Namespace) -> list[str]:
    """Print a line for every choice of one shape; return the entries of the tables that were best."""
    width = CHANNELS // heads
    shape = (width, arguments.tokens)
    generator = torch.Generator("cuda").manual_seed(0)
    qkv = torch.randn(arguments.images, arguments.tokens, 3, heads, width, device="cuda", generator=generator).bfloat16()
    grad_out = torch.randn(arguments.images, arguments.tokens, CHANNELS, device="cuda", generator=generator).bfloat16()
    title = f"{heads:4} heads of {width:2}"
    usual = sum(timed(fused, qkv, grad_out))
    print(f"{title}  torch's fused kernels: {usual:8.2f} us an image", flush=True)
    best: dict[str, tuple[float, Blocks]] = {}
    for forward, backward in choices(shape, arguments.quick):
        narrow.FORWARD[shape], narrow.BACKWARD[shape] = forward, backward
        started = time.perf_counter()
        try:
            deviation = errors(qkv, grad_out)
            times = timed(narrow_attention, qkv, grad_out)
        except Exception as error:  # a choice that does not compile or fit is a result too
            print(f"{title}  failed: {type(error).__name__}: {str(error)[:200]!r} {forward} {backward}", flush=True)
            continue
        print(
            f"{title}  {sum(times):6.2f} us = forward {times[0]:5.2f} + backward {times[1]:5.2f}; {usual / sum(times):5.1f} x; "
            f"error {deviation}; {time.perf_counter() - started:.1f} s; {brief(forward)} | {brief(backward)}",
            flush=True,
        )
        for name, value, blocks in (("FORWARD", times[0], forward), ("BACKWARD", times[1], backward)):
            if name not in best or value < best[name][0]:
                best[name] = value, blocks
    return [f"{name}: {shape}: {brief(blocks)},  # {value:.2f} us an image" for name, (value, blocks) in best.items()]


def brief(blocks: Blocks) -> str:
    """The fields that differ from their defaults, as in the tables."""
    default = Blocks(queries=0, keys=0, warps=0)
    fields = {name: value for name, value in vars(blocks).items() if value != getattr(default, name)}
    return f"Blocks({', '.join(f'{name}={value}' for name, value in fields.items())})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--heads", default="16,32,64,128")
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments.images} images of {arguments.tokens} tokens", flush=True)
    entries = [line for heads in arguments.heads.split(",") for line in measure(int(heads), arguments)]
    print(*sorted(entries), sep="\n")


if __name__ == "__main__":
    main()
