"""Permutation tests, rank correlation and confidence intervals, which every measurement shares (defined here)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.integrate import quad
from scipy.stats import norm, rankdata, t as student_t
from sklearn.isotonic import IsotonicRegression

ROUNDING = 1e-9  # a shuffle this close to the observed value equals it: sums in another order differ in the last digits


def shuffled_orders(size: int, permutations: int, rng: np.random.Generator) -> Int[np.ndarray, "permutation size"]:
    """Independent random orders of 0 … size − 1, one a row; raises ValueError for fewer than one permutation."""
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    orders: np.ndarray = rng.permuted(np.tile(np.arange(size), (permutations, 1)), axis=1)
    return orders


def p_value(null: Num[np.ndarray, "permutation ..."], observed: Num[np.ndarray, "*rest"] | float) -> Float[np.ndarray, "*rest"]:
    """(1 + permutations that reach the observed value) / (1 + permutations); NaN where either is NaN."""
    reached = np.asarray((null >= np.asarray(observed) - ROUNDING).sum(axis=0))
    undefined = np.isnan(null).any(axis=0) | np.isnan(observed)
    return np.asarray(np.where(undefined, np.nan, _with_observed(reached, len(null))))


def _with_observed(reached: Int[np.ndarray, "*rest"], permutations: int) -> Float[np.ndarray, "*rest"]:
    """The p-value of this many permutations: what was observed counts as one of them, so that p is never zero."""
    return np.asarray((1 + reached) / (1 + permutations))


@dataclass(frozen=True)
class Explanation:
    """Spearman's rank correlation of claims and lost accuracy over all (head, label), and how sure it is.

    Attributes:
        correlation: ρ in [−1, 1]; NaN where all claims or all losses are equal, and then the rest is NaN too.
        interval: 95 % percentile interval over resampled labels (resamples without a correlation are left out).
        p: one-sided, (1 + shuffles with at least this ρ) / (1 + P), shuffling the labels of the losses, all heads together.
        null_mean: mean ρ of the shuffles; not zero where heads with more claims lose more on every label.
    """

    correlation: float
    interval: tuple[float, float]
    p: float
    null_mean: float


def claims_explain(
    claims: Num[np.ndarray, "head label"],
    lost: Float[np.ndarray, "head label"],
    *,
    within_label: bool = False,
    bootstrap: int = 1000,
    permutations: int = 1000,
    seed: int = 0,
) -> Explanation:
    """Do the labels that a head claims suffer when the head is taken away?

    Labels are what is resampled and shuffled, never single (head, label) pairs: the heads of a label are not independent.
    A shuffle keeps every head's losses, so a head that matters for all labels explains nothing by itself.

    Args:
        claims: A[h, l].
        lost: baseline accuracy minus accuracy without head h, per label, as ``HeadAblation.lost`` gives it.
        within_label: subtract each label's mean over heads from both sides first, so that a label widely known and easily
            lost counts for nothing and only *which* head it is remains.
        bootstrap: resamples of the labels for the interval.
        permutations: shuffles for p, P.

    Raises:
        ValueError: shapes that differ, an element that is not finite, or fewer than one resample or permutation.
    """
    if claims.shape != lost.shape:
        raise ValueError(f"claims and lost must agree in heads and labels, got {claims.shape} and {lost.shape}")
    if not (np.isfinite(claims).all() and np.isfinite(lost).all()):
        raise ValueError("claims and lost accuracies must be finite")
    if bootstrap < 1:
        raise ValueError(f"bootstrap must be at least 1, got {bootstrap}")
    rng = np.random.default_rng(seed)
    x, y = np.asarray(claims, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    if within_label:
        x, y = (np.round(side - side.mean(axis=0), 12) for side in (x, y))  # rounding noise would break ties into ranks
    labels = x.shape[1]
    orders = shuffled_orders(labels, permutations, rng)
    draws = rng.integers(labels, size=(bootstrap, labels))
    observed = float(_spearman(x[:, None], y[:, None])[0])
    if np.isnan(observed):
        return Explanation(observed, (observed, observed), observed, observed)
    null = _spearman(x[:, None], y[:, orders])
    resampled = _spearman(x[:, draws], y[:, draws])
    low, high = np.nanquantile(resampled, (0.025, 0.975)) if np.isfinite(resampled).any() else (np.nan, np.nan)
    return Explanation(observed, (float(low), float(high)), float(p_value(null, observed)), float(null.mean()))


def _spearman(x: Float[np.ndarray, "head _ label"], y: Float[np.ndarray, "head _ label"]) -> Float[np.ndarray, " sample"]:
    """Pearson's correlation of the ranks (ties share their mean rank) over heads and labels; NaN where a side is constant.

    One sample against many is broadcast.
    """
    ranks = (rankdata(side.swapaxes(0, 1).reshape(side.shape[1], -1), axis=1) for side in (x, y))
    u, v = (side - side.mean(axis=1, keepdims=True) for side in ranks)
    scale = np.sqrt((u * u).sum(axis=1) * (v * v).sum(axis=1))
    correlation: np.ndarray = np.divide((u * v).sum(axis=1), scale, out=np.full(scale.shape, np.nan), where=scale > 0)
    return correlation


def rank_correlation(x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"]) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; NaN where a side is constant."""
    return float(_spearman(x[None, None], y[None, None])[0])


def left_out(x: Num[np.ndarray, " n"], y: Float[np.ndarray, " n"], groups: Sequence[object]) -> Float[np.ndarray, " n"]:
    """What is guessed of y from x in each group by a monotone fit (least squares, rising or falling) to all other groups.

    Infinite x counts as larger than any other, NaN as smaller. Constant x makes every guess the mean of the others.

    Raises:
        ValueError: a single group.
    """
    names = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    if len(set(names)) < 2:
        raise ValueError("leaving one group out needs two of them")
    known = x[np.isfinite(x)]
    ends = {"nan": known.min(initial=0.0) - 1, "posinf": known.max(initial=0.0) + 1}
    filled, guessed = np.nan_to_num(np.asarray(x, dtype=np.float64), **ends), np.empty(len(y))
    for group in set(names):
        own = names == group
        falling = rank_correlation(filled[~own], y[~own]) < 0
        fit = IsotonicRegression(increasing=not falling, out_of_bounds="clip").fit(filled[~own], y[~own])
        guessed[own] = fit.predict(filled[own])
    return guessed


def log_odds(p: Float[np.ndarray, " n"], least: float = 1e-3) -> Float[np.ndarray, " n"]:
    """log p/(1 − p) of probabilities held within [least, 1 − least]."""
    held = np.clip(p, least, 1 - least)
    return np.asarray(np.log(held / (1 - held)))


def t_test(mean: float, sd: float, n: int, bound: float) -> float:
    """Two-sided p-value of Student's t-test that n values of this mean and standard deviation (n − 1) come from one of mean ``bound``."""
    if sd == 0:
        return 0.0 if mean != bound else 1.0
    return float(2 * student_t.sf(abs(mean - bound) * math.sqrt(n) / sd, n - 1))


def holm(p: Sequence[float]) -> Float[np.ndarray, " test"]:
    """p-values corrected for their number so that at most 5 % of families hold a false one below 0.05 (Holm 1979)."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return corrected


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % confidence interval of the mean (Student's t); infinite for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.inf
    return float(student_t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)


def expected_range(count: int) -> float:
    """The mean of the largest minus the smallest of so many independent standard normal numbers, 0 of one.

    The integral over x of 1 − Φ(x)ⁿ − (1 − Φ(x))ⁿ (Tippett 1925).

    Raises:
        ValueError: fewer than one.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return float(quad(lambda x: 1 - norm.cdf(x) ** count - norm.sf(x) ** count, -math.inf, math.inf)[0])
