"""One dot a row, where two measures of the same thing are held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from snp_lib.plots.style import COLORS, CONTROL, NAMES, distinct, legend, panels

PERCENT = (1, 3, 10, 30, 70, 90, 97)
"""Ticks of an axis of log-odds, in percent."""

LEAST = 0.005  # of a share on such an axis, and of what is missing to one


def clouds(
    table: pd.DataFrame,
    x: str,
    y: str,
    *,
    xlabel: str,
    ylabel: str,
    by: str | None = None,
    names: Mapping[Any, str] | None = None,
    panel: str | None = None,
    hollow: str | None = None,
    hollow_name: str = "",
    labels: str | None = None,
    odds: bool = False,
    log: bool = False,
) -> Figure:
    """Dots of ``y`` against ``x``, one for each row that has both.

    Args:
        by: column whose values have colours of their own, those of kinds of sites where it names these.
        names: value of ``by`` → entry of the legend.
        panel: column with one panel for each value.
        hollow: column that says which dots are rings, named ``hollow_name`` in the legend.
        labels: column whose values are written beside the mean of their dots, joined by a line in the order of the table.
        odds: both are shares in [0, 1], drawn as log-odds in percent, with the line on which they are equal.
        log: ``x`` on a logarithmic axis.
    """
    shown = list(table[panel].unique()) if panel else [None]
    values = list(table[by].unique()) if by else [None]
    groups = [str(value) for value in values]
    colors = {group: COLORS[group] for group in groups} if set(groups) <= set(COLORS) else distinct(groups)
    figure, axes = panels(len(shown))
    for axis, where in zip(axes, shown, strict=True):
        rows = (table[table[panel] == where] if panel else table).dropna(subset=[x, y])
        for value in values:
            of_value = rows[rows[by] == value] if by else rows
            color = colors[str(value)] if by else COLORS["mha"]
            rings = of_value[hollow].astype(bool).to_numpy() if hollow else np.zeros(len(of_value), dtype=bool)
            for chosen, face in ((~rings, color), (rings, "none")):
                axis.plot(*_places(of_value[chosen], x, y, odds=odds), "o", mec=color, mfc=face, ms=4.5, alpha=0.75, mew=0.9)
        if labels:
            axis.margins(0.15)  # for the names
            _write_names(axis, rows.groupby(labels, sort=False)[[x, y]].mean())
        axis.set(xlabel=xlabel, ylabel=ylabel, title=where or "")
        if log:
            axis.set_xscale("log")
            _plain_ticks(axis, rows[x])
        if odds:
            _as_odds(axis)
    named = NAMES | {str(value): name for value, name in (names or {}).items()}
    entries = [(named.get(str(value), str(value)), colors[str(value)], "o") for value in values if by]
    legend(figure, entries, columns=2)
    if hollow and table[hollow].astype(bool).any():
        for handle in [] if not figure.legends else figure.legends[0].legend_handles:
            handle.set_linestyle("none")  # type: ignore[union-attr]
        axes[-1].plot([], [], "o", mec=CONTROL, mfc="none", label=hollow_name)
        axes[-1].legend(loc="best", fontsize=9)
    return figure


def strips(table: pd.DataFrame, x: str, by: str, *, xlabel: str, strong: Sequence[str] = ()) -> Figure:
    """One line of dots for each value of ``by``, the smallest mean on top; a bar marks the mean.

    Args:
        strong: values drawn in colour, all others are controls and grey.
    """
    order = table.groupby(by)[x].mean().sort_values()
    figure, axis = plt.subplots(figsize=(5.6, 0.36 * len(order) + 1.1), layout="constrained")
    for place, (value, mean) in enumerate(order.items()):
        color = COLORS["mha"] if value in strong else CONTROL
        axis.plot([mean, mean], [place - 0.3, place + 0.3], "-", color=color, lw=2)
        own = table[table[by] == value][x]
        axis.plot(own, np.full(len(own), place), "o", color=color, ms=5, alpha=0.6)
    axis.set_yticks(range(len(order)), [str(value) for value in order.index])
    axis.invert_yaxis()
    axis.set(xlabel=xlabel, xlim=(0, None))
    return figure


def _places(rows: pd.DataFrame, x: str, y: str, *, odds: bool) -> list[np.ndarray]:
    return [np.clip(rows[c].to_numpy(float), LEAST, 1 - LEAST) if odds else rows[c].to_numpy(float) for c in (x, y)]


def _write_names(axis: Axes, means: pd.DataFrame) -> None:
    """A line through the means and the name of each beside it."""
    axis.plot(*means.to_numpy().T, "-", color=CONTROL, lw=1, zorder=0)
    for name, (x, y) in zip(means.index, means.to_numpy(), strict=True):
        axis.annotate(str(name), (x, y), xytext=(7, -9), textcoords="offset points", fontsize=9)


def _plain_ticks(axis: Axes, values: pd.Series) -> None:
    """Ticks at 1, 2, 3 and 5 times powers of ten within the values."""
    low, high = values.min(), values.max()
    ticks = [m * 10.0**power for power in range(-3, 5) for m in (1, 2, 3, 5) if low / 1.5 <= m * 10.0**power <= high * 1.5]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def _as_odds(axis: Axes) -> None:
    ends = (LEAST * 0.8, 1 - LEAST * 0.8)
    ticks = [percent / 100 for percent in PERCENT]
    for scale, ticked, limits in ((axis.set_xscale, axis.set_xticks, axis.set_xlim), (axis.set_yscale, axis.set_yticks, axis.set_ylim)):
        scale("logit")
        ticked(ticks, [str(percent) for percent in PERCENT])
        limits(*ends)
    for of_axis in (axis.xaxis, axis.yaxis):
        of_axis.set_minor_locator(NullLocator())
    axis.plot(ends, ends, "-", color=CONTROL, lw=0.9, zorder=0)
