"""The SNR at equal density against its definition, element by element."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from snp_lib.performance import binarize, summarize
from snp_lib.performance.density import (
    centred,
    decompose,
    diagonal_ranks,
    gauged,
    ones_at,
    operating_curve,
    ratio,
    snr_at_density,
)


def drawn(units: int, labels: int, seed: int, *, shared: float = 0.0) -> np.ndarray:
    """Matrices with something on the diagonal, and ``shared`` the same for every label of an output."""
    rng = np.random.default_rng(seed)
    matrices = rng.standard_normal((units, labels, labels)) + np.eye(labels) * rng.random((units, 1, 1)) * 3
    return matrices + shared * rng.standard_normal((units, 1, labels))


def plain(matrices: np.ndarray, ones: list[int]) -> float:
    """Each unit's largest elements counted one by one."""
    labels, hits, total = matrices.shape[1], 0, 0
    for matrix, count in zip(matrices, ones, strict=True):
        if matrix.max() <= 0:
            continue
        places = sorted(itertools.product(range(labels), repeat=2), key=lambda place: (-matrix[place], place))[:count]
        hits += sum(i == j for i, j in places)
        total += count
    return (hits / labels) / ((total - hits) / (labels * (labels - 1))) if total > hits else float("inf")


@pytest.mark.parametrize("theta", [0.0, 0.2, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_at_the_ones_that_a_threshold_leaves_it_is_the_snr_of_the_clusters(theta: float, seed: int) -> None:
    matrices = drawn(12, 9, seed)
    matrices[3] = -np.abs(matrices[3])  # silent
    summary = summarize(matrices, theta)
    ones = ones_at(matrices, theta)
    assert ones.tolist() == binarize(matrices, theta).sum(axis=(1, 2)).tolist()
    assert snr_at_density(matrices, ones) == pytest.approx(summary.snr, rel=1e-12)
    assert ratio(float(summary.diagonal.sum()), float(ones.sum()), 9) == pytest.approx(summary.snr, rel=1e-12)  # no cluster is in it


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_count_of_the_largest_elements(seed: int) -> None:
    matrices = drawn(5, 6, seed).round(1)  # with equal elements
    matrices[2] = -1.0
    for ones in ([3, 3, 3, 3, 3], [1, 5, 9, 30, 36]):
        assert snr_at_density(matrices, np.array(ones)) == pytest.approx(plain(matrices, ones), rel=1e-12)
    counts = (1, 4, 17)
    assert operating_curve(matrices, counts).tolist() == pytest.approx([plain(matrices, [count] * 5) for count in counts], rel=1e-12)


def test_ranks_are_places_in_the_order_of_size() -> None:
    for matrices in (drawn(4, 7, 0), drawn(4, 7, 1).round(1), np.zeros((2, 3, 3)) + np.eye(3)):
        if len(matrices) == 4:
            matrices[1] = -1.0
        for unit, ranks in zip(matrices, diagonal_ranks(matrices), strict=True):
            order = sorted(itertools.product(range(len(unit)), repeat=2), key=lambda place: (-unit[place], place))
            expected = [order.index((label, label)) for label in range(len(unit))] if unit.max() > 0 else [len(unit) ** 2] * len(unit)
            assert ranks.tolist() == expected


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), theta=st.sampled_from([0.2, 0.3, 0.5]))
def test_sparsity_times_alignment_is_the_rise(seed: int, theta: float) -> None:
    first, second = drawn(6, 8, seed), drawn(6, 8, seed + 1) + np.eye(8)
    found = decompose(first, second, theta)
    assert found.sparsity * found.alignment == pytest.approx(found.rise, rel=1e-9)
    expected = summarize(second, theta).snr / summarize(first, theta).snr
    assert found.rise == pytest.approx(expected, rel=1e-9)


def test_a_site_that_only_loses_ones_rises_by_sparsity_alone() -> None:
    first = drawn(20, 10, 0)
    largest = first.max(axis=(1, 2), keepdims=True)
    second = np.where(first == largest, 2 * largest, first)  # the largest element doubled: fewer pass the same threshold, in the same order
    found = decompose(first, second, 0.3)
    assert found.rise > 1.2
    assert found.sparsity == pytest.approx(found.rise, rel=0.1)  # counts are matched in their order, not unit by unit
    assert found.alignment == pytest.approx(1, abs=0.1)


def test_shuffled_outputs_have_an_snr_of_one_at_any_density() -> None:
    rng = np.random.default_rng(0)
    matrices = rng.permuted(drawn(400, 10, 0), axis=2)
    assert operating_curve(matrices, (5, 20, 60)) == pytest.approx([1, 1, 1], abs=0.1)


def test_centring_is_that_of_the_class_means_and_the_gauge_that_of_the_weights() -> None:
    rng = np.random.default_rng(0)
    means, weight = rng.standard_normal((5, 7)) + 3, rng.standard_normal((5, 7)) + 2  # (label, unit), (output, unit)
    matrices = np.einsum("ju,iu->uij", weight, means)
    np.testing.assert_allclose(centred(matrices), np.einsum("ju,iu->uij", weight, means - means.mean(0)), atol=1e-12)
    np.testing.assert_allclose(gauged(matrices), np.einsum("ju,iu->uij", weight - weight.mean(0), means), atol=1e-12)
    moved = np.einsum("ju,iu->uij", weight + rng.standard_normal(7), means)  # the same predictions
    np.testing.assert_allclose(gauged(moved), gauged(matrices), atol=1e-12)
    assert np.abs(moved - matrices).max() > 0.1


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="a matrix of 4 labels has 0 to 16 ones, not 17 to 17"):
        snr_at_density(drawn(2, 4, 0), 17)
    with pytest.raises(ValueError, match="sites of equal shape are needed"):
        decompose(drawn(2, 4, 0), drawn(3, 4, 0), 0.3)
    assert np.isnan(snr_at_density(drawn(2, 4, 0), 0))
