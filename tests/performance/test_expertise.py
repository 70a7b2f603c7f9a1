"""The advantage of experts against loops, shuffles written out, and values that have none; fields against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from snp_lib.performance.expertise import expert_advantage, recognised_first, standing_out

RNG = np.random.default_rng(0)
HEADS, LABELS = 4, 30


def written_out(values: np.ndarray, experts: np.ndarray) -> float:
    """The difference label by label."""
    found = []
    for label, head in enumerate(experts):
        if head >= 0:
            found.append(values[head, label] - np.mean([values[h, label] for h in range(len(values)) if h != head]))
    return float(np.mean(found))


def with_gaps() -> np.ndarray:
    experts = RNG.integers(0, HEADS, LABELS)
    experts[[3, 7, 20]] = -1
    return experts


def test_the_difference_is_that_on_the_same_labels() -> None:
    values, experts = RNG.random((HEADS, LABELS)), with_gaps()
    found = expert_advantage(values, experts, permutations=20)
    assert found.labels == LABELS - 3
    assert found.difference == pytest.approx(written_out(values, experts))
    assert found.excess == pytest.approx(found.difference - found.null_mean)
    low, high = found.null_interval
    assert low < found.null_mean < high


def test_the_null_is_that_of_experts_shuffled_between_labels() -> None:
    values, experts = RNG.random((HEADS, LABELS)), with_gaps()
    values[1] += 2  # a strong head is ahead on any label
    found = expert_advantage(values, experts, permutations=4000)
    known = experts >= 0
    shuffled = [written_out(values[:, known], RNG.permutation(experts[known])) for _ in range(4000)]
    assert found.null_mean == pytest.approx(np.mean(shuffled), abs=0.01)
    assert found.null.mean() == pytest.approx(np.mean(shuffled), abs=0.01)
    assert found.null.std() == pytest.approx(np.std(shuffled), rel=0.1)


@given(st.integers(0, 1000))
def test_neither_hard_labels_nor_strong_heads_make_an_expert(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random((HEADS, 1)) + rng.random((1, LABELS))
    found = expert_advantage(values, rng.integers(0, HEADS, LABELS), permutations=10)
    assert found.excess == pytest.approx(0, abs=1e-12)
    assert found.p == 1  # every shuffle is as good


def test_an_expert_that_does_better_on_its_labels_is_seen() -> None:
    experts = np.arange(LABELS) % HEADS
    values = RNG.normal(size=(HEADS, LABELS))
    values[experts, np.arange(LABELS)] += 3
    found = expert_advantage(values, experts, permutations=500)
    assert found.excess > 2
    assert found.p == pytest.approx(1 / 501)
    worse = expert_advantage(-values, experts, permutations=500)
    assert worse.excess < -2
    assert worse.p == 1


def test_without_an_expert_nothing_is_said() -> None:
    found = expert_advantage(RNG.random((2, 5)), np.full(5, -1), permutations=3)
    assert found.labels == 0
    assert np.isnan([found.difference, found.excess, found.p, *found.null_interval]).all()


@pytest.mark.parametrize(
    ("values", "experts", "message"),
    [
        (np.ones((1, 5)), np.zeros(5, dtype=int), "other heads"),
        (np.ones((2, 5)), np.full(5, 2), "one of 2 heads"),
        (np.ones((2, 5)), np.full(5, -2), "one of 2 heads"),
    ],
)
def test_what_names_no_head_is_refused(values: np.ndarray, experts: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expert_advantage(values, experts)


def test_a_label_stands_out_by_the_spread_of_the_other_outputs() -> None:
    matrices = RNG.normal(size=(3, 6, 6))
    found, first = standing_out(matrices), recognised_first(matrices)
    for unit, label in np.ndindex(3, 6):
        others = [matrices[unit, label, output] for output in range(6) if output != label]
        assert found[unit, label] == pytest.approx((matrices[unit, label, label] - np.mean(others)) / np.std(others))
        assert first[unit, label] == (matrices[unit, label, label] > max(others))
    np.testing.assert_allclose(standing_out(7 * matrices + 2), found)  # neither scale nor offset of a field count


def test_a_silent_unit_recognises_nothing() -> None:
    silent = np.zeros((1, 4, 4))
    assert not recognised_first(silent).any()  # all outputs alike: none is first
    assert (standing_out(silent) == 0).all()
    with pytest.raises(ValueError, match="three labels"):
        standing_out(np.ones((1, 2, 2)))
