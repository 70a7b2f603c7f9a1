"""Rank correlation and monotone fits that never see what they guess, against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from snp_lib.performance.statistics import left_out, log_odds, rank_correlation


def test_the_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 40).astype(float), rng.standard_normal(40)
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert np.isnan(rank_correlation(np.ones(5), y[:5]))


def best_monotone(y: list[float]) -> list[float]:
    """Least squares under y₁ ≤ y₂ ≤ …, by the min-max formula of isotonic regression."""
    n = len(y)
    return [max(min(float(np.mean(y[a : b + 1])) for b in range(i, n)) for a in range(i + 1)) for i in range(n)]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_guess_is_the_monotone_fit_of_the_other_groups(sign: int) -> None:
    rng = np.random.default_rng(1)
    x = np.tile(np.arange(8.0), 3)
    y = sign * x + 2 * rng.standard_normal(24)
    groups = [name for name in "abc" for _ in range(8)]
    guessed = left_out(x, y, groups)
    for group in "abc":
        own = np.array(groups) == group
        means = [float(y[~own & (x == value)].mean()) for value in range(8)]
        expected = [sign * value for value in best_monotone([sign * value for value in means])]
        np.testing.assert_allclose(guessed[own], expected)


def test_a_guess_does_not_see_its_own_group() -> None:
    rng = np.random.default_rng(2)
    x, y, groups = rng.standard_normal(20), rng.random(20), ["a"] * 10 + ["b"] * 10
    before = left_out(x, y, groups)
    after = left_out(x, np.where(np.arange(20) < 10, 100.0, y), groups)
    np.testing.assert_array_equal(before[:10], after[:10])
    assert not np.allclose(before[10:], after[10:])


def test_infinite_and_missing_values_stand_at_the_ends() -> None:
    x = np.array([np.nan, 1.0, 2.0, np.inf, np.nan, 1.0, 2.0, np.inf])
    y = np.array([0.0, 0.1, 0.2, 0.9] * 2)
    np.testing.assert_allclose(left_out(x, y, ["a"] * 4 + ["b"] * 4), y)
    np.testing.assert_allclose(left_out(np.zeros(8), y, ["a"] * 4 + ["b"] * 4), 0.3)
    with pytest.raises(ValueError, match="needs two"):
        left_out(x, y, ["a"] * 8)


def test_log_odds_are_held_within_the_ends() -> None:
    p = np.array([0.0, 0.2, 0.5, 1.0])
    np.testing.assert_allclose(log_odds(p, 0.01), [np.log(0.01 / 0.99), np.log(0.25), 0, np.log(99)])
    assert all(a < b for a, b in itertools.pairwise(log_odds(p)))
