"""Results of several runs as data frames, one row per measured thing, ready to plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from snp_lib import stages
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
from snp_lib.reporting import scoreboard
from snp_lib.store import Run, Unit

KINDS = ("mha", "attention", "ff_hidden", "ff", "block")  # in the order of the forward pass of an encoder


def split_site(site: str) -> tuple[int, str]:
    """``block3.ff`` to ``(3, "ff")``, ``block3`` to ``(3, "block")`` and ``stem``, what the first block reads, to ``(0, "block")``."""
    if site == "stem":
        return 0, "block"
    block, _, kind = site.removeprefix("block").partition(".")
    return int(block), kind or "block"


def training_history(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per seed and epoch, with the columns of the history."""
    return pd.concat([pd.DataFrame(run.history).assign(seed=run.experiment.seed) for run in runs], ignore_index=True)


def readout_accuracy(runs: Sequence[Run]) -> pd.DataFrame:
    """Test accuracy of each site's readout: columns seed, block, kind, accuracy."""
    rows = []
    for run in runs:
        for site, accuracy in run.metrics["readout_accuracy"].items():
            block, kind = split_site(site)
            rows.append({"seed": run.experiment.seed, "block": block, "kind": kind, "accuracy": accuracy})
    return pd.DataFrame(rows)


def site_statistics(
    runs: Sequence[Run],
    *,
    kinds: Iterable[str] = KINDS,
    thetas: Iterable[float] = (THETA,),
    unit: Unit = "node",
    shuffle: bool = False,
) -> pd.DataFrame:
    """Averages over the units of each site: one row per seed, site and threshold.

    Args:
        kinds: which sites of an encoder.
        shuffle: the control: permute the outputs of every unit's matrix independently, which keeps the elements of
            every row and so the threshold and the number of ones, and destroys which output they point to.

    Returns:
        Columns seed, block, kind, theta, labels, labels_clustered, clusters, cluster_size, noise, noise_clustered,
        unclustered (share of units), signal, internal_noise, external_noise, snr.
    """
    rows = []
    for run in runs:
        for site in run.sites:
            block, kind = split_site(site)
            if kind not in kinds:
                continue
            matrices = run.matrices(site, unit=unit)
            if shuffle:
                matrices = shuffle_outputs(matrices, seed=run.experiment.seed)
            for theta in thetas:
                place = {"seed": run.experiment.seed, "block": block, "kind": kind, "theta": theta}
                rows.append(place | summarize(matrices, theta).averages())
    return pd.DataFrame(rows)


def shuffle_outputs(matrices: np.ndarray, *, seed: int) -> np.ndarray:
    """Permute the outputs of each unit's matrix, every unit by its own permutation."""
    units, _, outputs = matrices.shape
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(outputs), (units, 1)), axis=1)
    return np.take_along_axis(matrices, order[:, None, :], axis=2)


def claims_table(papers: Sequence[str], *, experiment: str | None = None) -> pd.DataFrame:
    """The scoreboard of the papers named, in that order: columns paper, claim, ours, verdict, holds if.

    Args:
        experiment: whose numbers; None: of each claim's own experiment.
    """
    rows = []
    for row in scoreboard(experiment):
        claim, number = row["claim"], row["reported"]
        wanted = f"> {claim.above:g}" if claim.above is not None else f"< {claim.below:g}"
        spread = "" if number is None or number.sd is None else f" ± {number.sd:.2g}"
        rows.append(
            {
                "paper": claim.paper,
                "claim": claim.statement,
                "ours": "" if number is None else f"{number.mean:.3g}{spread} (n = {number.n}, {number.scale})",
                "verdict": "not yet measured" if number is None else number.verdict,
                "holds if": f"{claim.measure} {wanted}",
            }
        )
    table = pd.DataFrame(rows)
    return pd.concat([table[table.paper == paper] for paper in papers], ignore_index=True)


def benchmark(result: Mapping[str, Any], part: str) -> pd.DataFrame:
    """One part of a record of ``benchmarks/training.py``: images a second and the ratio to the first row, as medians over rounds.

    Args:
        result: the record, as :func:`snp_lib.reporting.load_benchmark` reads it.
        part: ``train``, ``evaluate`` or ``augment: …``.

    Returns:
        Columns way, images/s, ratio, from and to; the last three are ratios to the first row of the same round.
    """
    rows = []
    for way, row in result[part].items():
        ratio = row["ratio"]
        rate = np.median(row["images_per_second"])
        rows.append({"way": way, "images/s": rate, "ratio": np.median(ratio), "from": min(ratio), "to": max(ratio)})
    return pd.DataFrame(rows)


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
        epochs: finished epochs; default: the snapshots of the runs. Their end is :func:`symmetry`.
    """
    rows = []
    for run in runs:
        for epoch in epochs if epochs is not None else run.experiment.snapshots or ():
            arrays = stages.stage(run, epoch, device=device)
            for site in (site for site in run.sites if site.endswith(".mha")):
                sets = stages.diagonal_sets_at(arrays, site, theta, len(run.class_names))
                place = {"seed": run.experiment.seed, "epoch": epoch, "block": split_site(site)[0]}
                rows.append(place | _symmetry_of(run, sets, permutations))
    return pd.DataFrame(rows)


def statistics_at_stages(
    runs: Sequence[Run], *, theta: float = THETA, epochs: Sequence[int] | None = None, device: str = "auto"
) -> pd.DataFrame:
    """Averages over the nodes of each site at stages of the training: one row per seed, epoch and site.

    Returns:
        Columns seed, epoch, block, kind, accuracy (of the site's readout) and those of
        ``STATISTICS``, which are named as in :func:`site_statistics`.

    Raises:
        ValueError: a θ that the stages do not keep.
    """
    rows = []
    for run in runs:
        for epoch in epochs if epochs is not None else run.experiment.snapshots or ():
            arrays = stages.stage(run, epoch, device=device)
            at = stages.index_of(arrays, theta)
            for s, site in enumerate(run.sites):
                block, kind = split_site(site)
                place = {"seed": run.experiment.seed, "epoch": epoch, "block": block, "kind": kind}
                place["accuracy"] = arrays["readout_accuracy"][s]
                rows.append(place | dict(zip(stages.STATISTICS, arrays["statistics"][s, at], strict=True)))
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
    return pd.DataFrame(rows)


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
