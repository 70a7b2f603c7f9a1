"""Single values as dots: by name, by encoder with their intervals, and beside the band that chance allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from snp_lib.plots.curves import AXES, rows_with, values_of
from snp_lib.plots.style import COLORS, CONTROL, distinct, legend, panels


def correlations(table: pd.DataFrame) -> Figure:
    """Rank correlations with their 95 % intervals, one point per seed, side by side at each encoder."""
    figure, (axis,) = panels(1)
    seeds = sorted(table.seed.unique())
    for i, seed in enumerate(seeds):
        rows = table[table.seed == seed]
        place = rows.block + 0.15 * (i - (len(seeds) - 1) / 2)
        axis.vlines(place, rows.low, rows.high, color=COLORS["mha"], lw=1.2, alpha=0.6)
        axis.plot(place, rows.correlation, "o", color=COLORS["mha"], ms=5)
    axis.axhline(0, color=CONTROL, lw=0.8, ls=":")
    axis.set(xlabel="encoder", ylabel="rank correlation", xticks=sorted(table.block.unique()))
    return figure


def dots(
    table: pd.DataFrame,
    x: str,
    y: str,
    *,
    xlabel: str,
    by: str | None = None,
    colors: Mapping[Any, str] | None = None,
    low: str = "",
    high: str = "",
    at: float | None = None,
    band: tuple[float, float] | None = None,
) -> Figure:
    """One line of dots for each value of ``y``, in their order from above: a dot a row, a larger one at the mean of several.

    Args:
        x: column of numbers along the axis.
        by: column whose values lie under each other within a line, each in its colour.
        colors: value of ``by`` → colour, also the order; None: those of :func:`snp_lib.plots.style.distinct`.
        low, high: columns with the ends of a bar across.
        at: a dotted line down, such as the value that means no difference.
        band: ends of a grey band down, within which differences do not matter.
    """
    names, groups = list(dict.fromkeys(table[y])), values_of(table, by)
    chosen = dict(colors or dict(zip(groups, distinct([str(group) for group in groups]).values(), strict=True)))
    figure, axis = plt.subplots(figsize=(5.6, 0.9 + 0.34 * len(names) * max(1, 0.6 * len(groups))), layout="constrained")
    if band is not None:
        axis.axvspan(*band, color=CONTROL, alpha=0.15, lw=0)
    if at is not None:
        axis.axvline(at, color=CONTROL, lw=0.8, ls=":")
    for line, name in enumerate(names):
        for step, group in enumerate(groups):
            rows, color = rows_with(table, {y: name, by: group}), chosen[group]
            height = line + (step - (len(groups) - 1) / 2) * 0.8 / len(groups)
            if low and len(rows):
                axis.plot([rows[low].min(), rows[high].max()], [height] * 2, "-", color=color, lw=1.2)
            axis.plot(rows[x], [height] * len(rows), "o", color=color, ms=4 if len(rows) > 1 else 6, alpha=0.55 if len(rows) > 1 else 1)
            if len(rows) > 1:
                axis.plot([rows[x].mean()], [height], "o", color=color, ms=7)
    axis.set(xlabel=xlabel, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    legend(figure, [(str(group), chosen[group], "o") for group in groups] if by else [])
    return figure


def against_null(table: pd.DataFrame, x: str, ys: Mapping[str, str], *, by: str, colors: Mapping[Any, str], null_name: str) -> Figure:
    """One dot per row beside the band that chance allows, those of one colour side by side; one panel for each of ``ys``.

    Args:
        table: with every column of ``ys`` those that end in ``_chance``, ``_low`` and ``_high``, whose means at an x are drawn in grey.
        ys: column → label of its axis.
        by: column whose values have these colours.
        null_name: entry of the legend for the band.
    """
    figure, axes = panels(len(ys))
    for axis, (column, label) in zip(axes, ys.items(), strict=True):
        if axis is not axes[0]:  # before anything is drawn: later, only the limits of the first would hold
            axis.sharey(axes[0])
        null = table.groupby(x)[[f"{column}_{end}" for end in ("low", "chance", "high")]].mean()
        low, chance, high = (null[name] for name in null)
        axis.fill_between(null.index, low, high, color=CONTROL, alpha=0.25, lw=0)
        axis.plot(null.index, chance, ":", color=CONTROL, lw=1)
        for i, (value, color) in enumerate(colors.items()):
            rows = table[table[by] == value]
            axis.plot(rows[x] + 0.16 * (i - (len(colors) - 1) / 2), rows[column], "o", color=color, ms=5)
        axis.set(xlabel=AXES.get(x, x), ylabel=label, xticks=sorted(table[x].unique()))
    legend(figure, [*((str(value), color, "o") for value, color in colors.items()), (null_name, CONTROL, ":")])
    return figure


def seeds_against_null(table: pd.DataFrame, column: str, *, ylabel: str, name: str, null: str) -> Figure:
    """One point per seed, side by side at each encoder, over the grey range of what chance gives.

    Args:
        table: columns seed, block, ``column``, null_low and null_high, the ends of the range, of which the means over seeds are drawn.
        name, null: what the points and the range are called in the legend.
    """
    figure, (axis,) = panels(1)
    seeds, blocks = sorted(table.seed.unique()), sorted(table.block.unique())
    chance = table.groupby("block")[["null_low", "null_high"]].mean()
    axis.use_sticky_edges = False  # else the lowest bar would seem cut off by the axis
    axis.bar(blocks, chance.null_high - chance.null_low, 0.7, chance.null_low, color=CONTROL, alpha=0.3, lw=0)
    for i, seed in enumerate(seeds):
        rows = table[table.seed == seed]
        axis.plot(rows.block + 0.15 * (i - (len(seeds) - 1) / 2), rows[column], "o", color=COLORS["mha"], ms=5)
    axis.axhline(0, color=CONTROL, lw=0.8, ls=":")
    axis.set(xlabel="encoder", ylabel=ylabel, xticks=blocks)
    legend(figure, [(name, COLORS["mha"], "o"), (null, "#cccccc", "s")], columns=1)
    return figure
