"""Attention of narrow heads against plain products in float64: the kernels in Triton's interpreter, and on a GPU where there is one.

The interpreter has to be chosen before Triton is first imported, so this file runs itself in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shared import skip
from torch import Tensor

from snp_lib.models.narrow import AVAILABLE, Blocks, narrow_attention, serves

TOLERANCE = 1.5e-2  # of the largest value: four roundings to bfloat16
WIDTHS = (1, 2, 3, 4, 8, 16)
SHAPES = [(w, t, h) for w in WIDTHS for t, h in ((16, 8), (64, 3), (65, 1), (100, 3))]
SHARPNESS = (1.0, 8.0)  # of q: scores of about 1, and a softmax that is nearly one-hot


def packed(n: int, t: int, h: int, w: int, sharpness: float = 1.0) -> Tensor:
    qkv = torch.randn(n, t, 3, h, w, generator=torch.Generator().manual_seed(h + w))
    qkv[:, :, 0] *= sharpness
    return qkv.bfloat16()


def plain(qkv: Tensor, grad_out: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients of q, k and v by plain products in float64, and the size of what each of them sums."""
    n, t, _, h, w = qkv.shape
    q, k, v = qkv.double().permute(2, 0, 3, 1, 4)
    g = grad_out.double().view(n, t, h, w).transpose(1, 2)
    weights = (q @ k.mT * w**-0.5).softmax(-1)
    out, grad_weights = weights @ v, g @ v.mT
    delta = (grad_weights * weights).sum(-1, keepdim=True)
    scores, sizes = weights * (grad_weights - delta) * w**-0.5, weights * (grad_weights.abs() + delta.abs()) * w**-0.5
    return [out, scores @ k, scores.mT @ q, weights.mT @ g], [out, sizes @ k.abs(), sizes.mT @ q.abs(), weights.mT @ g.abs()]


def deviations(qkv: Tensor) -> list[float]:
    """Of the output and of the gradients of q, k and v, as a share of the largest size."""
    n, t, _, h, w = qkv.shape
    grad_out = torch.randn(n, h * w, t, generator=torch.Generator().manual_seed(t)).bfloat16().to(qkv.device).mT  # not contiguous
    qkv = qkv.clone().requires_grad_()
    out = narrow_attention(qkv)
    out.backward(grad_out)
    assert qkv.grad is not None
    assert qkv.grad.is_contiguous()
    assert out.shape == (n, t, h * w)
    found = [out.detach().view(n, t, h, w).transpose(1, 2), *qkv.grad.permute(2, 0, 3, 1, 4)]
    expected, sizes = plain(qkv.detach(), grad_out)
    return [float((a.double() - b).abs().max() / size.abs().max()) for a, b, size in zip(found, expected, sizes, strict=True)]


def close(found: list[float]) -> bool:
    return all(deviation < TOLERANCE for deviation in found)  # false of one that is no number


def interpret() -> dict[str, object]:
    """What the tests below look at, computed in the interpreter."""
    found: dict[str, object] = {
        repr((w, t, h, sharpness)): deviations(packed(2, t, h, w, sharpness))
        for (w, t, h), sharpness in itertools.product(SHAPES, SHARPNESS)
    }
    from snp_lib.models import narrow

    ones = packed(1, 40, 5, 3)
    ones[:, :, 2] = 1
    found["rows"] = narrow_attention(ones).float().sub(1).abs().max().item()
    out, lse = torch.ops.snp.narrow_attention(ones)
    q, k, _ = ones.double().permute(2, 0, 3, 1, 4)
    found["lse"] = float((lse * torch.log(torch.tensor(2.0)) - (q @ k.mT * 3**-0.5).logsumexp(-1)).abs().max())

    qkv = packed(1, 65, 4, 4)
    qkv[:, :, 0], qkv[:, :, 1] = qkv[:, :, 0].abs() + 16, -qkv[:, :, 1].abs() - 16
    found["low"] = deviations(qkv)

    qkv = packed(1, 100, 4, 4)
    single, several = Blocks(queries=16, keys=128, warps=4), Blocks(queries=32, keys=32, warps=4, splits=3)
    narrow.FORWARD[4, 100] = narrow.BACKWARD[4, 100] = single
    found["single"] = deviations(qkv)
    narrow.FORWARD[4, 100] = narrow.BACKWARD[4, 100] = several
    found["several"] = deviations(qkv)

    small = packed(1, 16, 2, 4).requires_grad_()
    found["checks"] = torch.library.opcheck(torch.ops.snp.narrow_attention.default, (small,))
    out, lse = torch.ops.snp.narrow_attention(small.detach())
    found["backward checks"] = torch.library.opcheck(
        torch.ops.snp.narrow_attention_backward.default,
        (out, small.detach(), out, lse),
        test_utils=("test_schema", "test_faketensor"),  # it is differentiated no further
    )
    compiled = torch.compile(narrow_attention, fullgraph=True, backend="aot_eager")(small)
    found["compiled"] = torch.equal(compiled, narrow_attention(small))
    return found


@pytest.fixture(scope="module")
def interpreted() -> dict[str, list[float]]:
    if not AVAILABLE:
        skip("triton")
    process = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert process.returncode == 0, process.stderr
    found: dict[str, list[float]] = json.loads(process.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("sharpness", SHARPNESS)
@pytest.mark.parametrize("width", WIDTHS)
def test_outputs_and_gradients_are_those_of_plain_products(interpreted: dict[str, list[float]], width: int, sharpness: float) -> None:
    for w, t, h in SHAPES:
        if w == width:
            assert close(interpreted[repr((w, t, h, sharpness))]), (t, h)


def test_weights_sum_to_one_and_the_denominators_are_kept(interpreted: dict[str, float]) -> None:
    assert interpreted["rows"] <= 2**-8  # one rounding of a number below 1
    assert interpreted["lse"] < 1e-5


def test_keys_that_are_not_there_stay_out_when_all_scores_are_low(interpreted: dict[str, list[float]]) -> None:
    assert close(interpreted["low"])  # a score of zero would have a weight of 2⁷⁰⁰


def test_any_blocks_give_the_same(interpreted: dict[str, list[float]]) -> None:
    assert close(interpreted["single"])
    assert close(interpreted["several"])


def test_the_operators_keep_the_rules_of_torch(interpreted: dict[str, dict[str, str]]) -> None:
    assert set(interpreted["checks"].values()) == {"SUCCESS"}
    assert set(interpreted["backward checks"].values()) == {"SUCCESS"}
    assert interpreted["compiled"]


def test_shapes_are_known_without_a_kernel() -> None:
    qkv = torch.empty(2, 65, 3, 5, 3, dtype=torch.bfloat16, device="meta", requires_grad=True)
    out = narrow_attention(qkv)
    assert (out.shape, out.dtype) == ((2, 65, 15), torch.bfloat16)
    (gradient,) = torch.autograd.grad(out, qkv, torch.empty_like(out))
    assert (gradient.shape, gradient.stride(), gradient.dtype) == (qkv.shape, qkv.stride(), qkv.dtype)


def test_what_the_kernels_are_not_made_for_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        narrow_attention(torch.zeros(1, 16, 3, 2, 17, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="shape"):
        narrow_attention(torch.zeros(1, 513, 3, 1, 2, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"bfloat16, not torch\.float32"):
        narrow_attention(torch.zeros(1, 16, 3, 2, 4))
    assert not serves(packed(1, 16, 2, 4))  # on a CPU


@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_on_a_gpu_outputs_and_gradients_are_those_of_plain_products(sharpness: float) -> None:
    qkv = packed(3, 256, 64, 4, sharpness)
    if not torch.cuda.is_available() or not serves(qkv.cuda()):
        skip("cuda")
    assert close(deviations(qkv.cuda()))


if __name__ == "__main__":
    print(json.dumps(interpret()))
