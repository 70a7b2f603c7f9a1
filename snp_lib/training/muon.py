"""Muon for the matrices of a network and AdamW for everything else, as one optimiser.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the scale of the update that
Liu et al., arXiv:2502.16982, match to AdamW's. ``torch.optim.Muon`` is the same, matrix by matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MOMENTUM = 0.95
STEPS = 5  # of the Newton-Schulz iteration
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SCALE = 0.2  # root mean square of an update over the rate


class Muon(torch.optim.AdamW):
    """Groups with ``parts`` above zero are matrices and take Muon's step, all others AdamW's.

    Matrices of equal shape are orthogonalised together, in bfloat16 on a GPU that has units for it, else in float32.

    Args:
        groups: as of every optimiser of torch; ``parts``, in how many blocks of rows the matrices of a group are cut, each
            orthogonalised on its own: 3 for queries, keys and values in one. A kernel of a convolution is the matrix of
            its filters, (out, in · height · width).
        options: as for ``torch.optim.AdamW``.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)
        for group in self.param_groups:
            group.setdefault("parts", 0)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step on every parameter that has a gradient."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        groups = self.param_groups
        _step([group for group in groups if group["parts"]], self.state)
        self.param_groups = [group for group in groups if not group["parts"]]  # AdamW must not see the matrices
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss


def _step(groups: list[dict[str, Any]], state: dict[Tensor, Any]) -> None:
    stacks: dict[tuple[int, int], list[tuple[Tensor, Tensor, Any]]] = {}  # shape → views of weight and update, rate
    for group in groups:
        weights = [p for p in group["params"] if p.grad is not None]
        if not weights:
            continue
        gradients = [p.grad for p in weights]
        for p in weights:
            if not state[p]:  # AdamW looks for a step in every state that it restores
                state[p] |= {"step": torch.zeros((), device=p.device), "momentum": torch.zeros_like(p)}
        momenta = [state[p]["momentum"] for p in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for weight, update in zip(weights, torch._foreach_lerp(gradients, momenta, MOMENTUM), strict=True):
            matrices = update.flatten(1).unflatten(0, (group["parts"], -1))
            turned = matrices.shape[1] > matrices.shape[2]
            matrices = matrices.mT if turned else matrices
            stacks.setdefault((matrices.shape[1], matrices.shape[2]), []).append((weight, matrices, group["lr"]))
    for shape, entries in stacks.items():
        updates = orthogonal(torch.cat([matrices for _, matrices, _ in entries]))
        for (weight, matrices, rate), update in zip(entries, updates.split([len(m) for _, m, _ in entries]), strict=True):
            rows = weight.shape[0] // len(matrices)
            update = update.mT if rows != shape[0] else update
            weight.add_(update.reshape(weight.shape) * (-SCALE * math.sqrt(max(shape)) * rate))


def orthogonal(matrices: Float[Tensor, "b m n"]) -> Float[Tensor, "b m n"]:
    """Matrices with the singular vectors of these and singular values near 1, by the Newton-Schulz iteration; m ≤ n."""
    a, b, c = COEFFICIENTS
    lower = matrices.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    x = matrices.bfloat16() if lower else matrices
    x = x / x.float().norm(dim=(1, 2), keepdim=True).clamp(min=1e-7).to(x.dtype)
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)
