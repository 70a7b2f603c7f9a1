"""Gains of committees image by image, and intervals against plain loops, sums worked out by hand, and a bootstrap."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from shared import unchecked

from snp_lib.analysis.committee import decide
from snp_lib.analysis.crossed import OVERS, Crossed, answers_together, crossed, gains
from snp_lib.performance.statistics import half_width


def networks(seed: int, members: int = 5, images: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Logits of some networks that know something, in multiples of 1/32, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, images)
    logits = np.round(32 * (rng.normal(size=(members, images, 4)) + np.eye(4)[labels])) / 32
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("size", [1, 2, 3])
def test_committees_answer_as_the_mean_logit_decides(size: int) -> None:
    logits, _ = networks(0)
    chosen = np.array(list(combinations(range(5), size)))
    expected = [decide(logits[list(members)].astype(np.float64)) for members in chosen]
    np.testing.assert_array_equal(answers_together(logits, chosen), expected)


@given(seed=st.integers(0, 10**6), size=st.integers(1, 3), over=st.sampled_from(OVERS))
def test_images_add_up_to_the_gain(seed: int, size: int, over: str) -> None:
    logits, labels = networks(seed)
    chosen = np.array(list(combinations(range(5), size)))
    alone, together = logits.argmax(-1) == labels, answers_together(logits, chosen) == labels
    found = gains(together, alone, chosen, over)  # type: ignore[arg-type]
    for c, members in enumerate(chosen):
        accuracies = [sum(alone[m]) / len(labels) for m in members]
        reached, mean = sum(together[c]) / len(labels), sum(accuracies) / size
        expected = {"mean": reached - mean, "best": reached - max(accuracies), "error": (reached - mean) / (1 - mean)}[over]
        assert found[c].mean() == pytest.approx(expected, abs=1e-6)


def test_an_image_adds_its_influence_on_the_ratio() -> None:
    """Doubling the weight of one image changes gain per error as its value says, to first order."""
    logits, labels = networks(1, images=400)
    chosen = np.array([[0, 1]])
    alone, together = logits.argmax(-1) == labels, answers_together(logits, chosen) == labels
    found, step = gains(together, alone, chosen, "error")[0], 1e-4
    gain, error = together[0] - alone.mean(axis=0, where=np.arange(5)[:, None] < 2), 1 - alone[:2].mean(axis=0)
    ratio = gain.mean() / error.mean()
    for image in range(8):
        heavier = (gain.mean() + step * gain[image]) / (error.mean() + step * error[image])
        assert (heavier - ratio) / step == pytest.approx(found[image] - ratio, abs=1e-3)


def plainly(gained: np.ndarray, chosen: np.ndarray, sides: np.ndarray, units: np.ndarray) -> tuple[float, float, float, list[float]]:
    """Estimate, both standard errors and jackknife values with one loop for each of their sums."""

    def difference(without: object = None) -> float:
        total = 0.0
        for side in sorted({s for s in sides if s}):
            rows = [c for c in range(len(chosen)) if sides[c] == side and without not in [units[m] for m in chosen[c]]]
            total += side * sum(sum(gained[c]) / len(gained[c]) for c in rows) / len(rows)
        return total

    estimate = difference()
    names = sorted({units[m] for c in range(len(chosen)) if sides[c] for m in chosen[c]})
    values = [len(names) * estimate - (len(names) - 1) * difference(name) for name in names]
    per_image = []
    for image in range(gained.shape[1]):
        value = 0.0
        for side in sorted({s for s in sides if s}):
            rows = [c for c in range(len(chosen)) if sides[c] == side]
            value += side * sum(float(gained[c][image]) for c in rows) / len(rows)
        per_image.append(value)
    spread = [sum((v - sum(x) / len(x)) ** 2 for v in x) / (len(x) - 1) / len(x) for x in (values, per_image)]
    return estimate, math.sqrt(spread[0]), math.sqrt(spread[1]), values


@given(seed=st.integers(0, 10**6), both=st.booleans(), size=st.sampled_from([2, 3]))
def test_a_contrast_one_loop_at_a_time(seed: int, both: bool, size: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = np.array(list(combinations(range(8), size)))
    sides = rng.choice([-1, 0, 1] if both else [0, 1], len(chosen))
    sides[rng.permutation(len(chosen))[:2]] = [1, -1 if both else 1]
    gained = rng.normal(size=(len(chosen), 30))
    units = np.array([0, 0, 1, 1, 2, 3, 4, 5])
    found = crossed(gained, chosen, sides, units)
    touched = [[unit in units[chosen[c]] for c in np.flatnonzero(sides == side)] for unit in range(6) for side in set(sides) - {0}]
    if any(all(each) for each in touched if each) or len(found.values) < 2:
        assert math.isnan(found.over_units) or len(found.values) < 2
        return
    estimate, over_units, over_images, values = plainly(gained, chosen, sides, units)
    assert found.estimate == pytest.approx(estimate)
    assert found.over_units == pytest.approx(over_units)
    assert found.over_images == pytest.approx(over_images)
    np.testing.assert_allclose(found.values, values)


def test_sums_of_what_members_bring_have_the_error_of_their_mean() -> None:
    """A gain a + b of a pair has twice the members' mean as its mean, and so twice its standard error; single pairs suggest less."""
    brought, chosen = np.array([1.0, 4.0, 2.0, 9.0]), np.array(list(combinations(range(4), 2)))
    pairs = brought[chosen].sum(axis=1)
    found = crossed(np.repeat(pairs[:, None], 3, axis=1), chosen, np.ones(6, dtype=int), np.arange(4))
    assert found.estimate == pytest.approx(8)
    assert found.over_units == pytest.approx(2 * brought.std(ddof=1) / 2)
    assert found.over_units > pairs.std(ddof=1) / np.sqrt(6)
    np.testing.assert_allclose(found.values, 2 * brought)
    assert found.over_images == 0
    half = half_width(found.values.tolist())
    assert found.interval == pytest.approx((8 - half, 8 + half))


def test_members_that_go_together_are_one_unit() -> None:
    """Four networks that are two copies of two: as units they are two, and what copies gain together counts for nothing."""
    brought, units = np.array([1.0, 1.0, 3.0, 3.0]), np.array([7, 7, 2, 2])
    chosen = np.array([[0, 1], [2, 3]])
    gained = np.repeat(brought[chosen].sum(axis=1)[:, None], 2, axis=1)
    found = crossed(gained, chosen, np.ones(2, dtype=int), units)
    np.testing.assert_allclose(sorted(found.values), [2, 6])
    assert len(crossed(gained, chosen, np.ones(2, dtype=int), np.arange(4)).values) == 4


def test_a_bootstrap_over_images_comes_to_the_same() -> None:
    logits, labels = networks(2, images=500)
    chosen = np.array(list(combinations(range(5), 2)))
    gained = gains(answers_together(logits, chosen) == labels, logits.argmax(-1) == labels, chosen)
    sides = np.array([1, -1] * 5)
    found = crossed(gained, chosen, sides, np.arange(5))
    rng = np.random.default_rng(0)
    again = [crossed(gained[:, rng.integers(0, 500, 500)], chosen, sides, np.arange(5)).estimate for _ in range(1500)]
    assert np.std(again) == pytest.approx(found.over_images, rel=0.08)


def test_networks_and_images_both_widen_the_interval() -> None:
    sure = Crossed(1.0, 0.1, 0.0, np.array([0.9, 1.0, 1.1]))
    low, high = Crossed(1.0, 0.1, 0.1, np.array([0.9, 1.0, 1.1])).interval
    assert low + high == pytest.approx(2)
    # variance 0.02 on 2 · 0.02² / 0.1⁴ = 8 degrees of freedom, whose quantile is 2.306
    assert high - 1 == pytest.approx(2.306 * math.sqrt(0.02), rel=1e-3)
    assert sure.interval[1] - 1 == pytest.approx(4.303 * 0.1, rel=1e-3)
    assert Crossed(1.0, 0.0, 0.1, np.ones(3)).interval[1] == pytest.approx(1 + 1.96 * 0.1, rel=1e-3)
    assert Crossed(1.0, 0.0, 0.0, np.ones(3)).interval == (1, 1)


def test_a_single_committee_has_no_interval() -> None:
    found = crossed(np.ones((1, 4)), np.array([[0, 1]]), np.ones(1, dtype=int), np.arange(2))
    assert found.estimate == 1
    assert math.isnan(found.over_units)
    assert all(math.isnan(end) for end in found.interval)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="no committee"):
        crossed(np.ones((1, 4)), np.array([[0, 1]]), -np.ones(1, dtype=int), np.arange(2))
    with unchecked(), pytest.raises(ValueError, match="a gain is over one of mean, best, error, not 'all'"):
        gains(np.ones((1, 2), dtype=bool), np.ones((2, 2), dtype=bool), np.array([[0, 1]]), "all")  # type: ignore[arg-type]
