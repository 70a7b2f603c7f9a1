"""The masks of a finished run by every arm: ANDC at a threshold, and its controls with as many weights in every layer."""

from __future__ import annotations

from collections.abc import Callable

from snp_lib.models import Network
from snp_lib.pruning.masks import Masks, Sets, andc, magnitude, random_clusters, shuffled
from snp_lib.store import Run

Rule = Callable[[Sets, Network, Masks, int], Masks]

RULES: dict[str, Rule] = {
    "andc": lambda sets, model, method, seed: method,
    "random clusters": lambda sets, model, method, seed: random_clusters(sets, model, method, seed=seed),
    "magnitude": lambda sets, model, method, seed: magnitude(model, method),
    "shuffled": lambda sets, model, method, seed: shuffled(method, seed=seed),
}
"""How the masks of an arm are made, from the diagonal sets on the training split, the network, the masks of ANDC, which set the
density of every layer, and the seed of the run. One rule more is one more entry."""


def all_arms() -> tuple[str, ...]:
    """Every arm: the rules, ``fresh`` (the masks of ANDC on weights drawn anew) and ``dense`` (nothing is pruned)."""
    return (*RULES, "fresh", "dense")


def masks_of(run: Run, arm: str, theta: float, model: Network, *, encoder: int | None = None, classifier: bool = True) -> Masks:
    """The masks of an arm on a run: those of ANDC at θ, or a control with as many weights in every layer.

    Everything is decided on the training split. ``fresh`` has the masks of ANDC (on weights drawn anew), ``dense`` none.

    Args:
        model: the network of the run; only ``magnitude`` looks at its weights.
        encoder: the only one pruned, counted from 1, and with the last one the classifier; None: all and the classifier.
        classifier: whether the classifier is pruned with the last encoder.

    Raises:
        ValueError: unknown arm or encoder.
    """
    if arm not in (known := all_arms()):
        raise ValueError(f"unknown arm {arm!r}; there are {', '.join(known)}")
    if arm == "dense":
        return {}
    sets = _sets(run, theta)
    encoders = None if encoder is None else [encoder]
    method = andc(sets, model, encoders=encoders, classifier=classifier and encoder in (None, run.depth))
    return method if arm == "fresh" else RULES[arm](sets, model, method, run.experiment.seed)


def _sets(run: Run, theta: float) -> Sets:
    """Labels that every node recognises on the training split: test labels must not decide what is pruned."""
    return {site: shares > theta for site, shares in run.diagonals.items()}
