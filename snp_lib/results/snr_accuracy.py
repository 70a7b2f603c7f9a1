"""Does the SNR tell the accuracy? Of sites, between networks, along a training and over numbers of heads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from snp_lib.experiments import Scale, get, head_counts
from snp_lib.models.sites import split_site
from snp_lib.performance import THETA, summarize
from snp_lib.performance.density import ones_at, operating_curve, snr_at_density
from snp_lib.performance.statistics import left_out, rank_correlation
from snp_lib.results import run_all
from snp_lib.results.equal_density import HEADS, SPLITS, ones_for
from snp_lib.results.families import Families, head_statistics, networks_with_heads, side_by_side, test_accuracy
from snp_lib.results.sites import snr_rise
from snp_lib.results.stages import Stage, index_of, stages
from snp_lib.store import Run, Unit

Kinds = Mapping[str, Sequence[Run]]
"""Kind of network, in words → runs of it, which may differ in experiment, scale and seed."""

IMAGES = {"test": "test", "train": "training"}

TELLERS = {"snr": "SNR at θ", "equal": "SNR at equal density", "ones": "ones per node"}
"""Columns of :func:`sites_of_networks` that may tell the accuracy, and their names."""


def kinds_of_network(runs: Sequence[Run], scale: Scale, seeds: Sequence[int], **options: Any) -> tuple[dict[str, list[Run]], Families]:
    """Networks to hold beside those of a chapter, by kind, and among them compact transformers by their number of heads.

    Args:
        runs: of the chapter, a kind of their own where they are of another scale.
        scale: of the others. At smoke, where all train on digits, there is no Flowers-102.
        options: as for :func:`snp_lib.results.run_all`, which makes or reads them; ``cct``, ViT, ResNet and Flowers-102 with their stages.
    """
    heads = networks_with_heads(head_counts(scale), scale, seeds, **options)
    staged = options | {"measured": ["stages"]}
    names = {"cct": "CCT", "vit": "ViT", "resnet": "ResNet"} | ({"flowers": "CCT, Flowers-102"} if scale != "smoke" else {})
    found = {kind: run_all([get(name, scale, seed) for seed in seeds], **staged) for name, kind in names.items()}
    known = {run.experiment.id for run in found["CCT"]}
    found["CCT"] += [run for of_count in heads.values() for run in of_count if run.experiment.id not in known]
    if runs[0].experiment.scale != scale:
        found[f"CCT, {runs[0].experiment.scale}"] = list(runs)
    return found, heads


def sites_of_networks(networks: Kinds, *, theta: float = THETA) -> pd.DataFrame:
    """SNR and readout accuracy of every site of every network, and of every stage of its training that was measured.

    Returns:
        Columns network, run (experiment, scale and seed), epoch, share (of the training), block, kind, accuracy, snr at θ; equal, the SNR
        at a hundred ones per node (for a hundred labels), and ones, those of a node at θ, at the end of a training, else NaN.
    """
    rows: list[dict[str, Any]] = []
    for network, runs in networks.items():
        for run in runs:
            last = run.experiment.recipe.epochs
            place = {"network": network, "run": run.experiment.id}
            for epoch in (epoch for epoch in stages(run)[:-1] if Stage(epoch=epoch).kept(run)):
                arrays = Stage(epoch=epoch).read(run)
                at = index_of(arrays, theta)
                for s, site in enumerate(run.sites):
                    block, kind = split_site(site)
                    row = {"epoch": epoch, "share": epoch / last, "block": block, "kind": kind}
                    row["snr"] = arrays["statistics"][s, at, -1]
                    rows.append(place | row | {"accuracy": arrays["readout_accuracy"][s], "equal": np.nan, "ones": np.nan})
            for site in run.sites:
                block, kind = split_site(site)
                matrices, row = run.matrices(site), {"epoch": last, "share": 1.0, "block": block, "kind": kind}
                ones = ones_at(matrices, theta)
                snr, equal = operating_curve(matrices, (ones, ones_for(len(run.class_names))[1]))  # at θ from the same sorting
                row |= {"snr": snr, "accuracy": run.metrics["readout_accuracy"][site], "equal": equal, "ones": ones.mean()}
                rows.append(place | row)
    return pd.DataFrame(rows)


def correlations_by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation over sites of the accuracy with each of ``TELLERS``: all, those of trained networks, each kind of site and network.

    Args:
        table: of :func:`sites_of_networks`.

    Returns:
        Indexed by what the sites have in common; sites, how many there are (of the SNR at θ), and a column for each of ``TELLERS``, over
        the sites that have it; NaN where these are fewer than three.
    """
    groups = {"all sites": table, "ends of trainings": table[table.share == 1]}
    groups |= {f"{kind} sites": rows for kind, rows in table.groupby("kind", sort=False)}
    groups |= {str(network): rows for network, rows in table.groupby("network", sort=False)}
    rows: list[dict[str, Any]] = []
    for name, group in groups.items():
        row: dict[str, Any] = {"of": name, "sites": len(group)}
        for column, teller in TELLERS.items():
            known = group.dropna(subset=column)
            row[teller] = rank_correlation(known[column].to_numpy(), known.accuracy.to_numpy()) if len(known) > 2 else float("nan")
        rows.append(row)
    return pd.DataFrame(rows).set_index("of")


def told_by_others(table: pd.DataFrame, column: str = "snr") -> pd.DataFrame:
    """Accuracy of sites read from one of ``TELLERS`` by a monotone fit to the other kinds of network.

    Args:
        table: of :func:`sites_of_networks`; rows without the column are left out.

    Returns:
        The rows with columns guess, by the fit, and mean, that of all sites of the others.
    """
    known = table.dropna(subset=column).reset_index(drop=True)
    x, y, groups = known[column].to_numpy(), known.accuracy.to_numpy(), known.network.tolist()
    return known.assign(guess=left_out(x, y, groups), mean=left_out(np.zeros(len(x)), y, groups))


def told_errors(told: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute error of the guesses for each kind of network, in [0, 1]: columns sites, guess, mean, and ratio of these two.

    Args:
        told: of :func:`told_by_others`.
    """
    missed = told.assign(**{name: abs(told[name] - told.accuracy) for name in ("guess", "mean")})
    grouped = missed.groupby("network", sort=False)
    errors = grouped[["guess", "mean"]].mean()
    errors.insert(0, "sites", grouped.size())
    return errors.assign(ratio=errors.guess / errors["mean"])


def worst_told(told: pd.DataFrame, count: int = 2) -> pd.DataFrame:
    """Sites of each kind of network at which a guess misses most, means over its runs: columns snr, accuracy, guess, the worst first.

    Args:
        told: of :func:`told_by_others`.
        count: sites of each kind.
    """
    means = told.groupby(["network", "share", "kind", "block"], sort=False)[["snr", "accuracy", "guess"]].mean()
    order = abs(means.guess - means.accuracy).sort_values(ascending=False, kind="stable").index
    worst: pd.DataFrame = means.loc[order].groupby("network", sort=False).head(count)
    return worst


def accuracy_along_training(runs: Sequence[Run], *, kind: str, theta: float = THETA) -> pd.DataFrame:
    """SNR of the last site of a kind and test accuracy of the network at every stage: columns seed, epoch, snr, percent.

    Raises:
        StoreError: nobody measured the stages.
    """
    rows = []
    for run in runs:
        site = run.sites_of(kind)[-1]
        at_site = list(run.sites).index(site)
        for epoch in stages(run):
            if epoch == run.experiment.recipe.epochs:
                snr, accuracy = summarize(run.matrices(site), theta).snr, run.metrics["test_accuracy"]
            else:
                arrays = Stage(epoch=epoch).read(run)
                snr, accuracy = arrays["statistics"][at_site, index_of(arrays, theta), -1], arrays["accuracy"].item()
            rows.append({"seed": run.experiment.seed, "epoch": epoch, "snr": snr, "percent": 100 * accuracy})
    return pd.DataFrame(rows)


def heads_and_accuracy(families: Families, *, ones: int, theta: float = THETA) -> pd.DataFrame:
    """Heads of the last encoder and test accuracy of the network, for every number of heads: one row per seed.

    Args:
        families: number of heads → runs.
        ones: of each head, for the SNR at equal density.

    Returns:
        Columns heads, seed, snr (at θ), equal (SNR at so many ones a head), rise (of the SNR at θ, last over first encoder), percent.
    """
    keys = ["heads", "seed"]
    table = side_by_side(families, head_statistics, "heads", thetas=[theta])
    last = table[table.block == table.groupby("heads").block.transform("max")][[*keys, "snr"]]
    reached = side_by_side(families, test_accuracy, "heads")
    rows = last.merge(snr_rise(table)[[*keys, "rise"]], on=keys).merge(reached[[*keys, "accuracy"]], on=keys)
    heads: Unit = "head"
    equal = [
        {"heads": count, "seed": run.experiment.seed, "equal": snr_at_density(run.matrices(run.sites_of("mha")[-1], unit=heads), ones)}
        for count, runs in families.items()
        for run in runs
    ]
    return rows.merge(pd.DataFrame(equal), on=keys).assign(percent=100 * rows.accuracy).drop(columns="accuracy")


def along_and_across(along: pd.DataFrame, heads: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against SNR along trainings and across numbers of heads, in one table: columns way, name, snr, percent.

    Args:
        along: of :func:`accuracy_along_training`.
        heads: of :func:`heads_and_accuracy`.
    """
    columns = ["way", "name", "snr", "percent"]
    first = along.assign(way="nodes, by epochs of training", name=along.epoch.astype(str))[columns]
    second = heads.assign(way="heads, by their number", name=heads.heads.astype(str))[columns]
    return pd.concat([first, second], ignore_index=True)


def correlations_by_seed(table: pd.DataFrame, columns: Sequence[str] = ("snr", "equal", "rise")) -> pd.DataFrame:
    """Rank correlation of each column with the accuracy over networks of one seed: a row for each seed.

    Args:
        table: of :func:`heads_and_accuracy`.
    """
    by_seed = table.groupby("seed")
    return pd.DataFrame(
        {seed: {c: rank_correlation(rows[c].to_numpy(), rows.percent.to_numpy()) for c in columns} for seed, rows in by_seed}
    ).T


def by_split(networks: Kinds, *, kinds: Sequence[str], theta: float = THETA) -> pd.DataFrame:
    """SNR of the first and last site of each kind and its rise, by class means of test images and of training images.

    Args:
        networks: name → runs that keep both.
        kinds: of sites whose nodes are measured, or ``HEADS`` of :mod:`snp_lib.results.equal_density` for the heads of the ``mha`` sites;
            a network that lacks one has no row of it.

    Returns:
        Columns network, seed, kind, images (test or training), first, last, rise.
    """
    rows: list[dict[str, Any]] = []
    for network, runs in networks.items():
        for run, kind, split in itertools.product(runs, kinds, SPLITS):
            unit: Unit = "head" if kind == HEADS else "node"
            if sites := run.sites_of("mha" if kind == HEADS else kind):
                first, last = (summarize(run.matrices(site, unit=unit, split=split), theta).snr for site in (sites[0], sites[-1]))
                row = {"network": network, "seed": run.experiment.seed, "kind": kind, "images": IMAGES[split]}
                rows.append(row | {"first": first, "last": last, "rise": last / first})
    return pd.DataFrame(rows)
