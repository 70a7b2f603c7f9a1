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


def lines(
    table: pd.DataFrame, x: str, statistics: dict[str, str], *, by: str, colors: dict[str, str], xlabel: str, columns: int = 1
) -> Figure:
    """One panel per statistic against ``x``, one line per value of the column ``by``; mean over rows, band ± one standard deviation.

    Args:
        colors: value → its colour.
        columns: of the legend.
    """
    figure, axes = panels(len(statistics))
    for axis, (column, label) in zip(axes, statistics.items(), strict=True):
        for value, color in colors.items():
            band(axis, table[table[by] == value].dropna(subset=column), x, column, color, value, "o-")
        axis.set(xlabel=xlabel, ylabel=label)
        if table[x].nunique() <= 10:
            axis.set_xticks(sorted(table[x].unique()))
    legend(figure, axes[0], columns=columns)
    return figure


def frontier(table: pd.DataFrame, *, colors: dict[str, str]) -> Figure:
    """One panel per batch size: test accuracy (mean ± one standard deviation) against latency, 1 for the reference.

    The line joins the networks that none beats in both; bars across are the 5th to 95th percentile over rounds of timing.

    Args:
        table: as :func:`snp_lib.tables.frontier` returns it.
        colors: network → its colour.
    """
    batches = sorted(table.batch.unique())
    figure, axes = panels(len(batches))
    for axis, batch in zip(axes, batches, strict=True):
        here = table[table.batch == batch].sort_values("ratio")
        best = here[here.on_frontier]
        axis.plot(best.ratio, 100 * best.accuracy, "-", color=CONTROL, lw=1, zorder=1)
        for _, row in here.iterrows():
            across = [[row.ratio - row.ratio_low], [row.ratio_high - row.ratio]]
            up = 0 if pd.isna(row.sd) else 100 * row.sd
            look = {"fmt": "o", "color": colors[row.network], "ms": 5, "lw": 1.2, "label": row.network}
            axis.errorbar([row.ratio], [100 * row.accuracy], up, across, **look)
        axis.set(xlabel="latency, all encoders = 1", ylabel="test accuracy (%)")
        axis.set_title(f"{batch} image{'s' if batch > 1 else ''} at a time", fontsize=11)
    handles = dict(sorted(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True), key=lambda pair: list(colors).index(pair[0])))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncol=2, fontsize=10)
    return figure


def scatter(table: pd.DataFrame, x: str, y: str, *, xlabel: str, ylabel: str) -> Figure:
    """One dot per row; dotted the value of no effect, zero."""
    figure, axis = plt.subplots(figsize=(5.6, 3.9), layout="constrained")
    axis.plot(table[x], table[y], "o", color=COLORS["mha"], ms=5, alpha=0.6)
    axis.axhline(0, color=CONTROL, lw=0.8, ls=":")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure
