"""Accuracy and cost of pruned networks, and their masks."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from snp_lib.plots.style import COLORS, CONTROL, legend, panels

ARM_LOOKS = {
    "andc": ("ANDC", COLORS["mha"], "o-"),
    "magnitude": ("largest weights", COLORS["ff_hidden"], "s-"),
    "random clusters": ("random clusters", COLORS["ff"], "^-"),
    "shuffled": ("ANDC mask shuffled", CONTROL, "v:"),
    "fresh": ("ANDC mask, fresh weights", COLORS["block"], "D:"),
}

FORM_LOOKS = {"blocks": ("one product per block", COLORS["ff_hidden"]), "compact": ("dead units removed", COLORS["ff"])}


def pareto(table: pd.DataFrame, columns: dict[str, str]) -> Figure:
    """One panel per column: accuracy against the share of weights kept, one line per arm; mean over seeds ± one standard deviation.

    The dashed line is the intact network, in the same column.
    """
    figure, axes = panels(len(columns))
    for axis, (column, title) in zip(axes, columns.items(), strict=True):
        axis.axhline(100 * table[table.arm == "dense"][column].mean(), color="black", lw=0.9, ls="--", label="intact")
        for arm, (name, color, style) in ARM_LOOKS.items():
            rows = table[table.arm == arm].groupby("theta")[["density", column]]
            if len(rows):
                mean, sd = rows.mean(), rows.std(ddof=1).fillna(0)
                axis.errorbar(mean.density, 100 * mean[column], 100 * sd[column], fmt=style, color=color, ms=4, lw=1.4, label=name)
        ticks = (0.01, 0.03, 0.1, 0.3, 1.0)
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set(xlabel="share of weights kept", ylabel="test accuracy (%)")
        axis.set_title(title, fontsize=11)
        axis.set_ylim(bottom=0)
    legend(figure, axes[0], columns=2)
    return figure


def masks(shown: dict[str, np.ndarray]) -> Figure:
    """Masks side by side as they are given, what is kept in blue."""
    figure, axes = plt.subplots(1, len(shown), figsize=(7.2, 4.6), layout="constrained", squeeze=False)
    for axis, (title, mask) in zip(axes.flat, shown.items(), strict=True):
        axis.imshow(mask, cmap=ListedColormap(["#ffffff", COLORS["mha"]]), vmin=0, vmax=1, interpolation="nearest", aspect="equal")
        axis.set_title(title, fontsize=12)
        axis.set(xlabel="input nodes", xticks=[], yticks=[])
        sns.despine(ax=axis, top=False, right=False)
    axes.flat[0].set_ylabel("output nodes")
    return figure


def removal(table: pd.DataFrame, forms: dict[str, tuple[str, str]], *, xlabel: str, ylabel: str) -> Figure:
    """Shares of the dense cost against the share of weights kept, one line per column; the dotted line is dense, 1."""
    figure, axis = plt.subplots(figsize=(5.6, 3.9), layout="constrained")
    for column, (name, color) in forms.items():
        mean, sd = (getattr(table.groupby("theta")[["density", column]], kind)() for kind in ("mean", "std"))
        axis.errorbar(mean.density, mean[column], sd[column].fillna(0), fmt="o-", color=color, ms=4, lw=1.5, label=name)
    axis.axhline(1, color=CONTROL, lw=0.9, ls=":", label="dense")
    axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None))
    axis.set_ylim(bottom=0)
    legend(figure, axis, columns=2)
    return figure


def latency(table: pd.DataFrame) -> Figure:
    """One panel per batch size: time relative to the dense network against θ, one line per form; mean over seeds ± one standard deviation.

    The grey band is the dense network timed once more, its mean 5th to 95th percentile over rounds.

    Args:
        table: as :func:`snp_lib.tables.pruned_latency` returns it.
    """
    batches = sorted(table.batch.unique())
    figure, axes = panels(len(batches))
    for axis, batch in zip(axes, batches, strict=True):
        here = table[table.batch == batch]
        noise = here[here.form == "dense"]
        axis.axhspan(noise.low.mean(), noise.high.mean(), color=CONTROL, alpha=0.25, lw=0, label="dense again")
        for form, (name, color) in FORM_LOOKS.items():
            ratio = here[here.form == form].groupby("theta").ratio
            axis.errorbar(ratio.mean().index, ratio.mean(), ratio.std(ddof=1).fillna(0), fmt="o-", color=color, ms=4, lw=1.5, label=name)
        axis.axhline(1, color="black", lw=0.8, ls=":")
        axis.set(xlabel="threshold θ", ylabel="time, dense = 1")
        axis.set_title(f"{batch} image{'s' if batch > 1 else ''} at a time", fontsize=11)
        axis.set_ylim(bottom=0)
    legend(figure, axes[0], columns=3)
    return figure
