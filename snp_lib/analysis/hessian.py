"""Curvature of the loss: products with its Hessian, its largest eigenvalues and the density of all.

Source: Park and Kim, arXiv:2202.06709, figure 1, whose code was never released; the density as stochastic Lanczos quadrature,
Yao et al., "PyHessian", arXiv:1912.07145, and Golub and Welsch (1969) for its nodes and weights. Weight decay of ½ λ‖θ‖² would add
λ to every eigenvalue, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from snp_lib.models.sites import Network, evaluating

Product = Callable[[Float[Tensor, " p"]], Float[Tensor, " p"]]


def hessian_product(model: Network, inputs: Tensor, targets: Int64[Tensor, " n"] | Float[Tensor, "n k"]) -> Product:
    """From a vector v to H·v for the Hessian H of the mean cross-entropy, in nats, on one batch, over all parameters in their order.

    In eval mode, so that a batch normalisation has its running statistics, and with attention written out, since fused attention
    has no second derivative. The gradient is computed once and its graph kept.

    Args:
        inputs, targets: as the network reads them, and labels or their shares.
    """
    parameters = list(model.parameters())
    with evaluating(model), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        loss = F.cross_entropy(model(inputs), targets)
        gradient = _flat(torch.autograd.grad(loss, parameters, create_graph=True))

    def product(vector: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        with sdpa_kernel(SDPBackend.MATH):
            return _flat(torch.autograd.grad(gradient, parameters, vector, retain_graph=True)).detach()

    return product


def _flat(tensors: tuple[Tensor, ...]) -> Float[Tensor, " p"]:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@dataclass(frozen=True)
class Spectrum:
    """What some steps of Lanczos's method from one random start say of a spectrum.

    Attributes:
        values: Ritz values, from the smallest to the largest; those at both ends approach the eigenvalues there from within.
        weights: the share of the spectrum that each stands for; they sum to one.
    """

    values: Float64[np.ndarray, " step"]
    weights: Float64[np.ndarray, " step"]

    @property
    def negative(self) -> float:
        """Share of the absolute curvature that is negative, Σ ``w·|λ|`` over λ < 0, over that of all."""
        parts = self.weights * np.abs(self.values)
        return float(parts[self.values < 0].sum() / parts.sum())


def lanczos(
    product: Product, size: int, steps: int, generator: torch.Generator, *, device: torch.device | None = None, progress: bool = False
) -> Spectrum:
    """The spectrum of a symmetric matrix from its products with vectors, each new one orthogonal to all before.

    Fewer steps are made where the matrix has fewer distinct eigenvalues than that.

    Args:
        size: rows of the matrix.
        steps: products, and vectors of that size that are held.
        generator: of the CPU, for the start.
        device: of the vectors; None: the CPU.
    """
    vector = torch.randn(size, generator=generator).to(device or torch.device("cpu"))
    basis, diagonal, beside = [vector / vector.norm()], list[float](), list[float]()
    for _ in tqdm(range(min(steps, size)), desc="Lanczos", unit="step", disable=not progress, leave=False):
        after = product(basis[-1])
        diagonal.append(float(after @ basis[-1]))
        for _ in range(2):  # a second time for what rounding left
            for earlier in basis:
                after = after - (after @ earlier) * earlier
        length = float(after.norm())
        scale = max(map(abs, [*diagonal, *beside]))
        if length <= 1e-6 * scale:
            break
        beside.append(length)
        basis.append(after / length)
    values, vectors = np.linalg.eigh(np.diag(diagonal) + _off(beside[: len(diagonal) - 1]))
    return Spectrum(values=values, weights=vectors[0] ** 2)


def _off(beside: list[float]) -> Float64[np.ndarray, "n n"]:
    return np.diag(beside, 1) + np.diag(beside, -1)
