"""Several experiments side by side."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from snp_lib.plots.style import COLORS, CONTROL, band, legend, panels


def against_control(
    table: pd.DataFrame, control: pd.DataFrame, x: str, statistics: dict[str, str], *, xlabel: str, names: tuple[str, str]
) -> Figure:
    """One panel per statistic against ``x``, doubling from tick to tick: as measured, and grey the control."""
    figure, axes = panels(len(statistics))
    ticks = sorted(table[x].unique())
    for axis, (column, label) in zip(axes, statistics.items(), strict=True):
        band(axis, table, x, column, COLORS["mha"], names[0], "o-")
        band(axis, control, x, column, CONTROL, names[1], "s:")
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set(xlabel=xlabel, ylabel=label)
        axis.set_ylim(bottom=0)
    legend(figure, axes[0], columns=2)
    return figure


def points(table: pd.DataFrame, x: str, y: str, *, xlabel: str, ylabel: str) -> Figure:
    """One point per row against ``x``, doubling from tick to tick, and a line through the means."""
    figure, axis = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    means = table.groupby(x)[y].mean()
    axis.plot(means.index, means, "-", color=COLORS["mha"], lw=1.5)
    axis.plot(table[x], table[y], "o", color=COLORS["mha"], ms=5, alpha=0.6)
    axis.set_xscale("log", base=2)
    axis.set_xticks(means.index, [str(tick) for tick in means.index])
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def by_size(table: pd.DataFrame, statistics: dict[str, str], *, kinds: dict[str, str]) -> Figure:
    """One panel per statistic against the size of a committee, one line per kind; mean over draws, band ± one standard deviation.

    Args:
        kinds: kind of committee → its colour.
    """
    figure, axes = panels(len(statistics))
    for axis, (column, label) in zip(axes, statistics.items(), strict=True):
        for kind, color in kinds.items():
            band(axis, table[table.kind == kind].dropna(subset=column), "size", column, color, kind, "o-")
        axis.set(xlabel="members", ylabel=label, xticks=sorted(table["size"].unique()))
    legend(figure, axes[0], columns=1)
    return figure


def scatter(table: pd.DataFrame, x: str, y: str, *, xlabel: str, ylabel: str) -> Figure:
    """One dot per row; dotted the value of no effect, zero."""
    figure, axis = plt.subplots(figsize=(5.6, 3.9), layout="constrained")
    axis.plot(table[x], table[y], "o", color=COLORS["mha"], ms=5, alpha=0.6)
    axis.axhline(0, color=CONTROL, lw=0.8, ls=":")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure
