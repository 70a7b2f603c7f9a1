"""Clusters, noise and signal-to-noise against a literal twin of the published algorithm, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import twins
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from snp_lib.performance import Summary, binarize, find_clusters, summarize
from snp_lib.performance.clusters import cluster_index, column_noise, diagonal_shares


def twin_threshold(matrix: np.ndarray, threshold: float) -> np.ndarray:
    """One unit: divide by the largest element, keep what is above the threshold; a silent unit keeps nothing."""
    binary = np.zeros(matrix.shape, dtype=bool)
    if matrix.max() > 0:
        for i, j in np.ndindex(matrix.shape):
            binary[i, j] = matrix[i, j] / matrix.max() > threshold
    return binary


@st.composite
def binaries(draw: st.DrawFn) -> np.ndarray:
    """One Boolean matrix of any density; half of them nearly symmetric, so that large clusters occur."""
    labels = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    binary = rng.random((labels, labels)) < draw(st.sampled_from((0.0, 0.1, 0.5, 0.8, 0.95, 1.0)))
    return binary | binary.T if draw(st.booleans()) else binary


@st.composite
def performance(draw: st.DrawFn) -> np.ndarray:
    """Matrices of a few units: with ties (small whole numbers), dense, sparse, negative, or all zero."""
    shape = (draw(st.integers(1, 5)), labels := draw(st.integers(2, 9)), labels)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(("ties", "dense", "sparse", "negative", "zero", "float32")))
    if kind == "ties":
        return rng.integers(-2, 4, shape).astype(float)
    if kind == "zero":
        return np.zeros(shape)
    values = rng.normal(size=shape)
    if kind == "sparse":
        return np.where(rng.random(shape) < 0.15, values, 0.0)
    if kind == "negative":
        return -np.abs(values) * rng.integers(0, 2, (shape[0], 1, 1))  # some units all zero, the others all negative
    return values.astype(np.float32) if kind == "float32" else np.abs(values)


@given(binaries())
def test_find_clusters_equals_the_literal_walk(binary: np.ndarray) -> None:
    assert find_clusters(binary) == twins.clusters(binary)
    assert find_clusters(binary) == twins.clusters(torch.from_numpy(binary).float(), twins.counted_square)


@given(performance(), st.sampled_from((0.0, 0.2, 0.3, 0.5, 0.6, 0.99)))
def test_a_summary_equals_the_literal_walk_of_every_unit(matrices: np.ndarray, threshold: float) -> None:
    found = summarize(matrices, threshold)
    expected = [twin_threshold(matrix, threshold) for matrix in matrices]
    assert np.array_equal(binarize(matrices, threshold), expected)
    assert found.clusters == [twins.clusters(binary) for binary in expected]
    assert found.noise.tolist() == [twins.noise(binary) for binary in expected]
    assert found.diagonal.tolist() == [binary.diagonal().tolist() for binary in expected]
    assert found.silent.tolist() == [not matrix.max() > 0 for matrix in matrices]


@given(performance(), st.sampled_from((0.0, 0.2, 0.3, 0.5)))
def test_clusters_and_both_noises_are_those_of_the_released_code(matrices: np.ndarray, threshold: float) -> None:
    summary, columns = summarize(matrices, threshold), column_noise(binarize(matrices, threshold))
    for unit, matrix in enumerate(matrices):
        if matrix.max() > 0:  # what the released code does with the others, nobody wants
            expected = twins.released_filter(matrix, threshold)
            assert (summary.clusters[unit], summary.noise[unit], columns[unit]) == expected


def test_the_released_code_makes_a_filter_without_a_positive_element_all_ones() -> None:
    matrix = -np.array([[1.0, 2.0], [3.0, 4.0]])
    assert twins.released_filter(matrix, 0.3) == ([[0, 1]], 0, 0)
    assert summarize(matrix[None], 0.3).clusters == [[]]


@given(performance(), st.sampled_from((0.0, 0.2, 0.3, 0.5)))
def test_shares_above_the_threshold_are_the_diagonal_set(matrices: np.ndarray, threshold: float) -> None:
    assert np.array_equal(diagonal_shares(matrices) > threshold, summarize(matrices, threshold).diagonal)


@given(hnp.arrays(np.float32, (2, 4, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_extreme_elements_neither_warn_nor_differ(matrices: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        expected = [twin_threshold(matrix, 0.3) for matrix in matrices]
    assert np.array_equal(binarize(matrices, 0.3), expected)


@given(binaries())
def test_clusters_split_the_diagonal_set_into_squares_of_ones(binary: np.ndarray) -> None:
    clusters = find_clusters(binary)
    members = [label for cluster in clusters for label in cluster]
    assert sorted(members) == np.flatnonzero(binary.diagonal()).tolist()
    assert len(set(members)) == len(members)
    for cluster in clusters:
        assert cluster == sorted(cluster)
        assert binary[np.ix_(cluster, cluster)].all()
    assert [cluster[0] for cluster in clusters] == sorted(cluster[0] for cluster in clusters)


def test_a_hundred_labels_and_many_units_as_in_the_book() -> None:
    matrices = np.random.default_rng(0).normal(size=(6, 100, 100)) + 2 * np.eye(100)
    found = summarize(matrices, 0.3)
    assert found.clusters == [twins.clusters(binary) for binary in binarize(matrices, 0.3)]


def worked_example() -> tuple[np.ndarray, Summary]:
    """Three units, four labels, threshold 0.5: clusters {0, 1} and {3} with one one outside; {2} without noise; silent."""
    first = np.array([[10, 6, 0, 0], [7, 9, 0, 0], [0, 0, 5, 8], [0, 0, 0, 6]])
    second = np.diag([0, 0, 4, 2])
    return np.stack([first, second, -np.ones((4, 4), dtype=int)]), summarize(np.stack([first, second, -np.ones((4, 4))]), 0.5)


def test_worked_example_by_hand() -> None:
    _, s = worked_example()
    # 5 / 10 and 2 / 4 equal the threshold, so labels 2 and 3 are not recognised there: above means above
    assert s.clusters == [[[0, 1], [3]], [[2]], []]
    assert s.noise.tolist() == [1, 0, 0]
    assert s.silent.tolist() == [False, False, True]
    assert s.cluster_sizes[:, :2].tolist() == [[2, 1], [1, 0], [0, 0]]
    assert s.signal == pytest.approx((3 + 1 + 0) / 4)
    assert s.internal_noise == pytest.approx(2 * 1 / (4 * 3))
    assert s.external_noise == pytest.approx(1 / (4 * 3))
    assert s.snr == pytest.approx(1 / (3 / 12))


def test_averages_with_and_without_units_that_have_no_cluster() -> None:
    _, s = worked_example()
    assert (s.labels_per_unit(), s.labels_per_unit(clustered_only=True)) == pytest.approx((4 / 3, 4 / 2))
    assert (s.clusters_per_unit(), s.clusters_per_unit(clustered_only=True)) == pytest.approx((3 / 3, 3 / 2))
    assert (s.noise_per_unit(), s.noise_per_unit(clustered_only=True)) == pytest.approx((1 / 3, 1 / 2))
    assert s.cluster_size == pytest.approx((2 + 1 + 1) / 3)


def test_whole_numbers_are_read_as_numbers() -> None:
    integers, s = worked_example()
    assert integers.dtype.kind == "i"
    assert summarize(integers, 0.5).clusters == s.clusters


def test_a_site_of_silent_units_has_no_number_to_report() -> None:
    s = summarize(-np.ones((3, 4, 4)))
    assert s.silent.all()
    assert s.clusters == [[], [], []]
    assert (s.labels_per_unit(), s.noise_per_unit(), s.signal) == (0, 0, 0)
    assert all(map(math.isnan, (s.labels_per_unit(clustered_only=True), s.cluster_size, s.snr)))


def test_signal_without_noise_is_an_infinite_ratio() -> None:
    assert summarize(np.eye(3)[None]).snr == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_a_number_is_refused_by_the_unit_that_holds_it(bad: float) -> None:
    matrices = np.ones((3, 4, 4))
    matrices[2, 1, 3] = bad
    with pytest.raises(ValueError, match="unit 2 holds NaN or infinity"):
        summarize(matrices)


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 3), (4,), (1, 2, 4, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected matrices"):
        binarize(np.ones(shape))


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 2.0, math.nan])
def test_thresholds_outside_the_unit_interval_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        binarize(np.ones((1, 2, 2)), threshold)


@pytest.mark.parametrize("dtype", [complex, str, object])
def test_only_real_numbers_are_compared(dtype: type) -> None:
    with pytest.raises(ValueError, match="real numbers"):
        binarize(np.ones((1, 2, 2)).astype(dtype))


def test_one_label_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="at least two labels"):
        summarize(np.ones((1, 1, 1)))


@pytest.mark.parametrize("bad", [np.ones((3, 3)), np.ones((2, 3), dtype=bool), np.ones((1, 3, 3), dtype=bool)])
def test_find_clusters_takes_one_square_boolean_matrix(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="square Boolean matrix"):
        find_clusters(bad)


def test_no_units_and_no_labels_are_empty_and_no_error() -> None:
    assert find_clusters(np.ones((0, 0), dtype=bool)) == []
    assert cluster_index(np.ones((0, 3, 3), dtype=bool)).shape == (0, 3)
    assert math.isnan(summarize(np.ones((0, 3, 3))).labels_per_unit())
