"""Heads of runs: how they divide the labels, whether seeds agree, and what switching them off costs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from snp_lib import stages
from snp_lib.models.sites import split_site
from snp_lib.performance import (
    THETA,
    HeadAblation,
    agreement,
    claims,
    claims_explain,
    experts,
    kept_heads,
    modus_vivendi,
    summarize,
    symmetry_breaking,
)
from snp_lib.performance.ablation import Variants
from snp_lib.store import Run


def symmetry(runs: Sequence[Run], *, theta: float = THETA, permutations: int = 10_000) -> pd.DataFrame:
    """How far the heads of each encoder have divided the labels among them: one row per seed and encoder.

    Returns:
        Columns seed, block; information, null, null_sd and excess (information minus null) in bits; p; claimed, the
        significant (head, label) pairs; experts, the labels with one; coverage, overlap, entropy, see
        :class:`snp_lib.performance.ModusVivendi` for the significant claims.
    """
    rows = []
    for run in runs:
        for site in (site for site in run.sites if site.endswith(".mha")):
            found = _symmetry_of(run, summarize(run.matrices(site), theta).diagonal, permutations)
            rows.append({"seed": run.experiment.seed, "block": split_site(site)[0]} | found)
    return pd.DataFrame(rows)


def symmetry_at_stages(
    runs: Sequence[Run], *, theta: float = THETA, epochs: Sequence[int] | None = None, permutations: int = 2000, device: str = "auto"
) -> pd.DataFrame:
    """The same at stages of the training: columns as :func:`symmetry`, and epoch.

    Args:
        epochs: finished epochs; default: every stage of the runs but their end, which is :func:`symmetry`.
    """
    rows = []
    for run in runs:
        for epoch in epochs if epochs is not None else stages.stages(run)[:-1]:
            arrays = stages.stage(run, epoch, device=device)
            for site in (site for site in run.sites if site.endswith(".mha")):
                sets = stages.diagonal_sets_at(arrays, site, theta, len(run.class_names))
                place = {"seed": run.experiment.seed, "epoch": epoch, "block": split_site(site)[0]}
                rows.append(place | _symmetry_of(run, sets, permutations))
    return pd.DataFrame(rows)


def _symmetry_of(run: Run, sets: np.ndarray, permutations: int) -> dict[str, float]:
    found = symmetry_breaking(sets, run.manifest["num_heads"], permutations=permutations, seed=run.experiment.seed)
    share = modus_vivendi(found.claims, found.claimed())
    return {
        "information": found.information,
        "null": found.null_mean,
        "null_sd": found.null_sd,
        "excess": found.information - found.null_mean,
        "p": found.information_p,
        "claimed": int(found.claimed().sum()),
        "experts": int((share.experts >= 0).sum()),
        "coverage": share.coverage,
        "overlap": share.overlap,
        "entropy": share.entropy,
    }


def expert_agreement(runs: Sequence[Run], *, theta: float = THETA) -> pd.DataFrame:
    """Do two seeds make the same head the expert of a label? One row per pair of seeds and encoder.

    Returns:
        Columns seeds, block; labels with an expert in both; same, same_chance, same_p and best, best_chance, best_p, see
        :class:`snp_lib.performance.Agreement`; chances are means over shuffles.
    """
    heads = runs[0].manifest["num_heads"]
    columns = ["seeds", "block", "labels", "same", "same_chance", "same_p", "best", "best_chance", "best_p"]  # of no rows, too
    rows = []
    for site in (site for site in runs[0].sites if site.endswith(".mha")):
        found = [experts(claims(run.matrices(site), heads, theta)) for run in runs]
        for (i, first), (j, second) in combinations(enumerate(found), 2):
            pair = agreement(first, second, heads, permutations=10_000)
            rows.append(
                {
                    "seeds": f"{runs[i].experiment.seed}, {runs[j].experiment.seed}",
                    "block": split_site(site)[0],
                    "labels": pair.labels,
                    "same": pair.same,
                    "same_chance": pair.null_same.mean(),
                    "same_p": pair.same_p,
                    "best": pair.best,
                    "best_chance": pair.null_best.mean(),
                    "best_p": pair.best_p,
                }
            )
    return pd.DataFrame(rows, columns=columns)


def explanations(runs: Sequence[Run], ablations: Sequence[HeadAblation], *, theta: float = THETA) -> pd.DataFrame:
    """Rank correlation of a head's claims on labels with the accuracy they lose without it: one row per seed and encoder.

    Returns:
        Columns seed, block, correlation, low, high (95 % over labels) and p, each label's mean over heads subtracted;
        and with_labels, the correlation without that subtraction.
    """
    rows = []
    for run, ablation in zip(runs, ablations, strict=True):
        heads = run.manifest["num_heads"]
        for site in ablation.sites:
            claimed, lost = claims(run.matrices(site), heads, theta), ablation.lost(site, kept_heads("removed", heads))
            found, plain = (claims_explain(claimed, lost, within_label=within) for within in (True, False))
            place = {"seed": run.experiment.seed, "block": split_site(site)[0]}
            low, high = found.interval
            shown = {"correlation": found.correlation, "low": low, "high": high, "p": found.p, "with_labels": plain.correlation}
            rows.append(place | shown)
    return pd.DataFrame(rows)


def ablated_accuracy(runs: Sequence[Run], ablations: Sequence[HeadAblation]) -> pd.DataFrame:
    """Test accuracy, mean over labels, of the intact network and with heads switched off: columns seed, block, variant, accuracy.

    Variants: intact; removed, pairs and alone, each averaged over the heads or pairs of heads of the encoder.
    """
    names: dict[Variants, str] = {"removed": "one head off", "pairs": "two heads off", "alone": "one head alone"}
    rows = []
    for run, ablation in zip(runs, ablations, strict=True):
        heads = run.manifest["num_heads"]
        for site in ablation.sites:
            place = {"seed": run.experiment.seed, "block": split_site(site)[0]}
            rows.append(place | {"variant": "intact", "accuracy": ablation.baseline.mean()})
            for variants, name in names.items():
                accuracy = ablation.accuracy_of(site, kept_heads(variants, heads)).mean()
                rows.append(place | {"variant": name, "accuracy": accuracy})
    return pd.DataFrame(rows)
