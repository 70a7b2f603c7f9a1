"""Heads of runs: how they divide the labels, whether seeds agree, and what switching them off costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from snp_lib.analysis.ablation import HeadAblation, Replacement, Variants, ablate_heads, kept_heads
from snp_lib.models.sites import split_site
from snp_lib.performance import THETA, summarize
from snp_lib.performance.heads import agreement, claims, experts, modus_vivendi, shuffled_claims, symmetry_breaking
from snp_lib.performance.statistics import claims_explain
from snp_lib.results.setting import Measurement, Setting, heads_needed
from snp_lib.results.stages import Stage, diagonal_sets_at, stages
from snp_lib.store import Run
from snp_lib.store.derived import Arrays

MOST_HEADS = 8  # 28 pairs; 64 heads have 2,016, each a pass over the test split at every encoder


@dataclass(frozen=True, kw_only=True)
class Ablation(Measurement):
    """Accuracy per label on the test split with each head, each pair of heads, and all heads but one switched off.

    At every ``mha`` site of the run, one site at a time; see :func:`snp_lib.analysis.ablation.ablate_heads`.

    Arrays by name: ``kept`` (variant, head); ``accuracy`` (site, variant, label) and ``baseline`` (label,) in [0, 1];
    ``images`` (label,), how many inputs of each label.

    Attributes:
        replacement: what stands in the place of a head.

    Raises:
        StoreError: the weights of the run are not here, or what is stored is damaged.
        ValueError: the run has no ``mha`` site.
    """

    replacement: Replacement = "zero"

    @property
    def what(self) -> str | None:
        return "ablation" if self.replacement == "zero" else None

    def name(self, run: Run) -> str:
        return f"ablation-{self.replacement}"

    def options(self, run: Run) -> dict[str, Any]:
        return {"replacement": self.replacement, "sites": heads_needed(run)}

    def compute(self, setting: Setting) -> Arrays:
        kept = np.concatenate([kept_heads(variants, setting.run.num_heads) for variants in ("removed", "alone", "pairs")])
        ablation = ablate_heads(
            setting.network,
            setting.dataset.test,
            setting.prepare,
            kept,
            replacement=self.replacement,
            progress=setting.progress,
            **setting.passes,
        )
        return {"kept": ablation.kept, "accuracy": ablation.accuracy, "baseline": ablation.baseline, "images": ablation.counts}


def ablation_of(run: Run) -> list[Measurement]:
    """What a run has for chapter A4: its heads switched off, where there are two of them or more, and few enough for all pairs."""
    return [Ablation()] if 1 < run.num_heads <= MOST_HEADS and run.sites_of("mha") else []


def head_ablation(run: Run, replacement: Replacement = "zero") -> HeadAblation:
    """What :class:`Ablation` measured; raises StoreError, saying what to run, where nobody measured it."""
    arrays = Ablation(replacement=replacement).read(run)
    return HeadAblation(
        sites=tuple(run.sites_of("mha")),
        kept=arrays["kept"],
        accuracy=arrays["accuracy"],
        baseline=arrays["baseline"],
        counts=arrays["images"],
        replacement=replacement,
    )


def head_symmetry(runs: Sequence[Run], *, theta: float = THETA, permutations: int = 10_000) -> pd.DataFrame:
    """How far the heads of each encoder have divided the labels among them: one row per seed and encoder.

    Returns:
        Columns seed, block; information, null, null_sd and excess (information minus null) in bits; p; claimed, the
        significant (head, label) pairs; experts, the labels with one; coverage, overlap, entropy, see
        :class:`snp_lib.performance.heads.ModusVivendi` for the significant claims.
    """
    rows = []
    for run in runs:
        for site in run.sites_of("mha"):
            found = _symmetry_of(run, summarize(run.matrices(site), theta).diagonal, permutations)
            rows.append({"seed": run.experiment.seed, "block": split_site(site)[0]} | found)
    return pd.DataFrame(rows)


def symmetry_at_stages(
    runs: Sequence[Run], *, theta: float = THETA, epochs: Sequence[int] | None = None, permutations: int = 2000
) -> pd.DataFrame:
    """The same at stages of the training: columns as :func:`head_symmetry`, and epoch.

    Args:
        epochs: finished epochs; default: every stage of the runs but their end, which is :func:`head_symmetry`.
    """
    rows = []
    for run in runs:
        for epoch in epochs if epochs is not None else stages(run)[:-1]:
            arrays = Stage(epoch=epoch).read(run)
            for site in run.sites_of("mha"):
                sets = diagonal_sets_at(arrays, site, theta, len(run.class_names))
                place = {"seed": run.experiment.seed, "epoch": epoch, "block": split_site(site)[0]}
                rows.append(place | _symmetry_of(run, sets, permutations))
    return pd.DataFrame(rows)


def _symmetry_of(run: Run, sets: np.ndarray, permutations: int) -> dict[str, float]:
    found = symmetry_breaking(sets, run.num_heads, permutations=permutations, seed=run.experiment.seed)
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
        :class:`snp_lib.performance.heads.Agreement`; chances are means over shuffles.
    """
    columns = ["seeds", "block", "labels", "same", "same_chance", "same_p", "best", "best_chance", "best_p"]  # of no rows, too
    return pd.DataFrame(_pairs_of(runs, theta), columns=columns)


ORIGINS = {
    (True, False): "same start, other order",
    (False, True): "other start, same order",
    (False, False): "both other",
}
"""What two trainings have in common, the seed that initialises, and the seed of the order of the images and of their augmentation."""


def agreement_by_origin(runs: Sequence[Run], *, theta: float = THETA) -> pd.DataFrame:
    """The same for trainings of one network, by what each pair of them has in common: one row per pair and encoder.

    Args:
        runs: such as ``cct`` and ``cct-o1``, see :func:`snp_lib.experiments.paper_a.reordered`; pairs that have everything in common
            are left out.

    Returns:
        Columns as :func:`expert_agreement`, with pair (the two runs), origin (one of ``ORIGINS``), and the band from the 2.5 to the
        97.5 % quantile of the shuffles in same_low and same_high, best_low and best_high.
    """
    ends = ("same_low", "same_high", "best_low", "best_high")
    columns = ["origin", "pair", "block", "labels", "same", "same_chance", "same_p", "best", "best_chance", "best_p", *ends]
    table = pd.DataFrame(_pairs_of(runs, theta), columns=columns)
    return table[table.origin.notna()].reset_index(drop=True)


def _pairs_of(runs: Sequence[Run], theta: float) -> list[dict[str, Any]]:
    """Agreement of every pair of runs at every encoder."""
    rows, heads = [], runs[0].num_heads
    for site in runs[0].sites_of("mha"):
        found = [experts(claims(run.matrices(site), heads, theta)) for run in runs]
        for (first, one), (second, other) in combinations(zip(runs, found, strict=True), 2):
            pair = agreement(one, other, heads, permutations=10_000)
            row: dict[str, Any] = {
                "seeds": f"{first.experiment.seed}, {second.experiment.seed}",
                "pair": f"{first.experiment.id}, {second.experiment.id}",
                "origin": _origin(first, second),
                "block": split_site(site)[0],
                "labels": pair.labels,
            }
            for name, shuffled in (("same", pair.null_same), ("best", pair.null_best)):
                low, high = np.quantile(shuffled, (0.025, 0.975))
                row |= {name: getattr(pair, name), f"{name}_chance": shuffled.mean(), f"{name}_p": getattr(pair, f"{name}_p")}
                row |= {f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    return rows


def _origin(first: Run, second: Run) -> str | None:
    """What two trainings have in common, None for everything."""
    starts, orders = (
        {run.experiment.seed for run in (first, second)},
        {run.experiment.seed if run.experiment.order_seed is None else run.experiment.order_seed for run in (first, second)},
    )
    return ORIGINS.get((len(starts) == 1, len(orders) == 1))


def explanations(runs: Sequence[Run], ablations: Sequence[HeadAblation], *, theta: float = THETA) -> pd.DataFrame:
    """Rank correlation of a head's claims on labels with the accuracy they lose without it: one row per seed and encoder.

    Returns:
        Columns seed, block, correlation, low, high (95 % over labels) and p, each label's mean over heads subtracted;
        and with_labels, the correlation without that subtraction.
    """
    rows = []
    for run, ablation in zip(runs, ablations, strict=True):
        heads = run.num_heads
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
        heads = run.num_heads
        for site in ablation.sites:
            place = {"seed": run.experiment.seed, "block": split_site(site)[0]}
            rows.append(place | {"variant": "intact", "accuracy": ablation.baseline.mean()})
            for variants, name in names.items():
                accuracy = ablation.accuracy_of(site, kept_heads(variants, heads)).mean()
                rows.append(place | {"variant": name, "accuracy": accuracy})
    return pd.DataFrame(rows)


def claim_maps(run: Run, *, theta: float = THETA) -> dict[str, np.ndarray]:
    """Claims of heads on labels, encoder by encoder: ``encoder N`` → how many nodes of each head recognise each label.

    The last entry, ``shuffled``, is the last encoder with its nodes dealt anew to the heads, by the seed of the run.
    """
    sites = {f"encoder {split_site(site)[0]}": site for site in run.sites_of("mha")}
    maps = {encoder: claims(run.matrices(site), run.num_heads, theta) for encoder, site in sites.items()}
    last, anew = run.matrices(run.sites_of("mha")[-1]), {"permutations": 1, "seed": run.experiment.seed}
    return maps | {"shuffled": shuffled_claims(last, run.num_heads, threshold=theta, **anew)[0]}
