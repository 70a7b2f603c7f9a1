"""Heads alone on the labels they claim: accuracy with one head left on, and what a head's own field recognises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from snp_lib.analysis.ablation import HeadAblation, kept_heads
from snp_lib.models.sites import split_site
from snp_lib.performance import THETA, binarize, diagonal_sets
from snp_lib.performance.density import Matrices
from snp_lib.performance.expertise import Advantage, expert_advantage, recognised_first, standing_out
from snp_lib.performance.heads import claims, experts
from snp_lib.performance.statistics import claims_explain
from snp_lib.results.sites import dealt
from snp_lib.results.stages import Stage, diagonal_sets_at, matrices_at
from snp_lib.store import Run

STATES = ("trained", "untrained")

DEALS = ("as they are", "dealt anew")


def advantage_row(found: Advantage) -> dict[str, float]:
    """The columns of an advantage: labels, expert, others, difference, excess, null_low, null_high (95 % of shuffles), p."""
    low, high = found.null_interval
    return {
        "labels": found.labels,
        "expert": found.expert,
        "others": found.others,
        "difference": found.difference,
        "excess": found.excess,
        "null_low": low,
        "null_high": high,
        "p": found.p,
    }


def node_sets(run: Run, site: str, network: str, theta: float) -> Bool[np.ndarray, "node label"]:
    """Labels that each node of an ``mha`` site recognises, in the trained network or in the untrained one."""
    if network == STATES[0]:
        return np.asarray(diagonal_sets(binarize(run.matrices(site), theta)))
    return diagonal_sets_at(Stage(epoch=0).read(run), site, theta, len(run.class_names))


def heads_alone(
    runs: Sequence[Run],
    ablations: Sequence[HeadAblation],
    *,
    theta: float = THETA,
    split: Literal["train", "test"] = "test",
    permutations: int = 10_000,
) -> pd.DataFrame:
    """Accuracy with one head left on, on the labels whose expert it is against the other heads on the same: one row per seed and encoder.

    Args:
        split: whose images name the experts; accuracies are on the test split, so that ``train`` names them on other images.

    Returns:
        Columns seed, block, those of ``advantage_row``, accuracies in [0, 1]; correlation, low, high (95 % over labels) and
        correlation_p, of a head's claims with the accuracy it alone leaves, each label's mean over heads subtracted.
    """
    rows = []
    for run, ablation in zip(runs, ablations, strict=True):
        for site in ablation.sites:
            alone = ablation.accuracy_of(site, kept_heads("alone", run.num_heads))
            claimed = claims(run.matrices(site, split=split), run.num_heads, theta)
            found = expert_advantage(alone, experts(claimed), permutations=permutations, seed=run.experiment.seed)
            explained = claims_explain(claimed, alone, within_label=True)
            low, high = explained.interval
            ranks = {"correlation": explained.correlation, "low": low, "high": high, "correlation_p": explained.p}
            rows.append({"seed": run.experiment.seed, "block": split_site(site)[0]} | advantage_row(found) | ranks)
    return pd.DataFrame(rows)


def heads_in_their_fields(runs: Sequence[Run], *, theta: float = THETA, deals: int = 8) -> pd.DataFrame:
    """How well the field of a head knows the labels whose expert it is, for heads as they are and for nodes dealt anew to heads.

    The claims of a head and its field are sums over the same nodes, so some advantage is there for any nodes whatever; heads
    dealt anew, with experts of their own, have that much.

    Args:
        deals: how many times the nodes are dealt; rows are means over them.

    Returns:
        One row per seed, network, encoder and deal; columns seed, network, block, heads (as they are, dealt anew); expert, others,
        difference and excess of :func:`snp_lib.performance.expertise.standing_out`, in standard deviations over outputs;
        first_expert and first_others, the share of these labels whose output is largest in the field of the expert and of another head.

    Raises:
        StoreError: nobody measured the untrained network.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        for site in run.sites_of("mha"):
            for network, nodes, sets in _nodes(run, site, theta):
                where = {"seed": run.experiment.seed, "network": network, "block": split_site(site)[0]}
                whole = nodes.reshape(run.num_heads, -1, *nodes.shape[1:]).sum(axis=1)
                rows.append(where | {"heads": DEALS[0]} | _field(whole, claims(sets, run.num_heads)))
                controls = []
                for deal in range(1, deals + 1):
                    seed = (run.experiment.seed, deal)
                    counts = dealt(sets.astype(np.int64), run.num_heads, seed=seed)
                    controls.append(_field(dealt(nodes, run.num_heads, seed=seed), counts))
                means = {name: float(np.mean([control[name] for control in controls])) for name in controls[0]}
                rows.append(where | {"heads": DEALS[1]} | means)
    return pd.DataFrame(rows)


def beyond_dealt(fields: pd.DataFrame) -> pd.DataFrame:
    """The excess of heads as they are minus that of heads dealt anew: columns seed, network, block, beyond."""
    wide = fields.pivot(index=["seed", "network", "block"], columns="heads", values="excess")
    return (wide[DEALS[0]] - wide[DEALS[1]]).rename("beyond").reset_index()


def _nodes(run: Run, site: str, theta: float) -> Iterator[tuple[str, Matrices, Bool[np.ndarray, "node label"]]]:
    """Network, matrices and diagonal sets of the nodes of a site, trained and, where its class means are kept, untrained."""
    yield STATES[0], run.matrices(site), node_sets(run, site, STATES[0], theta)
    if f"weight/{site}" in (arrays := Stage(epoch=0).read(run)):
        yield STATES[1], matrices_at(arrays, site, run.sites[site]), node_sets(run, site, STATES[1], theta)


def _field(heads: Matrices, claimed: Int[np.ndarray, "head label"]) -> dict[str, Any]:
    chosen = experts(claimed)
    found = expert_advantage(standing_out(heads), chosen, permutations=1)
    first = expert_advantage(recognised_first(heads).astype(np.float64), chosen, permutations=1)
    names = ("expert", "others", "difference", "excess")
    return {name: getattr(found, name) for name in names} | {"first_expert": first.expert, "first_others": first.others}
