"""Curvature against the whole Hessian of tiny networks, and against scipy's Lanczos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import lively
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from snp_lib.analysis.hessian import Spectrum, hessian_product, lanczos
from snp_lib.data import Dataset
from snp_lib.data.augment.crops import Normalize
from snp_lib.models.sites import Network

TINY = {"cct_2_3x1": {"depth": 1, "embed_dim": 3, "num_heads": 1}, "vit_2_p2": {"depth": 1, "embed_dim": 3, "num_heads": 1}}


def batch(dataset: Dataset) -> tuple[Tensor, Tensor]:
    return Normalize(dataset.train.inputs)(dataset.test.inputs[:8]), dataset.test.labels[:8]


def dense(model: Network, inputs: Tensor, labels: Tensor) -> Tensor:
    """The whole Hessian, by torch."""
    names, shapes = [name for name, _ in model.named_parameters()], [p.shape for p in model.parameters()]
    sizes = [shape.numel() for shape in shapes]

    def loss(flat: Tensor) -> Tensor:
        parts = {name: part.view(shape) for name, part, shape in zip(names, torch.split(flat, sizes), shapes, strict=True)}
        return F.cross_entropy(functional_call(model, parts, (inputs,)), labels)

    with sdpa_kernel(SDPBackend.MATH):
        found: Tensor = torch.autograd.functional.hessian(loss, torch.cat([p.detach().flatten() for p in model.parameters()]))  # type: ignore[no-untyped-call]
    return found


@pytest.mark.parametrize("name", TINY)
def test_products_are_those_of_the_whole_hessian(name: str, few_digits: Dataset) -> None:
    model, (inputs, labels) = lively(name, **TINY[name]).train(), batch(few_digits)
    whole = dense(model.eval(), inputs, labels)
    product = hessian_product(model.train(), inputs, labels)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for seed in range(3):
        vector = torch.randn(len(whole), generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(product(vector), whole @ vector, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_the_ends_of_the_spectrum_are_those_of_the_dense_one_and_of_scipy(name: str, few_digits: Dataset) -> None:
    model, (inputs, labels) = lively(name, **TINY[name]), batch(few_digits)
    exact = np.linalg.eigvalsh(dense(model, inputs, labels).double().numpy())
    product, size = hessian_product(model, inputs, labels), len(exact)
    found = lanczos(product, size, 40, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(found.values[-3:], exact[-3:], rtol=1e-3)
    np.testing.assert_allclose(found.values[0], exact[0], rtol=1e-2)
    operator = LinearOperator((size, size), matvec=lambda v: product(torch.from_numpy(v.ravel())).numpy(), dtype=np.float32)
    by_scipy = np.sort(eigsh(operator, k=3, which="LA", return_eigenvectors=False, tol=1e-4))
    np.testing.assert_allclose(found.values[-3:], by_scipy, rtol=1e-3)


def test_a_density_has_the_moments_of_the_spectrum() -> None:
    values = torch.randn(4000, generator=torch.Generator().manual_seed(1)) + 0.5
    spectra = [lanczos(lambda v: values * v, 4000, 20, torch.Generator().manual_seed(seed)) for seed in range(2, 6)]
    for power in (1, 2, 3):
        moment = np.mean([(each.weights * each.values**power).sum() for each in spectra])
        assert moment == pytest.approx(float(values.pow(power).mean()), abs=0.15)
    assert np.mean([each.weights[each.values < 0].sum() for each in spectra]) == pytest.approx(float((values < 0).float().mean()), abs=0.06)
    assert all(each.weights.sum() == pytest.approx(1) for each in spectra)


def test_few_distinct_eigenvalues_end_it_early() -> None:
    values = torch.tensor([3.0] * 5 + [-1.0] * 5)
    found = lanczos(lambda v: values * v, 10, 8, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(found.values, [-1, 3], atol=1e-5)
    assert found.weights.sum() == pytest.approx(1)


def test_share_of_negative_curvature() -> None:
    found = Spectrum(values=np.array([-2.0, 0.0, 1.0]), weights=np.array([0.25, 0.25, 0.5]))
    assert found.negative == 0.5
