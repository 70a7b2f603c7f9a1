"""Soft committees: who sits in them, what they reach, hold and cost (paper B, abstract; the rules are defined here).

Members are runs that were tested on the same images. Nothing here trains anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from snp_lib import experiments
from snp_lib.analysis import committee
from snp_lib.analysis.committee import RULES, Members, Rule
from snp_lib.analysis.crossed import answers_together
from snp_lib.experiments import Experiment, Scale, initial_model
from snp_lib.experiments.paper_b import heads_changed
from snp_lib.latency import count_macs
from snp_lib.performance import THETA, summarize
from snp_lib.performance.statistics import p_value, shuffled_orders
from snp_lib.store import Run, find


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
    logits = np.stack([run.logits for run in runs]).astype(np.float32)  # sums of them are exact: they are multiples of 1/32
    return Members(logits, np.asarray(first.labels, dtype=np.int64), tuple(run.experiment.id for run in runs))


TRANSFORMERS, FRONTS, OTHER_FRONTS, HALF, PATCHES, CONVOLUTIONAL, ORDERS = (
    "compact transformers",
    "first encoder gone or a full convolution",
    "narrow or separable convolutions first",
    "compact transformers of half the width",
    "plain vision transformers",
    "residual networks",
    "initialisation and order apart",
)


def members(scale: Scale, counts: Iterable[int], *, seeds: Sequence[int], half_seeds: Sequence[int]) -> dict[str, list[Experiment]]:
    """The experiments of chapter B2: family of networks → its members.

    Args:
        counts: numbers of heads of the compact transformers.
        seeds: of all but the networks of half the width.
    """

    def at_seeds(*names: str) -> list[Experiment]:
        return [experiments.get(name, scale, seed) for name in names for seed in seeds]

    fronts = experiments.convolutions_first()
    return {
        TRANSFORMERS: [experiments.with_heads(count, scale, seed) for count in counts for seed in seeds],
        FRONTS: at_seeds("cct", "cct-k1", "cct-k1-full1"),
        OTHER_FRONTS: at_seeds(*(front for front in fronts if front != "cct-k1-full1")),
        HALF: [heads_changed(experiments.get("cct", scale, seed), 2, wide=True) for seed in half_seeds],
        PATCHES: at_seeds("vit"),
        CONVOLUTIONAL: at_seeds("resnet"),
    }


def reordered(scale: Scale) -> list[Experiment]:
    """The 2 × 2 of initialisation and order: networks of four heads whose two seeds are 0 or 1, each with each."""
    return [experiments.get(name, scale, seed) for name, seed in (("cct", 0), ("cct", 1), ("cct-o1", 0), ("cct-o0", 1))]


def recorded(chosen: Mapping[str, Iterable[Experiment]]) -> tuple[dict[str, list[Run]], list[str]]:
    """The runs that there are of these experiments, and the ids of those that are missing; none is trained."""
    found = {experiment.id: find(experiment) for family in chosen.values() for experiment in family}
    runs = {name: [run for each in family if (run := found[each.id]) is not None] for name, family in chosen.items()}
    return {name: family for name, family in runs.items() if family}, [name for name, run in found.items() if run is None]


def families_beside(scale: Scale | Literal[""]) -> dict[str, list[Run]]:
    """The families of :func:`members` at a scale with the runs that there are; none where no compact transformer is, or for no scale."""
    if not scale:
        return {}
    families, _ = recorded(members(scale, experiments.head_counts(scale), seeds=experiments.parse_seeds("0,1,2"), half_seeds=()))
    return families if TRANSFORMERS in families else {}


def committees(pools: Mapping[str, Sequence[Sequence[Run]]], *, rules: Sequence[Rule] = RULES) -> pd.DataFrame:
    """Every committee that pools of runs can form, by every rule: one row per kind, pool, members and rule.

    Args:
        pools: kind → pools of runs; the members of a committee come from one pool.

    Returns:
        Columns kind, pool (its number), size, members (their names), rule; accuracy, mean and best (of the members alone) in [0, 1];
        gain and gain_best, accuracy minus these two; confidence, what it holds of its answers on average, and ece, its expected
        calibration error.
    """
    rows: list[dict[str, Any]] = []
    for kind, several in pools.items():
        for p, runs in enumerate(several):
            whole = gather(runs)
            for size in range(1, len(runs) + 1):
                for drawn in committee.draws(whole, size):
                    alone = committee.right(drawn, None).mean(axis=1)
                    row = {"kind": kind, "pool": p, "size": size, "members": ", ".join(drawn.names)}
                    row |= {"mean": alone.mean(), "best": alone.max()}
                    rows += [row | _decided(drawn, rule, alone) for rule in rules]
    return pd.DataFrame(rows)


def _decided(members: Members, rule: Rule, alone: Float[np.ndarray, " member"]) -> dict[str, Any]:
    decided, held = (make(members.logits, rule, members.held) for make in (committee.decide, committee.probabilities))
    together = float((decided == members.labels).mean())
    return {
        "rule": rule,
        "accuracy": together,
        "gain": together - alone.mean(),
        "gain_best": together - alone.max(),
        "confidence": held.max(axis=-1).mean(),
        "ece": committee.calibration_error(held, members.labels, decided=decided),
    }


def rules_and_confidence(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by each rule, and confidence and calibration error by mean logit, in percent: means over committees of a kind and size.

    Args:
        table: of :func:`committees`.
    """
    means = 100 * table.groupby(["kind", "size", "rule"], sort=False)[["accuracy", "confidence", "ece"]].mean()
    soft = pd.DataFrame(means.xs("mean logit", level="rule"))[["confidence", "ece"]].rename(columns={"ece": "calibration error"})
    by_rule: pd.DataFrame = means.accuracy.unstack("rule")
    return by_rule.join(soft)


def gains_over_best(table: pd.DataFrame, kind: str) -> list[float]:
    """Accuracy of the largest committee of each pool of a kind, by mean logit, minus that of its best member, of :func:`committees`."""
    rows = table[(table.rule == "mean logit") & (table.kind == kind)]
    return [float(gain) for gain in rows[rows["size"] == rows["size"].max()].sort_values("pool").gain_best]


def accuracy_and_cost(families: Mapping[str, Sequence[Run]], *, most: int = 20) -> pd.DataFrame:
    """Accuracy of committees by mean logit against what all members multiply: one row per family and size.

    Args:
        most: committees of a size; where more can be formed, as many are drawn at random, always the same.

    Returns:
        Columns family, size, committees (how many), macs (of all members together for one image, mean), accuracy (mean, in [0, 1])
        and sd over committees, which share members.
    """
    rows = []
    for name, runs in families.items():
        whole, cost = gather(runs), np.array([macs_of(run.experiment, len(run.class_names)) for run in runs])
        for size in sorted({*range(1, min(5, len(runs)) + 1), *range(10, len(runs), 5), len(runs)}):
            if comb(len(runs), size) <= most:
                chosen = np.array(list(combinations(range(len(runs)), size)))
            else:
                chosen = np.random.default_rng(0).permuted(np.tile(np.arange(len(runs)), (most, 1)), axis=1)[:, :size]
            reached = (answers_together(whole.logits, chosen) == whole.labels).mean(axis=1)
            row = {"family": name, "size": size, "committees": len(chosen), "macs": cost[chosen].sum(axis=1).mean()}
            rows.append(row | {"accuracy": reached.mean(), "sd": reached.std(ddof=1) if len(reached) > 1 else np.nan})
    return pd.DataFrame(rows)


def single_networks(families: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """Every network by itself, means over seeds: columns family (the first that has it), network, macs (for one image), seeds, accuracy."""
    rows = [
        {"family": name, "network": run.experiment.name, "accuracy": run.metrics["test_accuracy"]}
        | {"macs": macs_of(run.experiment, len(run.class_names)), "seed": run.experiment.seed}
        for name, runs in families.items()
        for run in runs
    ]
    grouped = pd.DataFrame(rows).groupby(["family", "network", "macs"], sort=False)
    return grouped.agg(seeds=("seed", "size"), accuracy=("accuracy", "mean")).reset_index().drop_duplicates(["network", "macs"])


def macs_of(experiment: Experiment, labels: int) -> int:
    """Multiply-accumulates of an experiment's network for one image."""
    return count_macs(initial_model(experiment, labels))


def rivals(scale: Scale, labels: int, *, multiples: Sequence[int] = (2, 3, 4, 5)) -> pd.DataFrame:
    """Wider networks that cost about as much as a committee of so many of ``cct``: heads as wide as its own, and more of them.

    Returns:
        Columns members (of the committee), rival (its experiment), cost (over that of one ``cct``), recorded (its seeds, of 0, 1 and 2).
    """
    base = experiments.get("cct", scale, 0)
    one, wider = macs_of(base, labels), [heads_changed(base, count, wide=True) for count in range(2, 12)]
    costs = np.array([macs_of(each, labels) for each in wider]) / one
    rows = []
    for members in multiples:
        nearest = int(np.abs(np.log(costs / members)).argmin())
        there = sum(find(wider[nearest].vary(wider[nearest].name, seed=seed)) is not None for seed in (0, 1, 2))
        rows.append({"members": members, "rival": wider[nearest].name, "cost": costs[nearest], "recorded": there})
    return pd.DataFrame(rows)


def half_against_whole(half: Sequence[Run], whole: Sequence[Run]) -> tuple[list[float], str]:
    """The committee of all networks of half the width against each one of full width, and in words against its own members.

    Returns:
        Accuracy of the committee minus that of each of ``whole``; how accurate its members are, and they together.
    """
    drawn = gather(half)
    together, alone = (float(committee.right(drawn, rule).mean()) for rule in ("mean logit", None))
    words = f"one of half the width {100 * alone:.1f} %, {len(half)} together {100 * together:.1f} %"
    return [together - run.metrics["test_accuracy"] for run in whole], words


def gain_of_labels(runs: Sequence[Run], *, rule: Rule = "mean logit", theta: float = THETA) -> pd.DataFrame:
    """What each label gains by the committee of all these runs, and how differently their heads place it (defined here).

    The co-recognition profile of a label in a network is, for each other label, the share of the heads of all encoders that
    recognise both. Two networks place a label alike if its profiles correlate.

    Returns:
        Columns label (its name), alone (members' mean accuracy), together, gain, and apart, one minus Pearson's correlation
        of the label's profiles in two members, mean over pairs (NaN where no head of a member recognises it).
    """
    members = gather(runs)
    alone, together = committee.right(members, None).mean(axis=0), committee.right(members, rule)[0]
    profiles = [_profiles(run, theta) for run in runs]
    rows = []
    for label, name in enumerate(runs[0].class_names):
        shown = members.labels == label
        others = np.arange(len(runs[0].class_names)) != label
        pairs = [_correlation(a[label, others], b[label, others]) for a, b in combinations(profiles, 2)]
        row = {"label": name, "alone": alone[shown].mean(), "together": together[shown].mean()}
        rows.append(row | {"gain": together[shown].mean() - alone[shown].mean(), "apart": 1 - np.mean(pairs)})
    return pd.DataFrame(rows)


def gain_and_distance(table: pd.DataFrame, *, permutations: int = 2000) -> dict[str, float]:
    """Rank correlation over labels of what they gain with how far apart their heads place them, of :func:`gain_of_labels`.

    Returns:
        correlation; the 95 % range of its permutation null, null_low and null_high, in which labels change their distances; p, one-sided.
    """
    known = table.dropna(subset="apart")
    gain, apart = known.gain.to_numpy(), known.apart.to_numpy()
    orders = shuffled_orders(len(known), permutations, np.random.default_rng(0))
    x, y = (rankdata(side) - (len(known) + 1) / 2 for side in (gain, apart))
    scale = np.sqrt((x @ x) * (y @ y))
    observed, null = float(x @ y / scale), y[orders] @ x / scale
    low, high = np.quantile(null, (0.025, 0.975))
    return {"correlation": observed, "null_low": float(low), "null_high": float(high), "p": float(p_value(null, observed))}


def _profiles(run: Run, theta: float) -> Float[np.ndarray, "label label"]:
    """Share of the heads of a network that recognise both of two labels."""
    sites = run.sites_of("mha")
    sets = np.concatenate([summarize(run.matrices(site, unit="head"), theta).diagonal for site in sites]).astype(np.float64)
    shares: np.ndarray = sets.T @ sets / len(sets)
    return shares


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")
