"""How far the heads of a block have parted: an order parameter, the rate at which it grows, and when it is large (defined here).

With heads alike up to ε the order parameter begins near ε². Where equal heads are unstable a small difference grows in
proportion to itself, δ(t) = ε·exp(Λ(t)), until it is as large as the heads; so the time that it takes depends on log 1/ε.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


def spread(heads: Float[np.ndarray, "*batch head feature"]) -> Float[np.ndarray, "*batch"]:
    """Order parameter, Σ_h‖W_h − mean W‖² / Σ_h‖W_h‖²; 0 for equal heads, about 1 − 1/H for independent ones, NaN where all is zero."""
    values = np.asarray(heads, dtype=np.float64)
    apart = ((values - values.mean(axis=-2, keepdims=True)) ** 2).sum((-2, -1))
    total = (values**2).sum((-2, -1))
    return np.asarray(np.divide(apart, total, out=np.full(total.shape, np.nan), where=total > 0))


def spread_of_means(means: Float[np.ndarray, "label channel"], num_heads: int) -> float:
    """The same of what the heads tell about labels: class means of the head outputs, their mean over labels subtracted.

    Args:
        means: mean features of each label at an ``mha`` site, whose channels stand head by head.
        num_heads: H.

    Raises:
        ValueError: channels that do not divide into this many heads.
    """
    labels, channels = means.shape
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f"{channels} channels do not divide into {num_heads} heads")
    centred = np.asarray(means, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    return float(spread(centred.reshape(labels, num_heads, -1).transpose(1, 0, 2).reshape(num_heads, -1)))


def critical_time(times: Sequence[float], order: Sequence[float], level: float) -> float:
    """When the order parameter first reaches a level, between two records on a straight line of its logarithm; NaN: never.

    Raises:
        ValueError: times and values of different number, or a level that is not positive.
    """
    if len(times) != len(order):
        raise ValueError(f"{len(times)} times for {len(order)} values")
    if level <= 0:
        raise ValueError(f"the level must be positive, got {level}")
    reached = np.flatnonzero(np.asarray(order) >= level)
    if not len(reached):
        return math.nan
    i = int(reached[0])
    if i == 0 or order[i - 1] <= 0:
        return float(times[i])
    share = math.log(level / order[i - 1]) / math.log(order[i] / order[i - 1])
    return float(times[i - 1] + share * (times[i] - times[i - 1]))


@dataclass(frozen=True)
class Line:
    """A straight line by least squares, y = intercept + slope·x.

    Attributes:
        points: how many; with fewer than two, or without two different x, the rest is NaN.
        r2: share of the variance of y that it explains; NaN where y has none.
    """

    slope: float
    intercept: float
    r2: float
    points: int


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """The line through the points whose x and y are finite; raises ValueError for different numbers of them."""
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values of x for {len(y)} of y")
    finite = np.isfinite(x) & np.isfinite(y)
    u, v = np.asarray(x, dtype=np.float64)[finite], np.asarray(y, dtype=np.float64)[finite]
    if len(u) < 2 or np.ptp(u) == 0:
        return Line(math.nan, math.nan, math.nan, len(u))
    du, dv = u - u.mean(), v - v.mean()
    slope = float((du * dv).sum() / (du**2).sum())
    r2 = float(1 - ((dv - slope * du) ** 2).sum() / (dv**2).sum()) if np.ptp(v) > 0 else math.nan
    return Line(slope, float(v.mean() - slope * u.mean()), r2, len(u))


def growth(times: Sequence[float], order: Sequence[float], low: float, high: float) -> Line:
    """Growth of the amplitude, half the logarithm of the order parameter, against time, where it lies between two values.

    Its slope is the rate Λ′ in 1 / (unit of time): the order parameter is a square and grows twice as fast.

    Raises:
        ValueError: times and values of different number.
    """
    if len(times) != len(order):
        raise ValueError(f"{len(times)} times for {len(order)} values")
    values = np.asarray(order, dtype=np.float64)
    chosen = (values >= low) & (values <= high) & (values > 0)
    return fit_line(np.asarray(times, dtype=np.float64)[chosen].tolist(), (np.log(values[chosen]) / 2).tolist())
