"""Committees of runs: what they gain, how alike their members are, and which labels gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from snp_lib import committee
from snp_lib.committee import RULES, Members, Rule
from snp_lib.performance import THETA, summarize
from snp_lib.store import Run

Pools = Mapping[str, Sequence[Sequence[Run]]]
"""Kind of committee → pools of runs; the members of a committee come from one pool."""


def committees(pools: Pools, *, rules: Sequence[Rule] = RULES) -> pd.DataFrame:
    """Every committee that the pools can form: one row per kind, pool, members and rule.

    Returns:
        Columns kind, pool (its number), size, members (their names), rule; accuracy, mean and best (of the members alone) in
        [0, 1]; gain and gain_best, accuracy minus these two; disagreement and error_correlation of the members, see
        :mod:`snp_lib.committee`; confidence, what it holds of its answers on average, and ece, its expected calibration error.
    """
    rows: list[dict[str, Any]] = []
    for kind, of in pools.items():
        for p, runs in enumerate(of):
            whole = committee.gather(runs)
            for size in range(1, len(runs) + 1):
                for drawn in committee.draws(whole, size):
                    members: dict[str, Any] = {"kind": kind, "pool": p, "size": size} | _of_members(drawn)
                    rows += [members | _decided(drawn, rule, members["mean"], members["best"]) for rule in rules]
    return pd.DataFrame(rows)


def diagonals(pools: Sequence[Sequence[Run]]) -> list[list[Run]]:
    """New pools that take each member from another pool, at another place: as many as there are pools, none of a single one.

    Args:
        pools: of one size each, such as networks of different heads, one pool a seed.

    Returns:
        Pool r takes the members at places spread evenly over the pools' own, the i-th of them from pool i + r (cyclic).
    """
    count = len(pools)
    if count < 2:
        return []
    places = np.unique(np.linspace(0, len(pools[0]) - 1, count).round().astype(int)).tolist()
    return [[pools[(i + r) % count][place] for i, place in enumerate(places)] for r in range(count)]


def _of_members(members: Members) -> dict[str, Any]:
    alone = committee.right(members, None).mean(axis=1)
    return {
        "members": ", ".join(members.names),
        "mean": alone.mean(),
        "best": alone.max(),
        "disagreement": committee.disagreement(members.logits),
        "error_correlation": committee.error_correlation(members.logits, members.labels),
    }


def _decided(members: Members, rule: Rule, mean: float, best: float) -> dict[str, Any]:
    decided, held = committee.decide(members.logits, rule), committee.probabilities(members.logits, rule)
    together = float((decided == members.labels).mean())
    return {
        "rule": rule,
        "accuracy": together,
        "gain": together - mean,
        "gain_best": together - best,
        "confidence": held.max(axis=-1).mean(),
        "ece": committee.calibration_error(held, members.labels, decided=decided),
    }


def gain_of_labels(runs: Sequence[Run], *, rule: Rule = "mean logit", theta: float = THETA) -> pd.DataFrame:
    """What each label gains by the committee of all these runs, and how differently their heads place it (defined here).

    The company of a label in a network are the other labels, each weighted by the heads that recognise both, over all
    encoders. Two networks place a label alike if its companies correlate.

    Returns:
        Columns label (its name), alone (members' mean accuracy), together, gain, and apart, one minus Pearson's correlation
        of the label's company in two members, mean over pairs (NaN where no head of a member recognises it).
    """
    members = committee.gather(runs)
    alone, together = committee.right(members, None).mean(axis=0), committee.right(members, rule)[0]
    companies = [_companies(run, theta) for run in runs]
    rows = []
    for label, name in enumerate(runs[0].class_names):
        of = members.labels == label
        others = np.arange(len(runs[0].class_names)) != label
        pairs = [_correlation(a[label, others], b[label, others]) for a, b in combinations(companies, 2)]
        row = {"label": name, "alone": alone[of].mean(), "together": together[of].mean()}
        rows.append(row | {"gain": together[of].mean() - alone[of].mean(), "apart": 1 - np.mean(pairs)})
    return pd.DataFrame(rows)


def _companies(run: Run, theta: float) -> Float[np.ndarray, "label label"]:
    """Share of the heads of a network that recognise both of two labels."""
    sites = [site for site in run.sites if site.endswith(".mha")]
    sets = np.concatenate([summarize(run.matrices(site, unit="head"), theta).diagonal for site in sites]).astype(np.float64)
    shares: np.ndarray = sets.T @ sets / len(sets)
    return shares


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")
