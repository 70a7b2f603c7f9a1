"""The Triton kernels of ``narrow``; importing this module needs Triton.

Sixteen neighbouring columns are one tile of 16 // w heads, so no column is padding where w divides 16. The columns of the
other heads are set to zero in q (and in the gradient of the output) alone: every product with k or v is then that of one
head, and the gradients of k and v of all heads of a tile add up in one tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, no_type_check

if TYPE_CHECKING:
    constexpr = int
    tl: Any
    triton: Any
else:
    import triton
    import triton.language as tl
    from triton.language import constexpr

TILE = tl.constexpr(16)  # columns; the smallest inner length of a product on tensor cores
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
@no_type_check
def matmul(a, b, total=None):
    """The product of two bfloat16 matrices in float32, added to ``total``."""
    if INTERPRETED:  # Triton's interpreter multiplies the bits of bfloat16 as whole numbers
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total)


@triton.jit
@no_type_check
def forward_kernel(
    qkv,  # (N, T, 3, H, W)
    out,  # (N, T, H·W)
    lse,  # (N, H, T), base 2
    SCALE: constexpr,  # noqa: N803
    T: constexpr,  # noqa: N803
    H: constexpr,  # noqa: N803
    W: constexpr,  # noqa: N803
    QUERIES: constexpr,  # noqa: N803
    KEYS: constexpr,  # noqa: N803
):
    """One tile of heads of one image: every num_programs(1)-th block of QUERIES queries, the keys in blocks of KEYS."""
    heads: tl.constexpr = TILE // W
    tiles: tl.constexpr = (H + heads - 1) // heads
    parts: tl.constexpr = (T + KEYS - 1) // KEYS
    width: tl.constexpr = H * W
    image = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    column = tl.arange(0, TILE)
    real = (column < heads * W) & (column < width - tile * (heads * W))
    qkv += image * (T * 3 * width) + tile * (heads * W) + column[None, :]
    out += image * (T * width) + tile * (heads * W) + column[None, :]
    lse += (image * H + tile * heads) * T

    ks = ()
    vs = ()
    for part in tl.static_range(parts):
        key = part * KEYS + tl.arange(0, KEYS)
        valid_key = (key < T)[:, None] & real[None, :]
        ks += (tl.load(qkv + key[:, None] * (3 * width) + width, mask=valid_key, other=0.0),)
        vs += (tl.load(qkv + key[:, None] * (3 * width) + 2 * width, mask=valid_key, other=0.0),)

    for start in range(tl.program_id(1) * QUERIES, T, tl.num_programs(1) * QUERIES):
        query = start + tl.arange(0, QUERIES)
        valid = (query < T)[:, None] & real[None, :]
        q = tl.load(qkv + query[:, None] * (3 * width), mask=valid, other=0.0)
        result = tl.zeros((QUERIES, TILE), tl.float32)
        for head in range(heads):
            own = (column // W == head)[None, :]
            q_own = tl.where(own, q, 0.0)
            largest = tl.full((QUERIES,), float("-inf"), tl.float32)
            total = tl.zeros((QUERIES,), tl.float32)
            mixed = tl.zeros((QUERIES, TILE), tl.float32)
            for part in tl.static_range(parts):
                scores = matmul(q_own, tl.trans(ks[part]))
                if (part + 1) * KEYS > T:
                    scores = tl.where((part * KEYS + tl.arange(0, KEYS) < T)[None, :], scores, float("-inf"))
                larger = tl.maximum(largest, tl.max(scores, 1) * SCALE)
                weights = tl.exp2(scores * SCALE - larger[:, None])
                if part == 0:
                    total = tl.sum(weights, 1)
                    mixed = matmul(weights.to(tl.bfloat16), vs[part])
                else:
                    shrunk = tl.exp2(largest - larger)
                    total = total * shrunk + tl.sum(weights, 1)
                    mixed = matmul(weights.to(tl.bfloat16), vs[part], mixed * shrunk[:, None])
                largest = larger
            result = tl.where(own, mixed / total[:, None], result)
            there = query < tl.where(tile * heads + head < H, T, 0)
            tl.store(lse + head * T + query, largest + tl.log2(total), mask=there)
        tl.store(out + query[:, None] * width, result.to(tl.bfloat16), mask=valid)


@triton.jit
@no_type_check
def backward_kernel(
    grad_out,  # (N, T, H·W)
    qkv,  # (N, T, 3, H, W)
    out,  # (N, T, H·W)
    lse,  # (N, H, T), base 2
    grad_qkv,  # (N, T, 3, H, W)
    partial,  # (N, T, H·W) float32, unused where KEYS ≥ T
    SCALE: constexpr,  # noqa: N803
    T: constexpr,  # noqa: N803
    H: constexpr,  # noqa: N803
    W: constexpr,  # noqa: N803
    QUERIES: constexpr,  # noqa: N803
    KEYS: constexpr,  # noqa: N803
):
    """One tile of heads of one image, by blocks of KEYS keys and QUERIES queries.

    The gradients of k and v stay in registers; that of q is added up in ``partial`` by this program alone, so in one order.
    """
    heads: tl.constexpr = TILE // W
    tiles: tl.constexpr = (H + heads - 1) // heads
    width: tl.constexpr = H * W
    natural: tl.constexpr = SCALE * 0.6931471805599453  # 1/√w: SCALE is for powers of 2
    image = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    column = tl.arange(0, TILE)
    real = (column < heads * W) & (column < width - tile * (heads * W))
    qkv += image * (T * 3 * width) + tile * (heads * W) + column[None, :]
    grad_qkv += image * (T * 3 * width) + tile * (heads * W) + column[None, :]
    out += image * (T * width) + tile * (heads * W) + column[None, :]
    grad_out += image * (T * width) + tile * (heads * W) + column[None, :]
    partial += image * (T * width) + tile * (heads * W) + column[None, :]
    lse += (image * H + tile * heads) * T

    for first in range(0, T, KEYS):
        key = first + tl.arange(0, KEYS)
        valid_key = (key < T)[:, None] & real[None, :]
        k = tl.load(qkv + key[:, None] * (3 * width) + width, mask=valid_key, other=0.0)
        v = tl.load(qkv + key[:, None] * (3 * width) + 2 * width, mask=valid_key, other=0.0)
        grad_k = tl.zeros((KEYS, TILE), tl.float32)
        grad_v = tl.zeros((KEYS, TILE), tl.float32)
        for start in range(0, T, QUERIES):
            query = start + tl.arange(0, QUERIES)
            valid = (query < T)[:, None] & real[None, :]
            q = tl.load(qkv + query[:, None] * (3 * width), mask=valid, other=0.0)
            grad = tl.load(grad_out + query[:, None] * width, mask=valid, other=0.0)
            product = grad.to(tl.float32) * tl.load(out + query[:, None] * width, mask=valid, other=0.0).to(tl.float32)
            grad_q = tl.zeros((QUERIES, TILE), tl.float32)
            for head in range(heads):
                own = (column // W == head)[None, :]
                q_own = tl.where(own, q, 0.0)
                grad_own = tl.where(own, grad, 0.0)
                delta = tl.sum(tl.where(own, product, 0.0), 1)
                there = query < tl.where(tile * heads + head < H, T, 0)
                normaliser = tl.load(lse + head * T + query, mask=there, other=0.0)
                scores = matmul(k, tl.trans(q_own))  # (KEYS, QUERIES): the products over queries then need no transpose
                if T % KEYS != 0:
                    scores = tl.where((key < T)[:, None], scores, float("-inf"))
                weights = tl.exp2(scores * SCALE - normaliser[None, :])
                grad_v = matmul(weights.to(tl.bfloat16), grad_own, grad_v)
                grad_weights = matmul(v, tl.trans(grad_own))
                grad_scores = (weights * (grad_weights - delta[None, :])).to(tl.bfloat16)
                grad_k = matmul(grad_scores, q_own, grad_k)
                grad_q = tl.where(own, matmul(tl.trans(grad_scores), k), grad_q)
            if KEYS < T:
                place = partial + query[:, None] * width
                grad_q += tl.load(place, mask=valid & (first > 0), other=0.0)
                tl.store(place, grad_q, mask=valid & (first + KEYS < T))
            last = first + KEYS >= T
            tl.store(grad_qkv + query[:, None] * (3 * width), (grad_q * natural).to(tl.bfloat16), mask=valid & last)
        tl.store(grad_qkv + key[:, None] * (3 * width) + width, (grad_k * natural).to(tl.bfloat16), mask=valid_key)
        tl.store(grad_qkv + key[:, None] * (3 * width) + 2 * width, grad_v.to(tl.bfloat16), mask=valid_key)
        tl.debug_barrier()  # what one thread has left in partial another may read
