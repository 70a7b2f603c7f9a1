"""What runs learned and what their sites recognise, one row per seed and site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Num

from snp_lib.models.sites import split_site
from snp_lib.performance import THETA, Summary, summarize
from snp_lib.store import Run, Unit

STATISTICS = (
    *("labels", "labels_clustered", "clusters", "cluster_size", "unit_clusters", "noise", "noise_clustered", "unclustered"),
    *("signal", "internal_noise", "external_noise", "snr", "accuracy", "share", "noise_share", "jaccard", "chance"),
)
"""Columns of tables of sites that hold what was measured; all others tell their rows apart."""

KINDS = ("mha", "attention", "ff_hidden", "ff", "block")  # in the order of the forward pass of an encoder


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
    deals: int = 0,
) -> pd.DataFrame:
    """Averages over the units of each site: one row per seed, site and threshold, and deal where there are deals.

    Args:
        kinds: which sites of an encoder.
        shuffle: the control: permute the outputs of every unit's matrix independently, which keeps the elements of
            every row and so the threshold and the number of ones, and destroys which output they point to.
        deals: another control: deal the nodes of a site anew to its heads, so many times (0: heads as they are).

    Returns:
        Columns seed, block, kind, theta, deal (from 1, where there are deals), labels, labels_clustered, clusters, cluster_size,
        unit_clusters (share of clusters), noise, noise_clustered, unclustered (share of units), signal, internal_noise,
        external_noise, snr.

    Raises:
        ValueError: nodes to deal, but no heads to deal them to.
    """
    if deals and unit != "head":
        raise ValueError('nodes are dealt to heads: ask for unit="head"')
    rows = []
    for run in runs:
        for site in run.sites:
            block, kind = split_site(site)
            if kind not in kinds:
                continue
            for deal, matrices in dealt_heads(run, site, deals) if deals else ((0, run.matrices(site, unit=unit)),):
                if shuffle:
                    matrices = shuffle_outputs(matrices, seed=run.experiment.seed)
                for theta in thetas:
                    place = {"seed": run.experiment.seed, "block": block, "kind": kind, "theta": theta} | ({"deal": deal} if deals else {})
                    rows.append(place | summarize(matrices, theta).averages())
    return pd.DataFrame(rows)


def shuffle_outputs(matrices: np.ndarray, *, seed: int) -> np.ndarray:
    """Permute the outputs of each unit's matrix, every unit by its own permutation."""
    units, _, outputs = matrices.shape
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(outputs), (units, 1)), axis=1)
    return np.take_along_axis(matrices, order[:, None, :], axis=2)


def dealt_heads(run: Run, site: str, deals: int) -> Iterator[tuple[int, Float[np.ndarray, "head label output"]]]:
    """Performance matrices of heads as many as the site has, made of its nodes in random order: one deal after the other, from 1."""
    nodes = run.matrices(site)
    for deal in range(1, deals + 1):
        yield deal, dealt(nodes, run.num_heads, seed=(run.experiment.seed, deal))


def dealt(nodes: Num[np.ndarray, node * rest], heads: int, *, seed: tuple[int, int]) -> Num[np.ndarray, head * rest]:
    """Sums over equal numbers of nodes in random order, as many sums as there are heads."""
    order = np.random.default_rng(seed).permutation(len(nodes))
    return np.asarray(nodes[order].reshape(heads, -1, *nodes.shape[1:]).sum(axis=1))


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


KEYS = ("seed", "kind", "network", "heads", "epoch", "theta", "deal", "readout", "silenced")  # in the order of a table's rows


def snr_rise(table: pd.DataFrame) -> pd.DataFrame:
    """SNR of the last encoder over that of the first, in column rise: one row per seed, kind and whatever else tells rows apart.

    Args:
        table: with columns seed, kind, block and snr; every other column of it but statistics tells rows apart.

    Raises:
        ValueError: two rows of one encoder that nothing tells apart.
    """
    others = [name for name in table if name not in (*KEYS, *STATISTICS, "block")]
    keys = [name for name in (*KEYS, *others) if name in table]
    if table.duplicated([*keys, "block"]).any():
        raise ValueError(f"several rows of one encoder agree in {', '.join(map(str, keys))}: name what tells them apart in a column")
    if table.block.nunique() > 1 and (table.groupby(keys).size() == 1).any():
        raise ValueError(f"some encoders agree with no other in {', '.join(map(str, keys))}: leave out the columns that are measured")
    snr = table.sort_values("block").groupby(keys).snr  # networks of several depths have other last encoders
    return (snr.last() / snr.first()).rename("rise").reset_index()


def accuracy_while_training(runs: Sequence[Run]) -> pd.DataFrame:
    """Accuracy in the course of the training, in long form: one row per seed, epoch and kind of images.

    Returns:
        Columns seed, epoch, images (on training images as they pass, augmented, or on the test split), and percent, NaN
        where the test split was not evaluated.
    """
    names = {"train_accuracy": "training images, augmented", "test_accuracy": "test images"}
    table = training_history(runs).melt(["seed", "epoch"], list(names), "images", "share")
    return table.assign(images=table.images.map(names), percent=100 * table.share)


def time_to_accuracy(runs: Sequence[Run]) -> pd.DataFrame:
    """Test accuracy against the seconds of training behind it, wherever it was measured: columns seed, epoch, seconds, accuracy."""
    table = training_history(runs)
    table = table.assign(seconds=table.groupby("seed").seconds.cumsum(), accuracy=table.test_accuracy)
    return table.dropna(subset="accuracy")[["seed", "epoch", "seconds", "accuracy"]].reset_index(drop=True)


def training_speed(runs: Sequence[Run]) -> pd.DataFrame:
    """How fast runs were trained, one row each: columns run, images/s (median over epochs), seconds, accuracy, device."""
    rows = []
    for run in runs:
        speed = float(np.median([row["images_per_second"] for row in run.history]))
        row = {"run": run.experiment.id, "images/s": speed, "seconds": run.manifest["training_seconds"]}
        rows.append(row | {"accuracy": run.metrics["test_accuracy"], "device": run.manifest["device"]})
    return pd.DataFrame(rows)


def distributions(runs: Sequence[Run], sites: Mapping[str, str], *, theta: float = THETA) -> dict[str, dict[str, np.ndarray]]:
    """What nodes recognise, node by node and cluster by cluster, all runs together: name of a quantity → group → values.

    Args:
        sites: group → the site whose nodes it holds.
    """
    groups = {group: [summarize(run.matrices(site), theta) for run in runs] for group, site in sites.items()}
    values: dict[str, Callable[[Summary], np.ndarray]] = {
        "labels per node": lambda summary: summary.labels_of_unit,
        "labels per cluster": lambda summary: summary.cluster_sizes[summary.cluster_sizes > 0],
        "noise per node": lambda summary: summary.noise,
    }
    return {name: {group: np.concatenate([of(s) for s in groups[group]]) for group in groups} for name, of in values.items()}
