"""Results of several runs as data frames, one row per measured thing, ready to plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from snp_lib.performance import THETA, summarize
from snp_lib.reporting import scoreboard
from snp_lib.store import Run, Unit

KINDS = ("mha", "ff_hidden", "ff", "block")  # in the order of the forward pass of an encoder


def split_site(site: str) -> tuple[int, str]:
    """``block3.ff`` to ``(3, "ff")`` and ``block3`` to ``(3, "block")``."""
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


def claims_table(papers: Sequence[str]) -> pd.DataFrame:
    """The scoreboard of the papers named, in that order: columns paper, claim, ours, verdict, holds if."""
    rows = []
    for row in scoreboard():
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
