"""Several experiments side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from snp_lib.experiments import CATALOGUE, Scale, get, parse_seeds, with_heads
from snp_lib.performance import THETA, summarize
from snp_lib.performance.statistics import expected_range
from snp_lib.results import run_all
from snp_lib.results.equal_density import ones_for, real_over_dealt
from snp_lib.results.setting import Measurement, measurable
from snp_lib.results.sites import site_statistics, snr_rise
from snp_lib.results.stages import statistics_at_stages
from snp_lib.store import Run, find

Families = Mapping[Any, Sequence[Run]]
"""Key → runs of one experiment, one a seed."""


def networks(names: Iterable[str], scale: Scale, seeds: str, **options: Any) -> dict[str, list[Run]]:
    """Finished runs of experiments by name, at these seeds, as :func:`snp_lib.results.run_all` makes or reads them."""
    return {name: run_all([get(name, scale, seed) for seed in parse_seeds(seeds)], **options) for name in names}


def networks_measured(
    names: Iterable[str], scale: Scale, seeds: str, measurements: Callable[[Run], Sequence[Measurement]], *, device: str = "auto"
) -> dict[str, list[Run]]:
    """Runs of experiments by name whose measurements are kept or can be made now; what has none is left out.

    At smoke scale what is missing is trained, at any other nothing is.

    Args:
        measurements: what is wanted of a run.
    """
    chosen = {name: [get(name, scale, seed) for seed in parse_seeds(seeds)] for name in names if scale in CATALOGUE[name].cost}
    if scale == "smoke":
        there = {name: run_all(experiments, device=device) for name, experiments in chosen.items()}
    else:
        there = {name: [run for each in experiments if (run := find(each)) is not None] for name, experiments in chosen.items()}
    able = {name: measurable(runs, measurements, device=device) for name, runs in there.items()}
    return {name: runs for name, runs in able.items() if runs}


def networks_with_heads(counts: Iterable[int], scale: Scale, seeds: Sequence[int], *, wide: bool = False, **options: Any) -> Families:
    """Finished runs of compact transformers by their number of heads, as :func:`snp_lib.results.run_all` makes or reads them.

    Args:
        wide: heads as wide as those of ``cct``, see :func:`snp_lib.experiments.with_heads`.
    """
    chosen = {count: [with_heads(count, scale, seed, wide=wide) for seed in seeds] for count in counts}
    return {count: run_all(experiments, **options) for count, experiments in chosen.items()}


def heads_in_words(families: Families) -> str:
    """The shape of networks that differ in their number of heads alone."""
    first = next(iter(families.values()))[0]
    width, labels = first.sites[first.sites_of("mha")[0]], len(first.class_names)
    nodes = {count: width // count for count in families}
    return f"{first.depth} encoders of width {width}, {labels} labels; heads: nodes each {nodes}"


def named_by_width(*tables: Families) -> dict[str, Sequence[Run]]:
    """Networks by number and width of their heads, in words, from families by their number alone."""
    widths = [(count, runs, runs[0].sites[runs[0].sites_of("mha")[0]] // count) for table in tables for count, runs in table.items()]
    return {f"{count} heads of {nodes} nodes": runs for count, runs, nodes in widths}


def summaries(names: Iterable[str]) -> str:
    """What experiments of the catalogue are, one line each."""
    return "\n".join(f"{name:18} {CATALOGUE[name].summary}" for name in names)


HEAD_COLUMNS = ["labels", "clusters", "cluster_size", "unit_clusters", "noise", "signal", "snr"]


def side_by_side(families: Families, measure: Callable[..., pd.DataFrame], by: str, **options: Any) -> pd.DataFrame:
    """A table of each family of runs, one under the other, with the family's key in column ``by``.

    Args:
        measure: makes the table of such runs; ``options`` go to it.
    """
    return pd.concat([measure(runs, **options).assign(**{by: key}) for key, runs in families.items()], ignore_index=True)


def head_statistics(runs: Sequence[Run], **options: Any) -> pd.DataFrame:
    """Averages over the heads of every encoder, with the columns and options of :func:`snp_lib.results.sites.site_statistics`.

    Returns:
        Also the columns share, the heads that recognise a label as a share of all heads, mean over labels, and
        noise_share, the noise of a head as a share of the elements off the diagonal.
    """
    table = site_statistics(runs, kinds=("mha",), unit="head", **options)
    heads = pd.Series({run.experiment.seed: run.num_heads for run in runs})
    labels = pd.Series({run.experiment.seed: len(run.class_names) for run in runs})
    pairs = table.seed.map(labels * (labels - 1))
    return table.assign(share=table.signal / table.seed.map(heads), noise_share=table.noise / pairs)


def own_and_dealt(table: pd.DataFrame, control: pd.DataFrame, block: int) -> pd.DataFrame:
    """Heads of an encoder as they are and of nodes dealt anew, for every number of heads: means over seeds and deals.

    Args:
        table, control: of :func:`head_statistics`, the second with deals, and with a column heads.

    Returns:
        The columns ``HEAD_COLUMNS`` and the standard deviation of the SNR, one row for heads and nodes (own, dealt).
    """
    both = pd.concat([table.assign(nodes="own"), control.assign(nodes="dealt")])
    grouped = both[both.block == block].groupby(["heads", "nodes"])
    return grouped[HEAD_COLUMNS].mean().assign(**{"sd of snr": grouped.snr.std()})


def head_sizes(runs: Mapping[str, Run], *, theta: float = THETA) -> dict[str, dict[str, np.ndarray]]:
    """Of the heads of the last encoder, the sizes of all clusters, and for every label the heads that recognise it.

    Args:
        runs: name → a run.

    Returns:
        Quantity, in words → name of the run → values.
    """
    found = {name: summarize(run.matrices(f"block{run.depth}.mha", unit="head"), theta) for name, run in runs.items()}
    return {
        "labels in a cluster": {name: summary.cluster_sizes[summary.cluster_sizes > 0] for name, summary in found.items()},
        "heads that recognise a label": {name: summary.diagonal.sum(axis=0) for name, summary in found.items()},
    }


def rise_before_training(families: Families, *, theta: float = THETA, by: str = "heads") -> pd.DataFrame:
    """How the SNR of heads rises in the same networks before training, see :func:`snp_lib.results.sites.snr_rise`."""
    return snr_rise(side_by_side(families, statistics_at_stages, by, thetas=[theta], epochs=[0], unit="head"))


def heads_at_the_end(families: Families, *, theta: float = THETA, deals: int = 20) -> pd.DataFrame:
    """Heads of the last encoder for every number of heads, means over seeds.

    Returns:
        Test accuracy in percent; labels, unit_clusters, heads per label, share, noise_share and snr of a head; snr of heads
        dealt anew; rise, the SNR of the last over the first encoder, and the same before training; and the SNR of heads over
        that of dealt ones with as many ones, 1,000 for a hundred labels.
    """
    columns = ["labels", "unit_clusters", "signal", "share", "noise_share", "snr"]

    def last(table: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(table[table.block == table.block.max()].groupby("heads")[columns].mean())

    table, dealt = (side_by_side(families, head_statistics, "heads", thetas=[theta], deals=count) for count in (0, deals))
    summary = last(table).assign(**{"snr of dealt nodes": last(dealt).snr})
    rises = {"rise": snr_rise(table), "rise untrained": rise_before_training(families, theta=theta)}
    summary = summary.assign(**{name: frame.groupby("heads").rise.mean() for name, frame in rises.items()})
    equal = {count: real_over_dealt(runs, ones=ones_for(len(runs[0].class_names))[-2]).ratio.mean() for count, runs in families.items()}
    summary["over dealt, equal ones"] = pd.Series(equal)
    summary.insert(0, "test accuracy (%)", mean_accuracy(families, "heads"))
    return summary.rename(columns={"signal": "heads per label"})


def heads_compared(families: Families, *, theta: float = THETA) -> pd.DataFrame:
    """Heads of the last encoder of networks of one depth, means over seeds: one row per network.

    Returns:
        Test accuracy in percent, labels, unit_clusters, share and noise_share of a head, and the rise of the SNR.
    """
    table = side_by_side(families, head_statistics, "network", thetas=[theta])
    last = table[table.block == table.block.max()].groupby("network", sort=False)
    means: pd.DataFrame = last[["labels", "unit_clusters", "share", "noise_share"]].mean()
    means["rise of SNR"] = snr_rise(table).groupby("network").rise.mean()
    means.insert(0, "test accuracy (%)", mean_accuracy(families, "network"))
    return means


def test_accuracy(runs: Sequence[Run]) -> pd.DataFrame:
    """Test accuracy and size of every network: columns seed, accuracy, parameters."""
    rows = [
        {"seed": run.experiment.seed, "accuracy": run.metrics["test_accuracy"], "parameters": run.metrics["parameters"]} for run in runs
    ]
    return pd.DataFrame(rows)


def accuracy_by_seed(families: Families, by: str = "network") -> pd.DataFrame:
    """Test accuracy, a row for each seed and a column for each family."""
    return side_by_side(families, test_accuracy, by).pivot(index="seed", columns=by, values="accuracy")


def range_beyond_noise(by_seed: pd.DataFrame) -> list[float]:
    """For each seed, the largest minus the smallest accuracy of its networks, less the range that equal networks would have.

    What equal networks show is the expected range of as many normal numbers with the standard deviation of the residuals of
    accuracy = seed + network + residual; of one seed, or one network, there are no residuals and nothing is taken off.

    Args:
        by_seed: of :func:`accuracy_by_seed`, without gaps.
    """
    seeds, networks = by_seed.shape
    residuals = by_seed.sub(by_seed.mean(axis=1), axis=0) - by_seed.mean() + by_seed.to_numpy().mean()
    freedom = (seeds - 1) * (networks - 1)
    noise = float(np.sqrt((residuals.to_numpy() ** 2).sum() / freedom)) if freedom else 0.0
    return ((by_seed.max(axis=1) - by_seed.min(axis=1)) - noise * expected_range(networks)).tolist()


def mean_accuracy(families: Families, by: str) -> pd.Series:
    """Test accuracy in percent, mean over the seeds of each family."""
    return 100 * side_by_side(families, test_accuracy, by).groupby(by).accuracy.mean()


def mean_sd(values: pd.Series, digits: int = 2) -> str:
    """Mean and standard deviation (n − 1) in words; of one value the value alone."""
    return f"{values.mean():.{digits}f}" + (f" ± {values.std():.{digits}f}" if len(values) > 1 else "")


def overview(families: Families) -> pd.DataFrame:
    """What each family is, one column each: model, parameters, epochs, sites, nodes, and test accuracy in words."""
    columns = {}
    for name, runs in families.items():
        first, percent = runs[0], pd.Series([100 * run.metrics["test_accuracy"] for run in runs])
        columns[name] = {
            "model": first.experiment.model,
            "parameters": f"{first.metrics['parameters']:,}",
            "epochs": first.experiment.recipe.epochs,
            "sites": len(first.sites),
            "nodes": f"{sum(first.sites.values()):,}",
            "test accuracy (%)": mean_sd(percent, 1) + (f" (n = {len(runs)})" if len(runs) > 1 else ""),
        }
    return pd.DataFrame(columns)


def largest_cluster(table: pd.DataFrame, runs: Sequence[Run]) -> list[float]:
    """The largest mean cluster size over all sites as a share of the labels, for each run."""
    largest = table.groupby("seed").cluster_size.max()
    return [float(largest[run.experiment.seed]) / len(run.class_names) for run in runs]


def before_and_after(families: Families, *, theta: float = THETA) -> dict[Any, pd.DataFrame]:
    """What the nodes of each family recognise before and after training, see :func:`snp_lib.results.stages.statistics_at_stages`."""
    return {key: statistics_at_stages(runs, thetas=[theta], epochs=[0, runs[0].experiment.recipe.epochs]) for key, runs in families.items()}


def rises_compared(rises: Mapping[Any, pd.DataFrame]) -> pd.DataFrame:
    """The rise of the SNR before and after training, mean and standard deviation over seeds: one row per network and kind of site.

    Args:
        rises: network → its rises at the first and last epoch, see :func:`snp_lib.results.sites.snr_rise`.
    """
    side = pd.concat([table.assign(network=name, trained=table.epoch > 0) for name, table in rises.items()])
    side = pd.DataFrame(side.groupby(["network", "kind", "trained"], sort=False).rise.agg(["mean", "std"]).unstack("trained"))
    names = {False: "untrained", True: "trained"}
    return side.swaplevel(axis=1).rename(columns=names).sort_index(axis=1, ascending=[False, True])
