"""Soft committees: several networks decide together, and what that brings (paper B, abstract; the rules are defined here).

Members are runs that were tested on the same images. Nothing here trains anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import spearmanr

from snp_lib import experiments
from snp_lib.analysis import committee
from snp_lib.analysis.committee import RULES, Members, Rule
from snp_lib.experiments import Experiment, Scale
from snp_lib.performance import THETA, summarize
from snp_lib.store import Run


def gather(runs: Sequence[Run]) -> Members:
    """The test logits of several runs.

    Raises:
        ValueError: no run, or runs of different label sets or test images.
    """
    if not runs:
        raise ValueError("a committee needs at least one member")
    first = runs[0]
    for run in runs[1:]:
        if run.class_names != first.class_names:
            raise ValueError(f"{run.experiment.id} and {first.experiment.id} know different labels: they cannot decide together")
        if run.manifest["data_checksum"] != first.manifest["data_checksum"] or not np.array_equal(run.labels, first.labels):
            raise ValueError(f"{run.experiment.id} and {first.experiment.id} were tested on different images")
    logits = np.stack([run.logits for run in runs]).astype(np.float64)
    return Members(logits, np.asarray(first.labels, dtype=np.int64), tuple(run.experiment.id for run in runs))


Pools = Mapping[str, Sequence[Sequence[Run]]]
"""Kind of committee → pools of runs; the members of a committee come from one pool."""

OTHER_HEADS, MIXED, OTHER_FRONTS, OTHER_SEEDS = (
    f"compact transformers, other {what}" for what in ("heads", "heads and seeds", "convolutions first", "seeds")
)
HALF = "compact transformers, half the width"
PATCHES, CONVOLUTIONAL = "plain ViTs, other seeds", "residual networks, other seeds"


def members(
    scale: Scale, counts: Sequence[int], *, seeds: Sequence[int], head_seeds: Sequence[int], half_seeds: Sequence[int]
) -> dict[str, list[list[Experiment]]]:
    """The experiments of chapter B2: kind of committee → pools of its members.

    Args:
        counts: numbers of heads that sit together, one pool a seed of ``head_seeds``.
        seeds: of the networks that were trained again and, one pool each, of those with convolutions first.
        half_seeds: of the networks of half the width.
    """

    def again(name: str) -> list[list[Experiment]]:
        return [[experiments.get(name, scale, seed) for seed in seeds]]

    return {
        OTHER_HEADS: [[experiments.with_heads(count, scale, seed) for count in counts] for seed in head_seeds],
        OTHER_FRONTS: [[experiments.get(name, scale, seed) for name in experiments.convolutions_first()] for seed in seeds],
        OTHER_SEEDS: again("cct"),
        HALF: [[experiments.with_heads(2, scale, seed, wide=True) for seed in half_seeds]],
        PATCHES: again("vit"),
        CONVOLUTIONAL: again("resnet"),
    }


def with_mixed(pools: Mapping[str, list[list[Run]]]) -> dict[str, list[list[Run]]]:
    """The same with the committees behind the first that differ in heads and seeds, see :func:`diagonals`; none where there is one seed."""
    mixed = diagonals(pools[OTHER_HEADS])
    return {OTHER_HEADS: pools[OTHER_HEADS]} | ({MIXED: mixed} if mixed else {}) | dict(pools)


def committees(pools: Pools, *, rules: Sequence[Rule] = RULES) -> pd.DataFrame:
    """Every committee that the pools can form: one row per kind, pool, members and rule.

    Returns:
        Columns kind, pool (its number), size, members (their names), rule; accuracy, mean and best (of the members alone) in
        [0, 1]; gain and gain_best, accuracy minus these two; disagreement and error_correlation of the members, see
        :mod:`snp_lib.analysis.committee`; confidence, what it holds of its answers on average, and ece, its expected calibration error.
    """
    rows: list[dict[str, Any]] = []
    for kind, of in pools.items():
        for p, runs in enumerate(of):
            whole = gather(runs)
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


def by_size(table: pd.DataFrame, columns: Sequence[str], digits: int) -> pd.DataFrame:
    """Means over all committees of a kind and size, in percent: a column for each of ``columns`` and each rule.

    Args:
        table: of :func:`committees`.
    """
    means = table.groupby(["kind", "size", "rule"], sort=False)[list(columns)].mean()
    return pd.DataFrame((100 * means).round(digits).unstack("rule"))


def claimed_gains(table: pd.DataFrame) -> dict[str, list[float]]:
    """What is claimed of committees by mean logit: end of the claim's name → values; without those of other seeds where there is one.

    - committee-gain: accuracy of the largest committee of other heads minus that of its best member, one value a seed.
    - committee-heads: gain over the members' mean in committees of two, other heads (one value a seed) minus other seeds.
    - committee-cnn: the same, other seeds of compact transformers minus other seeds of residual networks, one value a committee.
    - committee-cnn-none: accuracy of two residual networks minus that of their better one, one value a committee.

    Args:
        table: of :func:`committees`.
    """
    soft = table[table.rule == "mean logit"]
    heads, pairs = soft[soft.kind == OTHER_HEADS], soft[soft["size"] == 2]
    largest = heads[heads["size"] == heads["size"].max()].sort_values("pool")
    found = {"committee-gain": largest.gain_best.tolist()}
    seeds, filters = (pairs[pairs.kind == kind] for kind in (OTHER_SEEDS, CONVOLUTIONAL))
    if len(seeds) and len(filters):
        of_heads = pairs[pairs.kind == OTHER_HEADS].groupby("pool").gain.mean()
        found["committee-heads"] = (of_heads - seeds.gain.mean()).tolist()
        found["committee-cnn"] = (seeds.gain.to_numpy() - filters.gain.to_numpy()).tolist()
        found["committee-cnn-none"] = filters.gain_best.tolist()
    return found


def half_against_whole(table: pd.DataFrame, whole: Sequence[Run]) -> tuple[list[float], str]:
    """The committee of all networks of half the width against each one of full width, and in words against its own members.

    Returns:
        Accuracy of the committee minus that of each of ``whole``; how accurate its members are, and they together.
    """
    half = table[(table.rule == "mean logit") & (table.kind == HALF)]
    count = half["size"].max()
    together = half[half["size"] == count].accuracy.item()
    alone = half[half["size"] == 1].accuracy.mean()
    words = f"one of half the width {100 * alone:.1f} %, {count} together {100 * together:.1f} %"
    return [together - run.metrics["test_accuracy"] for run in whole], words


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
    decided, held = (make(members.logits, rule, members.held) for make in (committee.decide, committee.probabilities))
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
    members = gather(runs)
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


def gain_and_distance(table: pd.DataFrame) -> float:
    """Rank correlation over labels of what they gain with how far apart their heads place them, of :func:`gain_of_labels`."""
    return float(spearmanr(table.gain, table.apart, nan_policy="omit").statistic)


def _companies(run: Run, theta: float) -> Float[np.ndarray, "label label"]:
    """Share of the heads of a network that recognise both of two labels."""
    sites = run.sites_of("mha")
    sets = np.concatenate([summarize(run.matrices(site, unit="head"), theta).diagonal for site in sites]).astype(np.float64)
    shares: np.ndarray = sets.T @ sets / len(sets)
    return shares


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")
