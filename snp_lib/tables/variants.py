"""Several experiments side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from snp_lib.models.sites import split_site
from snp_lib.store import Run
from snp_lib.tables.sites import site_statistics


def side_by_side(families: Mapping[Any, Sequence[Run]], measure: Callable[..., pd.DataFrame], by: str, **options: Any) -> pd.DataFrame:
    """A table of each family of runs, one under the other, with the family's key in column ``by``.

    Args:
        families: key → runs of one experiment.
        measure: makes the table of such runs; ``options`` go to it.
    """
    return pd.concat([measure(runs, **options).assign(**{by: key}) for key, runs in families.items()], ignore_index=True)


def head_statistics(runs: Sequence[Run], **options: Any) -> pd.DataFrame:
    """Averages over the heads of every encoder, with the columns and options of :func:`snp_lib.tables.site_statistics`.

    Returns:
        Also the columns share, the heads that recognise a label as a share of all heads, mean over labels, and
        noise_share, the noise of a head as a share of the elements off the diagonal.
    """
    table = site_statistics(runs, kinds=("mha",), unit="head", **options)
    heads, labels = (pd.Series({run.experiment.seed: value(run) for run in runs}) for value in (_heads, _labels))
    pairs = table.seed.map(labels * (labels - 1))
    return table.assign(share=table.signal / table.seed.map(heads), noise_share=table.noise / pairs)


def accuracies(runs: Sequence[Run]) -> pd.DataFrame:
    """Test accuracy and size of every network: columns seed, accuracy, parameters."""
    rows = [
        {"seed": run.experiment.seed, "accuracy": run.metrics["test_accuracy"], "parameters": run.metrics["parameters"]} for run in runs
    ]
    return pd.DataFrame(rows)


def mean_sd(values: pd.Series) -> str:
    """Mean and standard deviation (n − 1) in words, with two decimals; of one value the value alone."""
    return f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if len(values) > 1 else "")


def depth_of(run: Run) -> int:
    """Encoders of the network of a run."""
    return max(split_site(site)[0] for site in run.sites)


def frontier(families: Mapping[str, Sequence[Run]], times: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against latency: one row per network and batch size.

    Args:
        families: network → its runs, one a seed.
        times: latencies of the same networks, see :func:`snp_lib.speeds.latencies`.

    Returns:
        Columns network, batch; accuracy (mean over seeds), sd (n − 1) and n; ratio, ratio_low, ratio_high and macs of the
        latencies; on_frontier, whether no other network of the batch is faster and at least as accurate on average.
    """
    reached = side_by_side(families, accuracies, "network").groupby("network").accuracy.agg(accuracy="mean", sd="std", n="size")
    table = times[["network", "batch", "ratio", "ratio_low", "ratio_high", "macs", "parameters"]].merge(reached, on="network")

    def stands(row: pd.Series) -> bool:
        return not ((table.batch == row.batch) & (table.ratio < row.ratio) & (table.accuracy >= row.accuracy)).any()

    return table.assign(on_frontier=[stands(row) for _, row in table.iterrows()])


def _heads(run: Run) -> int:
    return int(run.manifest["num_heads"])


def _labels(run: Run) -> int:
    return len(run.class_names)
