"""How much better the expert of a label does on it than the other heads, beyond what any sharing of labels would give (defined here).

Labels differ in difficulty and heads in strength. Comparing heads *on the same label* takes away the one, and shuffling the
experts between labels, which leaves every head as many labels as it had, the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from snp_lib.performance.heads import NOBODY
from snp_lib.performance.statistics import p_value, shuffled_orders


@dataclass(frozen=True)
class Advantage:
    """A value of the expert of a label minus the mean of the other heads on the same label, against shuffled experts. P shuffles.

    Attributes:
        labels: how many labels have an expert; without one everything is NaN.
        expert: mean of the value over them, of the expert.
        others: the same of the other heads.
        null: (P,) the difference after the experts were shuffled between these labels.
        null_mean: its exact mean over all shuffles.
    """

    labels: int
    expert: float
    others: float
    null: Float[np.ndarray, " permutation"]
    null_mean: float

    @property
    def difference(self) -> float:
        """Expert minus others, in the units of the value."""
        return self.expert - self.others

    @property
    def excess(self) -> float:
        """The difference minus what shuffled experts have, which is not zero where strong heads are experts of many labels."""
        return self.difference - self.null_mean

    @property
    def p(self) -> float:
        """One-sided permutation p-value of the difference."""
        return float(p_value(self.null, self.difference))

    @property
    def null_interval(self) -> tuple[float, float]:
        """The range that holds 95 % of the shuffles; NaN without a label."""
        low, high = np.quantile(self.null, (0.025, 0.975))
        return float(low), float(high)


def expert_advantage(
    values: Float[np.ndarray, "head label"], experts: Int[np.ndarray, " label"], *, permutations: int = 10_000, seed: int = 0
) -> Advantage:
    """Is a value higher for the expert of a label than for the other heads?

    Args:
        values: of every head on every label, such as the accuracy with this head alone.
        experts: head of each label, as :func:`snp_lib.performance.heads.experts` names it; labels without one are left out.

    Raises:
        ValueError: fewer than two heads, other labels than values have, an expert that is no head, or fewer than one permutation.
    """
    heads, labels = values.shape
    if heads < 2:
        raise ValueError(f"an expert needs other heads beside it, got {heads} in all")
    if experts.shape != (labels,) or experts.min(initial=NOBODY) < NOBODY or experts.max(initial=NOBODY) >= heads:
        raise ValueError(f"experts must name one of {heads} heads, or {NOBODY}, for each of {labels} labels")
    chosen = experts[experts != NOBODY]
    known = values[:, experts != NOBODY].astype(np.float64)
    rng = np.random.default_rng(seed)
    if not len(chosen):
        nothing = float("nan")
        return Advantage(0, nothing, nothing, np.full(permutations, nothing), nothing)
    others = (known.sum(axis=0) - known) / (heads - 1)
    ahead, places = known - others, np.arange(len(chosen))
    null = ahead[chosen[shuffled_orders(len(chosen), permutations, rng)], places].mean(axis=1)
    share = np.bincount(chosen, minlength=heads) / len(chosen)
    return Advantage(
        labels=len(chosen),
        expert=float(known[chosen, places].mean()),
        others=float(others[chosen, places].mean()),
        null=null,
        null_mean=float(share @ ahead.mean(axis=1)),
    )


def recognised_first(matrices: Float[np.ndarray, "unit label output"]) -> Bool[np.ndarray, "unit label"]:
    """Whether the field of a unit, mean over the images of a label, is largest on the output of that label, alone."""
    own = np.diagonal(matrices, axis1=1, axis2=2)
    return np.asarray((matrices >= own[:, :, None]).sum(axis=2) == 1)


def standing_out(matrices: Float[np.ndarray, "unit label output"]) -> Float[np.ndarray, "unit label"]:
    """How far the field on a label's own output lies above that on the others, in standard deviations of these; 0 where all are equal.

    Unlike a rank it does not stop growing when the label is first, and unlike the field it does not grow with the unit's weights.

    Raises:
        ValueError: fewer than three labels.
    """
    labels = matrices.shape[1]
    if labels < 3:
        raise ValueError(f"a spread of the other outputs needs three labels, got {labels}")
    own = np.diagonal(matrices, axis1=1, axis2=2).astype(np.float64)
    off = matrices[:, ~np.eye(labels, dtype=bool)].reshape(len(matrices), labels, labels - 1).astype(np.float64)
    spread = off.std(axis=2)
    return np.asarray(np.divide(own - off.mean(axis=2), spread, out=np.zeros(own.shape), where=spread > 0))
