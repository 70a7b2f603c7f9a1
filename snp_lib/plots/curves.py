"""Means over seeds with their standard deviation, against epochs, encoders, thresholds or numbers of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snp_lib.plots.style import COLORS, CONTROL, LINE, NAMES, legend, panels

STYLES = ("o-", "s--", "^:")
CONTROL_STYLE = "s:"
AXES = {"block": "encoder", "epoch": "finished epochs", "theta": "threshold θ"}
"""What a column is called below an axis, unless the caller says otherwise."""


def curves(
    table: pd.DataFrame,
    x: str,
    ys: Mapping[str, str],
    *,
    by: str | None = None,
    colors: Mapping[Any, str] | str | None = None,
    names: Mapping[Any, str] | str | None = None,
    panel: str | None = None,
    styles: str | None = None,
    control: pd.DataFrame | None = None,
    control_name: str = "control: outputs shuffled",
    at: float | None = None,
    xlabel: str = "",
    log: bool = False,
    log_y: bool = False,
    columns: int = 2,
    zero: bool = True,
) -> Figure:
    """Lines against ``x``: mean over the rows of equal ``x``, band ± one standard deviation.

    Args:
        ys: column → label of its axis; one panel each.
        by: column whose values are the lines.
        colors: value of ``by`` → colour, which also chooses the values and their order; or one colour, from which shades
            are made from light (first value) to dark (last); None: the colours of kinds of sites, or shades.
        names: value of ``by`` → entry of the legend, or one name with ``{}`` for the value.
        panel: column with one panel for each value; with several ``ys`` a row of panels each.
        styles: column with one style of line for each of its values, at most three.
        control: drawn in grey, dotted unless there are ``styles``, under one entry of the legend.
        at: height of a dotted line across, such as the value that means no difference.
        xlabel: instead of the usual name of ``x``.
        log: ``x`` doubles from tick to tick.
        log_y: the axes of ``ys`` are logarithmic, and begin where their values do.
        columns: of the legend.
        zero: let the axis of ``ys`` begin at zero.
    """
    values = list(colors) if isinstance(colors, Mapping) else _values(table, by)
    shown, looks = _values(table, panel), dict(zip(_values(table, styles), STYLES, strict=False))
    figure, axes = panels(len(ys), len(shown))
    for axis, ((column, label), where) in zip(axes, product(ys.items(), shown), strict=True):
        axis.set(xlabel=xlabel or AXES.get(x, x), ylabel=label)
        shades = _colors(values, colors, where)
        for (value, color), look in product(shades.items(), looks):
            _band(axis, _rows(table, {panel: where, by: value, styles: look}), x, column, color, looks[look])
        if control is not None:
            for value, look in product(_values(control, by), _values(control, styles)):
                style = looks.get(look, CONTROL_STYLE) if styles else CONTROL_STYLE
                rows = _rows(control, {panel: where, by: value, styles: look})
                _band(axis, rows, x, column, CONTROL, style, dots=shades.get(value) if by else None)
        if at is not None:
            axis.axhline(at, color=CONTROL, lw=0.8, ls=":")
        _ticks(axis, table[x], log=log)
        if panel is not None:
            axis.set_title(NAMES.get(where, str(where)) if len(ys) == 1 else str(where) if axis in axes[: len(shown)] else "")
            if len(ys) > 1:  # a grid: what is common stands at its edges
                axis.label_outer()
    for axis in axes if log_y else ():
        axis.set_yscale("log")
    for axis in (
        axes if zero and not log_y else ()
    ):  # once all lines are drawn: a limit set earlier would hold for those that share the axis
        axis.set_ylim(bottom=0)
    common = _colors(values, colors if panel is None or isinstance(colors, Mapping) else "black", None)
    named = {value: names.format(value) if isinstance(names, str) else (names or NAMES).get(value, str(value)) for value in values}
    entries = [(named[value], color, STYLES[0]) for value, color in common.items() if by or names]
    entries += [(str(look), "black", style) for look, style in looks.items() if styles]
    entries += [] if control is None else [(control_name, CONTROL, "-" if styles else CONTROL_STYLE)]
    legend(figure, entries, columns=columns)
    return figure


def _values(table: pd.DataFrame, column: str | None) -> list[Any]:
    """The values of a column, None of none: kinds of sites in the order of the forward pass, numbers by size, others as they come."""
    values = list(table[column].unique()) if column in table else [None]
    if set(values) <= set(COLORS):
        return [kind for kind in COLORS if kind in values]
    return sorted(values) if column in table and pd.api.types.is_numeric_dtype(table[column]) else values


def _colors(values: Sequence[Any], colors: Mapping[Any, str] | str | None, kind: Any) -> dict[Any, Any]:
    """A colour for each value, in a panel of that kind of site."""
    if isinstance(colors, Mapping):
        return dict(colors)
    base = colors or COLORS.get(kind or "mha", COLORS["mha"])
    if len(values) == 1:
        return {values[0]: base}
    if colors is None and set(values) <= set(COLORS):
        return {value: COLORS[value] for value in values}
    return dict(zip(values, sns.light_palette(base, n_colors=len(values) + 2)[2:], strict=True))


def _rows(table: pd.DataFrame, where: dict[str | None, Any]) -> pd.DataFrame:
    """The rows with these values, of the columns that the table has."""
    given = [table[column] == value for column, value in where.items() if column in table]
    return table[np.logical_and.reduce(given)] if given else table


def _band(axis: Axes, rows: pd.DataFrame, x: str, y: str, color: Any, style: str, dots: Any = None) -> None:
    grouped = rows.dropna(subset=y).groupby(x)[y]
    mean, sd = grouped.mean(), grouped.std(ddof=1).fillna(0)
    style = style if len(mean) <= 20 else style.lstrip("os^")  # so many dots would be a thick line
    axis.plot(mean.index, mean, style, color=color, mfc=dots or color, mec=dots or color, **LINE)
    axis.fill_between(mean.index, mean - sd, mean + sd, color=color, alpha=0.2, lw=0)


def _ticks(axis: Axes, x: pd.Series, *, log: bool) -> None:
    """Ticks at the values where they are few; stages of a training double like numbers of heads, but begin at zero."""
    ticks = sorted(x.unique())
    if log:
        axis.set_xscale("log", base=2)
    elif x.name == "epoch" and len(ticks) <= 10:
        axis.set_xscale("symlog", base=2, linthresh=1)
        axis.set_xlim(left=-0.25)
    if log or (len(ticks) <= 10 and pd.api.types.is_integer_dtype(x)):
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()


def histograms(values: dict[str, dict[str, np.ndarray]], *, colors: dict[str, str]) -> Figure:
    """One panel per quantity: shares of units (or clusters) against whole numbers, one outline per group."""
    figure, axes = panels(len(values))
    for axis, (quantity, groups) in zip(axes, values.items(), strict=True):
        top = max(int(v.max(initial=0)) for v in groups.values())
        width = max(1, -(-(top + 1) // 60))
        bins = np.arange(-0.5, top + width + 0.5, width).tolist()
        for group, v in groups.items():
            sns.histplot(x=v, bins=bins, ax=axis, stat="percent", element="step", fill=False, color=colors[group])
        axis.set(xlabel=quantity, ylabel="share (%)")
    legend(figure, [(group, color, "-") for group, color in colors.items()])
    return figure


def scatter(table: pd.DataFrame, x: str, y: str, *, xlabel: str, ylabel: str) -> Figure:
    """One dot per row; dotted the value of no effect, zero."""
    figure, (axis,) = panels(1)
    axis.plot(table[x], table[y], "o", color=COLORS["mha"], ms=5, alpha=0.6)
    axis.axhline(0, color=CONTROL, lw=0.8, ls=":")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure


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
