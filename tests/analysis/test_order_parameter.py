"""The order parameter, its critical time and its growth: by hand, against loops and against curves whose rate is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from snp_lib.analysis.order_parameter import critical_time, fit_line, growth, spread, spread_of_means


def twin_spread(heads: np.ndarray) -> float:
    """Head by head, number by number."""
    count, size = heads.shape
    mean = [math.fsum(heads[h, i] for h in range(count)) / count for i in range(size)]
    apart = math.fsum((heads[h, i] - mean[i]) ** 2 for h in range(count) for i in range(size))
    return apart / math.fsum(heads[h, i] ** 2 for h in range(count) for i in range(size))


def test_the_spread_is_that_of_a_loop() -> None:
    heads = np.random.default_rng(0).normal(size=(2, 3, 5)) + 1
    assert spread(heads) == pytest.approx([twin_spread(each) for each in heads])


def test_the_ends_of_the_spread() -> None:
    one = np.random.default_rng(1).normal(size=(1, 1000))
    assert spread(np.repeat(one, 4, axis=0)) == 0
    assert spread(np.concatenate([one, -one])) == pytest.approx(1)
    independent = np.random.default_rng(2).normal(size=(4, 100_000))
    assert spread(independent) == pytest.approx(3 / 4, abs=0.01)
    assert np.isnan(spread(np.zeros((3, 2))))


def test_heads_alike_up_to_a_share_have_its_square() -> None:
    rng = np.random.default_rng(3)
    start, other = rng.normal(size=(2, 4, 10_000))
    values = [float(spread(start[:1] + epsilon * (other - start[:1]))) for epsilon in (1e-2, 1e-4)]
    assert values[0] / values[1] == pytest.approx(1e4, rel=0.05)


def test_the_spread_of_means_is_that_of_what_tells_labels_apart() -> None:
    rng = np.random.default_rng(4)
    means = rng.normal(size=(6, 8)).astype(np.float32)
    centred = means - means.mean(axis=0)
    by_hand = np.stack([centred[:, 2 * h : 2 * h + 2].ravel() for h in range(4)])
    assert spread_of_means(means, 4) == pytest.approx(twin_spread(by_hand))
    offset = np.repeat(rng.normal(size=(1, 8)), 6, axis=0).astype(np.float32)  # the same for all labels: tells nothing
    assert spread_of_means(means + offset, 4) == pytest.approx(spread_of_means(means, 4), rel=1e-5)
    with pytest.raises(ValueError, match="8 channels do not divide into 3 heads"):
        spread_of_means(means, 3)


def test_a_critical_time_lies_on_the_line_of_the_logarithm() -> None:
    times = [0.0, 10, 20, 30]
    order = [1e-6, 1e-4, 1e-2, 1.0]
    assert critical_time(times, order, 1e-3) == pytest.approx(15)
    assert critical_time(times, order, 1e-2) == pytest.approx(20)
    assert critical_time(times, order, 1e-6) == 0
    assert math.isnan(critical_time(times, order, 2.0))
    assert critical_time([0, 5], [0.0, 1.0], 0.1) == 5  # nothing to draw a line from
    with pytest.raises(ValueError, match="2 times for 1 values"):
        critical_time([0, 5], [1.0], 0.1)
    with pytest.raises(ValueError, match="the level must be positive"):
        critical_time([0, 5], [0.0, 1.0], 0.0)


def test_an_unstable_mode_has_its_rate_and_waits_for_the_logarithm() -> None:
    rate, times = 0.02, np.arange(0, 1000, 20.0)
    late = []
    for epsilon in (1e-2, 1e-3, 1e-4, 1e-5):
        order = 0.75 / (1 + 1 / (epsilon * np.exp(rate * times)) ** 2)  # exponential, then saturated
        line = growth(times.tolist(), order.tolist(), 1e-8, 1e-3)
        assert line.slope == pytest.approx(rate, rel=0.01)
        assert line.r2 > 0.999
        late.append(critical_time(times.tolist(), order.tolist(), 0.1))
    fit = fit_line([math.log(1 / epsilon) for epsilon in (1e-2, 1e-3, 1e-4, 1e-5)], late)
    assert fit.slope == pytest.approx(1 / rate, rel=0.01)


def test_a_line_is_that_of_scipy() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 12))
    found = fit_line(x.tolist(), [*y[:-1].tolist(), math.nan])
    expected = stats.linregress(x[:-1], y[:-1])
    assert (found.slope, found.intercept, found.r2) == pytest.approx((expected.slope, expected.intercept, expected.rvalue**2))
    assert found.points == 11


def test_a_line_needs_two_points() -> None:
    for x, y in (([1.0], [2.0]), ([1.0, 1.0], [2.0, 3.0]), ([1.0, 2.0], [math.nan, 3.0])):
        assert math.isnan(fit_line(x, y).slope)
    assert fit_line([0.0, 1.0], [2.0, 2.0]).slope == 0
    assert math.isnan(fit_line([0.0, 1.0], [2.0, 2.0]).r2)
    with pytest.raises(ValueError, match="2 values of x for 1 of y"):
        fit_line([0.0, 1.0], [2.0])
    with pytest.raises(ValueError, match="2 times for 1 values"):
        growth([0.0, 1.0], [2.0], 0.1, 1)
