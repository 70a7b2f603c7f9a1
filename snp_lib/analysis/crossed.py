"""What committees gain, with intervals that know that committees share members and images (defined here).

Gains of two committees with a member in common are no independent values, nor are gains on the same images. So the uncertainty
of a mean over committees has two parts, one of the networks and one of the images, whose squares are added as in an analysis
with crossed random effects; what both contain, the interaction, counts twice, which makes the interval wide rather than narrow.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import t as student_t

Over = Literal["mean", "best", "error"]

OVERS: tuple[Over, ...] = get_args(Over)


def answers_together(
    logits: Float[np.ndarray, "member image label"], chosen: Int[np.ndarray, "committee size"]
) -> Int[np.ndarray, "committee image"]:
    """The labels on which soft committees agree, those of the largest mean logit.

    Args:
        chosen: members of each committee, numbered from 0.
    """
    found = np.empty((len(chosen), logits.shape[1]), dtype=np.int64)
    for c, members in enumerate(chosen):
        found[c] = functools.reduce(np.add, (logits[m] for m in members)).argmax(axis=-1)
    return found


def gains(
    together: Bool[np.ndarray, "committee image"],
    alone: Bool[np.ndarray, "member image"],
    chosen: Int[np.ndarray, "committee size"],
    over: Over = "mean",
) -> Float[np.ndarray, "committee image"]:
    """What each image adds to the gain of a committee, whose mean over images is the gain.

    - ``mean``: accuracy minus the members' mean.
    - ``best``: accuracy minus that of the most accurate member, the first of several.
    - ``error``: the gain over the mean as a share of the members' mean error, linearised: an image adds its influence on the ratio.

    Args:
        together, alone: which images each committee and each member gets right.
        chosen: members of each committee.

    Raises:
        ValueError: an unknown ``over``.
    """
    right = together.astype(np.float32)
    if over == "best":
        accuracy = alone.mean(axis=1)
        best: np.ndarray = right - alone[chosen[np.arange(len(chosen)), accuracy[chosen].argmax(axis=1)]]
        return best
    if over not in OVERS:
        raise ValueError(f"a gain is over one of {', '.join(OVERS)}, not {over!r}")
    mean = np.zeros_like(right)
    for members in chosen.T:
        mean += alone[members]
    mean /= chosen.shape[1]
    if over == "mean":
        return right - mean
    error = 1 - mean.mean(axis=1, keepdims=True, dtype=np.float64)
    ratio = (right - mean).mean(axis=1, keepdims=True, dtype=np.float64) / error
    return np.asarray(ratio + (right - mean - ratio * (1 - mean)) / error, dtype=np.float32)


@dataclass(frozen=True)
class Crossed:
    """A mean over committees, or a difference of two, with what is uncertain about it.

    Attributes:
        estimate: the mean, or the difference of means.
        over_units: standard error of another draw of units, by the jackknife that deletes one unit with all of its
            committees; NaN where nothing would be left. For the mean over all pairs it is exact where a gain is a sum of what
            both members bring, and too large where it is not.
        over_images: standard error of another draw of images, to which a bootstrap over images converges.
        values: one jackknife value per unit, n · estimate − (n − 1) · estimate without it: Student's interval of their
            mean is that of ``over_units``. Their mean is the estimate where every unit counts alike.
    """

    estimate: float
    over_units: float
    over_images: float
    values: Float[np.ndarray, " unit"]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % for other units and other images, by Student's t with Satterthwaite's degrees of freedom; NaN as ``over_units``."""
        units = len(self.values)
        variance = self.over_units**2 + self.over_images**2
        if not variance > 0:
            return (math.nan, math.nan) if math.isnan(variance) else (self.estimate, self.estimate)
        freedom = (units - 1) * variance**2 / self.over_units**4 if self.over_units else math.inf
        half = float(student_t.ppf(0.975, freedom)) * math.sqrt(variance)
        return self.estimate - half, self.estimate + half


def crossed(
    gained: Float[np.ndarray, "committee image"],
    chosen: Int[np.ndarray, "committee size"],
    sides: Int[np.ndarray, " committee"],
    units: Int[np.ndarray, " member"],
) -> Crossed:
    """The mean gain of some committees, or how much larger it is than that of others.

    Source: the jackknife of a statistic of pairs, Arvesen (1969), Annals of Mathematical Statistics 40; one unit may hold several
    members that are not independent, such as the networks that one seed initialised.

    Args:
        gained: of :func:`gains`.
        chosen: members of each committee.
        sides: 1 for the committees of the mean, −1 for those that are subtracted, 0 for those that are left out.
        units: the unit of each member, any numbers.

    Raises:
        ValueError: no committee on the first side.
    """
    sides = np.sign(sides)
    if not (sides > 0).any():
        raise ValueError("no committee to average over")
    shares = [side / side.sum() for side in (sides > 0, sides < 0) if side.any()]
    weights = shares[0] - (shares[1] if len(shares) > 1 else 0)
    per_image = weights[weights != 0] @ gained[weights != 0].astype(np.float64)
    taking_part = units[chosen[sides != 0]]
    names = np.unique(taking_part)
    kept = ~(taking_part[:, :, None] == names).any(axis=1).T  # unit, committee: those without the unit
    means = gained[sides != 0].mean(axis=1, dtype=np.float64)
    without = np.zeros(len(names))
    for sign in (1, -1) if len(shares) > 1 else (1,):
        some = kept * (sides[sides != 0] == sign)
        left = some.sum(axis=1)
        without += sign * np.divide(some @ means, left, out=np.full(len(names), np.nan), where=left > 0)
    estimate, n = float(per_image.mean()), len(names)
    spread = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum())) if n > 1 else math.nan
    over_images = float(per_image.std(ddof=1)) / math.sqrt(len(per_image))
    return Crossed(estimate, spread, over_images, n * estimate - (n - 1) * without)
