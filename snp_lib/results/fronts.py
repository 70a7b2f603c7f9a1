"""Networks with convolutions, or nothing, in place of their first encoders: accuracy, latency, and how early they learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from snp_lib.experiments import in_place
from snp_lib.models.sites import split_site
from snp_lib.performance import THETA
from snp_lib.results.claims import load_benchmark
from snp_lib.results.families import Families, mean_accuracy, mean_sd, side_by_side, test_accuracy
from snp_lib.results.latency import COLUMNS
from snp_lib.results.sites import site_statistics, snr_rise, training_history
from snp_lib.store import Run


def accuracy_and_latency(families: Mapping[str, Sequence[Run]], times: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against latency: one row per network and batch size.

    Args:
        families: network → its runs, one a seed.
        times: latencies of the same networks, see :func:`snp_lib.results.latency.latencies`.

    Returns:
        Columns network, batch; accuracy (mean over seeds), sd (n − 1) and n; ratio, ratio_low, ratio_high and macs of the
        latencies; on_frontier, whether no other network of the batch is faster and at least as accurate on average.
    """
    reached = side_by_side(families, test_accuracy, "network").groupby("network").accuracy.agg(accuracy="mean", sd="std", n="size")
    table = times[["network", "batch", "ratio", "ratio_low", "ratio_high", "macs", "parameters"]].merge(reached, on="network")

    def stands(row: pd.Series) -> bool:
        return not ((table.batch == row.batch) & (table.ratio < row.ratio) & (table.accuracy >= row.accuracy)).any()

    return table.assign(on_frontier=[stands(row) for _, row in table.iterrows()])


def ratios_in_words(families: Mapping[str, Sequence[Run]], times: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Latency ratios beside accuracy and multiply-accumulates: a row for each network, a column for each form and batch size.

    Args:
        times: form, such as ``eager`` → latencies of these networks.
    """
    forms = pd.concat([table.assign(form=form) for form, table in times.items()])
    words = {name: mean_sd(100 * test_accuracy(runs).accuracy) for name, runs in families.items()}
    macs = next(iter(times.values())).drop_duplicates("network").set_index("network").macs  # as the network is, not compiled
    forms = forms.assign(**{"accuracy (%)": forms.network.map(words), "MACs (million)": (forms.network.map(macs) / 1e6).round(1)})
    return forms.pivot(index=["network", "accuracy (%)", "MACs (million)"], columns=["form", "batch"], values="ratio")


def fastest_as_good(
    reached: pd.DataFrame, times: pd.DataFrame, names: Sequence[str], *, reference: str, slack: float = 0.005
) -> list[float]:
    """For each seed, the latency over the reference's of the fastest network that is as accurate as the reference, but for ``slack``.

    Args:
        reached: of :func:`snp_lib.results.families.accuracy_by_seed`.
        times: latencies; those of the largest batch count.
        names: the rivals; where none is as good, the reference itself is the fastest.
    """
    ratio = times[times.batch == times.batch.max()].set_index("network").ratio
    equal = reached[[reference, *names]].ge(reached[reference] - slack, axis=0)
    return [float(ratio[equal.columns[row]].min()) for row in equal.to_numpy()]


def mean_gain(reached: pd.DataFrame, pairs: Mapping[str, str]) -> list[float]:
    """For each seed, the accuracy of the keys minus that of their controls, mean over the pairs."""
    return (sum(reached[name] - reached[control] for name, control in pairs.items()) / len(pairs)).tolist()  # type: ignore[union-attr]


def gains_in_words(reached: pd.DataFrame, rivals: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Accuracy of each network and what it gains over its rivals at equal seed, in percentage points: mean ± sd in words.

    Args:
        rivals: network → name of a column → the rival.
    """
    percent = 100 * reached
    columns = {
        name: {"accuracy (%)": percent[name]} | {what: percent[name] - percent[rival] for what, rival in others.items()}
        for name, others in rivals.items()
    }
    return pd.DataFrame({name: {column: mean_sd(values) for column, values in row.items()} for name, row in columns.items()}).T


def by_place(families: Families, *, kinds: Sequence[str], theta: float = THETA) -> pd.DataFrame:
    """SNR of nodes by the place of their encoder in the deepest of the networks, counted from the end: a column for each kind of site.

    Returns:
        Columns network, seed, place and the kinds.
    """
    table = side_by_side(families, site_statistics, "network", kinds=kinds, thetas=[theta])
    depths = {name: runs[0].depth for name, runs in families.items()}
    table["place"] = table.block + max(depths.values()) - table.network.map(depths)
    return table.pivot(index=["network", "seed", "place"], columns="kind", values="snr").reset_index()


def readouts_by_place(families: Families, *, kind: str = "mha") -> pd.DataFrame:
    """Readout accuracy at sites of a kind, places as :func:`by_place` counts them: columns network, seed, place, accuracy."""
    deepest, rows = max(runs[0].depth for runs in families.values()), []
    for name, runs in families.items():
        for run in runs:
            key = {"network": name, "seed": run.experiment.seed}
            places = {site: split_site(site)[0] + deepest - run.depth for site in run.sites_of(kind)}
            rows += [key | {"place": place, "accuracy": run.metrics["readout_accuracy"][site]} for site, place in places.items()]
    return pd.DataFrame(rows)


def early_learning(families: Families) -> pd.DataFrame:
    """Both readings of early learning: one row per network and seed.

    Returns:
        Columns network, seed; in time, the training accuracy of the first epoch; in depth, the readout accuracy of the
        attention of the second place, which reads what the first encoder, or what stands for it, has made.
    """
    history = side_by_side(families, training_history, "network")
    keys = ["network", "seed"]
    time = history[history.epoch == 1].set_index(keys).train_accuracy.rename("time")
    places = readouts_by_place(families)
    depth = places[places.place == 2].set_index(keys).accuracy.rename("depth")
    return pd.concat([time, depth], axis=1).reset_index()


def learned_and_sharpened(families: Families, *, kinds: Sequence[str], theta: float = THETA) -> pd.DataFrame:
    """Accuracy on test and training images, in percent, and the rise of the SNR at each kind of site, means over seeds: a row a network."""
    history = side_by_side(families, training_history, "network").groupby(["epoch", "network"], sort=False).train_accuracy.mean().unstack()
    sharp = snr_rise(side_by_side(families, site_statistics, "network", kinds=kinds, thetas=[theta]))
    table = (100 * history.loc[[history.index.min(), history.index.max()]].T).set_axis(["training (%), first epoch", "last epoch"], axis=1)
    table.insert(0, "test (%)", mean_accuracy(families, "network"))
    return table.join(sharp.groupby(["network", "kind"]).rise.mean().unstack().add_prefix("rise of SNR, "))


def gains_over(reached: Mapping[str, pd.DataFrame], reference: str) -> pd.DataFrame:
    """Test accuracy minus that of a reference at equal seed, in percentage points: columns scale, network, seed, points.

    Args:
        reached: scale → of :func:`snp_lib.results.families.accuracy_by_seed`.
    """
    tables = []
    for scale, table in reached.items():
        points = 100 * table.sub(table[reference], axis=0)
        tables.append(points.melt(ignore_index=False, value_name="points").reset_index().assign(scale=scale))
    return pd.concat(tables, ignore_index=True)


def benchmarked(name: str) -> pd.DataFrame:
    """Latencies that ``benchmarks/latencies.py`` kept, with the columns of
    :func:`snp_lib.results.latency.latencies` but threads; raises ReportError."""
    table = pd.DataFrame(load_benchmark(name)["rows"]).rename(columns={"model": "network"})
    return table[~table.compiled][["network", "batch", *COLUMNS]].reset_index(drop=True)


def ratios(timed: Mapping[str, Sequence[pd.DataFrame]], *, batch: int) -> pd.DataFrame:
    """Latencies over the reference's for one batch size, networks in words, without the reference itself.

    Args:
        timed: where → latencies, each table against its first network.

    Returns:
        Columns where, network, ratio, ratio_low, ratio_high; networks in the order of :func:`snp_lib.experiments.in_place`'s words.
    """
    tables = [table[table.batch == batch].iloc[1:].assign(where=where) for where, group in timed.items() for table in group]
    both = pd.concat(tables, ignore_index=True)[["where", "network", "ratio", "ratio_low", "ratio_high"]]
    return both.assign(network=both.network.map(in_place(both.network)))


def early_in_words(early: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Both readings of early learning in percent, mean ± sd over seeds in words: a row for each scale and network.

    Args:
        early: scale → of :func:`early_learning`.
    """
    names = {"time": "training accuracy, first epoch (%)", "depth": "readout behind the next attention (%)"}
    tables = {
        scale: (100 * table.set_index("network")[list(names)]).groupby("network", sort=False).agg(mean_sd).rename(columns=names)
        for scale, table in early.items()
    }
    return stacked(tables)


def stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of networks one under the other: a row for each scale and network."""
    return pd.concat(tables, names=["scale", "network"])
