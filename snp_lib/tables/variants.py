"""Several experiments side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

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
        Two columns more: share, the heads that recognise a label as a share of all heads, mean over labels; noise_share,
        the noise of a head as a share of the elements off the diagonal.
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


def _heads(run: Run) -> int:
    return int(run.manifest["num_heads"])


def _labels(run: Run) -> int:
    return len(run.class_names)
