"""Accuracy and cost of networks, pruned or with other front ends, and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from snp_lib.plots.style import COLORS, CONTROL, LINE, legend, panels

ARM_LOOKS = {
    "andc": ("ANDC", COLORS["mha"], "o-"),
    "magnitude": ("largest weights", COLORS["ff_hidden"], "s-"),
    "random clusters": ("random clusters", COLORS["ff"], "^-"),
    "shuffled": ("ANDC mask shuffled", CONTROL, "v:"),
    "fresh": ("ANDC mask, fresh weights", COLORS["block"], "D:"),
}

FILTER_LOOKS = {
    "afcc": ("AFCC", COLORS["mha"], "o-"),
    "magnitude": ("largest weights", COLORS["ff_hidden"], "s-"),
    "random clusters": ("five random labels a filter", COLORS["ff"], "^-"),
    "shuffled": ("AFCC connections shuffled", CONTROL, "v:"),
    "fresh": ("AFCC connections, fresh weights", COLORS["block"], "D:"),
    "l1": ("connections by L1 norm", COLORS["ff_hidden"], "s-"),
    "taylor": ("connections by Taylor", COLORS["ff"], "^-"),
    "l1 filters": ("whole filters by L1 norm", COLORS["ff_hidden"], "s:"),
    "taylor filters": ("whole filters by Taylor", COLORS["ff"], "^:"),
}
"""Looks of the arms of paper C."""

FORM_LOOKS = {
    "kept": ("weights kept (no dense product reaches it)", COLORS["mha"]),
    "blocks": ("one product per block", COLORS["ff_hidden"]),
    "compact": ("dead units removed", COLORS["ff"]),
}


def pareto(table: pd.DataFrame, columns: Mapping[str, str]) -> Figure:
    """One panel per column: accuracy against the share of weights kept, one line per arm; mean over seeds ± one standard deviation.

    The dashed line is the intact network, in the same column.
    """
    figure, axes = panels(len(columns))
    looks = FILTER_LOOKS if "afcc" in set(table.arm) else ARM_LOOKS
    shown = {arm: look for arm, look in looks.items() if arm in set(table.arm)}
    percent = table.assign(**{column: 100 * table[column] for column in columns})
    for axis, (column, title) in zip(axes, columns.items(), strict=True):
        axis.axhline(percent[percent.arm == "dense"][column].mean(), color="black", lw=0.9, ls="--")
        for arm, (_, color, style) in shown.items():
            _bars(axis, percent[percent.arm == arm], "density", column, color, style)
        ticks = (0.01, 0.03, 0.1, 0.3, 1.0)
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set(xlabel="share of weights kept", ylabel="test accuracy (%)", title=title, ylim=(0, None))
    legend(figure, [("intact", "black", "--"), *shown.values()])
    return figure


def masks(shown: dict[str, np.ndarray]) -> Figure:
    """Masks side by side as they are given, what is kept in blue."""
    figure, axes = plt.subplots(1, len(shown), figsize=(7.2, 4.6), layout="constrained", squeeze=False)
    for axis, (title, mask) in zip(axes.flat, shown.items(), strict=True):
        axis.imshow(mask, cmap=ListedColormap(["#ffffff", COLORS["mha"]]), vmin=0, vmax=1, interpolation="nearest", aspect="equal")
        axis.set(xlabel="input nodes", xticks=[], yticks=[], title=title)
        sns.despine(ax=axis, top=False, right=False)
    axes.flat[0].set_ylabel("output nodes")
    return figure


def removal(table: pd.DataFrame) -> Figure:
    """Multiply-accumulates as shares of the dense ones against the share of weights kept; the dotted line is dense, 1.

    Args:
        table: one arm of :func:`snp_lib.results.pruning.pruned_accuracy`.
    """
    figure, (axis,) = panels(1)
    for column, (_, color) in FORM_LOOKS.items():
        _bars(axis, table, "density", column, color)
    axis.axhline(1, color=CONTROL, lw=0.9, ls=":")
    axis.set(xlabel="share of weights kept", ylabel="share of the dense MACs", xlim=(0, None), ylim=(0, None))
    legend(figure, [*((*look, "o-") for look in FORM_LOOKS.values()), ("dense", CONTROL, ":")])
    return figure


def latency(table: pd.DataFrame) -> Figure:
    """One panel per batch size: time relative to the dense network against θ, one line per form; mean over seeds ± one standard deviation.

    The grey band is the dense network timed once more, its mean 5th to 95th percentile over rounds.

    Args:
        table: as :func:`snp_lib.results.latency.pruned_latency` returns it.
    """
    batches = sorted(table.batch.unique())
    figure, axes = panels(len(batches))
    shown = {form: look for form, look in FORM_LOOKS.items() if form in set(table.form)}
    for axis, batch in zip(axes, batches, strict=True):
        here = table[table.batch == batch]
        noise = here[here.form == "dense"]
        axis.axhspan(noise.low.mean(), noise.high.mean(), color=CONTROL, alpha=0.25, lw=0)
        for form, (_, color) in shown.items():
            _bars(axis, here[here.form == form], "theta", "ratio", color)
        axis.axhline(1, color="black", lw=0.8, ls=":")
        axis.set(xlabel="threshold θ", ylabel="time, dense = 1", title=_at_a_time(batch), ylim=(0, None))
    legend(figure, [("dense again", "#dddddd", "s"), *((*look, "o-") for look in shown.values())], columns=3)
    return figure


def _bars(axis: Axes, rows: pd.DataFrame, x: str, y: str, color: str, style: str = "o-") -> None:
    """A line through the means of each θ, with bars of one standard deviation."""
    mean, sd = rows.groupby("theta")[[x, y]].mean(), rows.groupby("theta")[y].std(ddof=1).fillna(0)
    axis.errorbar(mean[x], mean[y], sd, fmt=style, color=color, **LINE)


def _at_a_time(batch: Any) -> str:
    return f"{batch} image{'s' if batch > 1 else ''} at a time"
