"""Results of several runs as data frames, one row per measured thing, ready to plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from snp_lib import prunings, removal, stages
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
from snp_lib.reporting import half_width, scoreboard
from snp_lib.store import Run, Unit

KINDS = ("mha", "attention", "ff_hidden", "ff", "block")  # in the order of the forward pass of an encoder

SPREAD = ("ratio", "low", "high")


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


def per_run(table: pd.DataFrame, runs: Sequence[Run], column: str, **where: Any) -> Float[np.ndarray, " run"]:
    """One value per run, in the order of the runs, from the rows that meet ``where``, such as ``kind="ff", block=5``.

    Raises:
        ValueError: not exactly one such row for each run.
    """
    rows = table[np.logical_and.reduce([table[name] == value for name, value in where.items()])].set_index("seed")[column]
    seeds = [run.experiment.seed for run in runs]
    if sorted(rows.index) != sorted(seeds):
        raise ValueError(f"expected one row with {where} for each of the seeds {seeds}, got rows of {sorted(rows.index)}")
    values: np.ndarray = rows.loc[seeds].to_numpy(dtype=np.float64)
    return values


def rises(table: pd.DataFrame) -> pd.DataFrame:
    """SNR of the last encoder over that of the first, in column rise: one row per seed, kind and whatever else tells rows apart.

    Args:
        table: with columns seed, kind, block and snr, and epoch, theta, readout or silenced where there are several.
    """
    keys = [name for name in ("seed", "kind", "epoch", "theta", "readout", "silenced") if name in table]
    snr = table.pivot(index=keys, columns="block", values="snr")
    return (snr[snr.columns.max()] / snr[snr.columns.min()]).rename("rise").reset_index()


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


def claims_side_by_side(papers: Sequence[str], experiments: Mapping[str, str]) -> pd.DataFrame:
    """Verdicts of several experiments on the same claims, of those that the first experiment has measured.

    Args:
        experiments: title of a column → name of an experiment.

    Returns:
        Columns claim and, for each title, the number and ``TITLE: verdict``.
    """
    boards = {title: claims_table(papers, experiment=name) for title, name in experiments.items()}
    columns: dict[str, pd.Series] = {}
    for title, board in boards.items():
        columns |= {"claim": board.claim, title: board.ours, f"{title}: verdict": board.verdict}
    measured = next(iter(boards.values())).ours != ""
    return pd.DataFrame(columns)[measured].reset_index(drop=True)


def benchmark(result: Mapping[str, Any], part: str) -> pd.DataFrame:
    """One part of a record of a benchmark: images a second, or seconds, and the ratio to the first row, as medians over rounds.

    Args:
        result: the record, as :func:`snp_lib.reporting.load_benchmark` reads it, or the part of it that holds ``part``.
        part: of ``benchmarks/training.py`` ``train``, ``evaluate`` or ``augment: …``; of a part of
            ``benchmarks/measurements.py`` its ``ways``.

    Returns:
        Columns way, images/s or seconds, ratio, from and to; the last three are how many times faster than the first row
        of the same round.
    """
    rows = []
    for way, row in result[part].items():
        ratio, key, name = row["ratio"], *(("seconds", "seconds") if "seconds" in row else ("images_per_second", "images/s"))
        rows.append({"way": way, name: np.median(row[key]), "ratio": np.median(ratio), "from": min(ratio), "to": max(ratio)})
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


def pruned(
    runs: Sequence[Run],
    *,
    arms: Sequence[prunings.Arm] = prunings.ARMS,
    encoder: int | None = None,
    thetas: Sequence[float] | None = None,
    tuning: prunings.FineTuning | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Pruned networks by arm and density: one row per seed, arm and θ; ``dense`` has the θ of NaN and a density of 1.

    Returns:
        Columns seed, arm, theta, density (share of the weights of the pruned layers that is kept); before, before_top5,
        after and after_top5, test accuracy in [0, 1] before and after fine-tuning (without the last two where there is
        none); kept, compact and blocks, multiply-accumulates of the pruned layers as shares of the dense ones.
    """
    rows = []
    for run in runs:
        for arm in arms:
            arrays = prunings.pruning(run, arm, encoder=encoder, thetas=thetas, tuning=tuning, device=device)
            for t, theta in enumerate(arrays["thetas"]):
                row: dict[str, Any] = {"seed": run.experiment.seed, "arm": arm, "theta": theta, "density": arrays["total"][t]}
                if arm == "dense":
                    row |= {"theta": np.nan, "density": 1.0}
                for when in ("before", "after"):
                    if when in arrays:
                        row |= dict(zip((when, f"{when}_top5"), arrays[when][t], strict=True))
                dense, *forms = arrays["macs"][t]
                row |= {name: cost / dense if dense else 1.0 for name, cost in zip(prunings.COSTS[1:], forms, strict=True)}
                rows.append(row)
    return pd.DataFrame(rows)


def pruned_latency(runs: Sequence[Run], *, thetas: Sequence[float] | None = None, device: str = "auto") -> pd.DataFrame:
    """Latency of pruned networks over that of the dense one: one row per seed, batch, form and θ.

    Returns:
        Columns seed, batch, form (``compact``, ``blocks`` or ``dense``, which is the dense network once more and shows the
        noise), theta (NaN for dense); ratio, low and high, the median, 5th and 95th percentile over rounds.
    """
    rows = []
    for run in runs:
        arrays = removal.pruned_latency(run, thetas=thetas, device=device)
        for b, batch in enumerate(arrays["batches"]):
            place = {"seed": run.experiment.seed, "batch": batch}
            rows.append(place | {"form": "dense", "theta": np.nan} | dict(zip(SPREAD, arrays["noise"][b], strict=True)))
            for f, form in enumerate(removal.FORMS):
                for t, theta in enumerate(arrays["thetas"]):
                    rows.append(place | {"form": form, "theta": theta} | dict(zip(SPREAD, arrays["ratio"][b, f, t], strict=True)))
    return pd.DataFrame(rows)


def difference_per_seed(table: pd.DataFrame, arm: str, against: str, *, theta: float | None = None, column: str = "after") -> list[float]:
    """An arm of :func:`pruned` minus another at the same seed and θ, in the order of the seeds; without a θ the mean over all."""
    first, second = (table[table.arm == name].set_index("seed") for name in (arm, against))
    differences = []
    for seed in first.index.unique():
        ours, other = first.loc[[seed]].set_index("theta")[column], second.loc[[seed]].set_index("theta")[column]
        gap = ours - (other.item() if len(other) == 1 else other)  # the intact network has one value for every θ
        differences.append(float(gap.mean() if theta is None else gap[theta]))
    return differences


def paired(table: pd.DataFrame, arm: str, against: str, *, column: str = "after") -> pd.DataFrame:
    """The same as one row per θ: columns theta, density and difference (means over seeds), half_width of its 95 % interval."""
    rows = []
    for theta, density in table[table.arm == arm].groupby("theta").density.mean().items():
        differences = difference_per_seed(table, arm, against, theta=float(str(theta)), column=column)
        row = {"theta": theta, "density": density, "difference": np.mean(differences)}
        rows.append(row | {"half_width": half_width(differences)})
    return pd.DataFrame(rows)
