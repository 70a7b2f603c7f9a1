"""Soft committees: several networks decide together, and what that brings (paper B, abstract; the rules are defined here).

Members come as logits (member, image, label) on the same images. Nothing here trains or loads anything.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import softmax
from torch import Tensor, nn

Rule = Literal["mean logit", "mean softmax", "majority vote"]

RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class Members:
    """Networks that were tested on the same images with the same labels."""

    logits: Float[np.ndarray, "member image label"]
    labels: Int[np.ndarray, " image"]
    names: tuple[str, ...]

    @functools.cached_property
    def held(self) -> Float[np.ndarray, "member image label"]:
        """What each member holds of every label, softmax of its logits."""
        return np.asarray(softmax(self.logits, axis=-1))

    def some(self, chosen: Sequence[int]) -> Members:
        """These members alone."""
        part = Members(self.logits[list(chosen)], self.labels, tuple(self.names[m] for m in chosen))
        vars(part)["held"] = self.held[list(chosen)]  # not computed once more for every committee
        return part


class SoftCommittee(nn.Module):
    """Networks that decide by the mean of their logits, as one network: inputs to logits (N, num_classes)."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not len(self.members):
            raise ValueError("a committee needs at least one member")
        self.example = getattr(self.members[0], "example", None)  # of what all members read

    def forward(self, inputs: Tensor) -> Float[Tensor, "n k"]:
        total: Tensor = sum(member(inputs) for member in self.members)
        return total / len(self.members)


def decide(
    logits: Float[np.ndarray, "member image label"],
    rule: Rule = "mean logit",
    held: Float[np.ndarray, "member image label"] | None = None,
) -> Int[np.ndarray, " image"]:
    """The label on which a committee agrees for each image.

    - ``mean logit``: the largest mean of the members' logits.
    - ``mean softmax``: the largest mean of their probabilities.
    - ``majority vote``: the label that most members rank first; of several such labels the one of largest mean probability.

    Args:
        held: softmax of the logits, where it is at hand.

    Raises:
        ValueError: unknown rule, or no member.
    """
    _check(logits)
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; there are {', '.join(RULES)}")
    if rule == "mean logit":
        return np.asarray(logits.mean(axis=0).argmax(axis=-1))
    probability = (softmax(logits, axis=-1) if held is None else held).mean(axis=0)
    if rule == "mean softmax":
        return np.asarray(probability.argmax(axis=-1))
    votes = np.zeros(logits.shape[1:], dtype=np.int64)
    for ballot in logits.argmax(axis=-1):
        votes[np.arange(len(ballot)), ballot] += 1
    tied = votes == votes.max(axis=-1, keepdims=True)
    return np.asarray(np.where(tied, probability, -1).argmax(axis=-1))


def probabilities(
    logits: Float[np.ndarray, "member image label"],
    rule: Rule = "mean logit",
    held: Float[np.ndarray, "member image label"] | None = None,
) -> Float[np.ndarray, "image label"]:
    """What a committee holds of every label: softmax of the mean logit, mean softmax, or the share of votes.

    Args:
        held: as for :func:`decide`.
    """
    _check(logits)
    if rule == "mean logit":
        return np.asarray(softmax(logits.mean(axis=0), axis=-1))
    if rule == "mean softmax":
        return np.asarray((softmax(logits, axis=-1) if held is None else held).mean(axis=0))
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; there are {', '.join(RULES)}")
    return np.asarray(np.eye(logits.shape[-1])[logits.argmax(axis=-1)].mean(axis=0))


def draws(members: Members, size: int) -> Iterator[Members]:
    """Every committee of a size that the members can form.

    Raises:
        ValueError: a size that the members cannot form.
    """
    count = len(members.logits)
    if not 1 <= size <= count:
        raise ValueError(f"a committee of {size} needs 1 to {count} members")
    for chosen in combinations(range(count), size):
        yield members.some(chosen)


def right(members: Members, rule: Rule | None = "mean logit") -> Bool[np.ndarray, "decision image"]:
    """Which images a committee gets right, in one row; with None which images each member gets right."""
    decided = members.logits.argmax(axis=-1) if rule is None else decide(members.logits, rule)[None]
    found: np.ndarray = decided == members.labels
    return found


def disagreement(answers: Int[np.ndarray, "member image"]) -> float:
    """Share of images on which two members decide differently, mean over pairs; NaN for a single member."""
    pairs = [np.mean(a != b) for a, b in combinations(answers, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


def error_correlation(wrong: Bool[np.ndarray, "member image"]) -> float:
    """Correlation of two members' errors over images (0 right, 1 wrong; the phi coefficient), mean over pairs.

    NaN for a single member, or where one is right, or wrong, everywhere.
    """
    if len(wrong) < 2 or (wrong == wrong[:, :1]).all(axis=1).any():
        return float("nan")
    return float(np.corrcoef(wrong)[np.triu_indices(len(wrong), 1)].mean())


def calibration_error(
    probability: Float[np.ndarray, "image label"],
    labels: Int[np.ndarray, " image"],
    bins: int = 15,
    decided: Int[np.ndarray, " image"] | None = None,
) -> float:
    """Expected calibration error: how far accuracy and mean confidence lie apart in bins of equal width, weighted by images.

    Source: Guo et al., "On calibration of modern neural networks", arXiv:1706.04599. Confidence is the largest
    probability; bins are open on the left and closed on the right.

    Args:
        decided: the label chosen for each image; None: the first of largest probability. A vote that ties chooses otherwise.

    Raises:
        ValueError: fewer than one bin, or no image.
    """
    if bins < 1 or not len(labels):
        raise ValueError(f"expected at least one bin and one image, got {bins} and {len(labels)}")
    confidence, right = probability.max(axis=-1), (probability.argmax(axis=-1) if decided is None else decided) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(which, weights=right, minlength=bins) - np.bincount(which, weights=confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def _check(logits: np.ndarray) -> None:
    if logits.ndim != 3 or not len(logits):
        raise ValueError(f"expected logits (member, image, label) of at least one member, got shape {logits.shape}")
