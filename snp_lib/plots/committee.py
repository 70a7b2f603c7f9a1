"""What committees gain by what their members share, and what accuracy costs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.pyplot import subplots

from snp_lib.plots.style import CONTROL, distinct, panels

WRAP = 30  # letters of a row's name on one line
ROOM = 8.0  # times the largest cost, for the names at the ends of lines


def gains(table: pd.DataFrame, *, xlabel: str) -> Figure:
    """One row per cell of a crossed design: the gain, thick its interval over networks, thin that over seeds; a colour per scale.

    Args:
        table: as :func:`snp_lib.results.shared.cells_of` returns it; a row without an interval is an open dot.
    """
    cells, scales = list(dict.fromkeys(table.cell)), list(dict.fromkeys(table.scale))
    colors, step = distinct(scales), 0.34
    figure, axis = subplots(figsize=(6.4, 0.52 * len(cells) + 0.9), layout="constrained")
    named = set()
    for _, row in table.iterrows():
        several = list(table[table.cell == row.cell].scale)
        y = cells.index(row.cell) + step * (several.index(row.scale) - (len(several) - 1) / 2)
        color, sure = colors[row.scale], pd.notna(row.low)
        axis.plot([row.seeds_low, row.seeds_high], [y, y], "-", color=color, lw=1.2)
        axis.plot([row.low, row.high], [y, y], "-", color=color, lw=4, alpha=0.45, solid_capstyle="butt")
        axis.plot([row.gain], [y], "o", color=color, mfc=color if sure else "white", ms=6)
        if row.scale not in named and len(several) == len(scales):
            right = max(end for end in (row.gain, row.high, row.seeds_high) if pd.notna(end))
            axis.annotate(row.scale, (right, y), (6, 0), textcoords="offset points", va="center", color=color, fontsize=11)
            named.add(row.scale)
    axis.set_yticks(range(len(cells)), [textwrap.fill(cell, WRAP) for cell in cells], fontsize=10)
    axis.set(xlabel=xlabel, xlim=(0, None), ylim=(len(cells) - 0.4, -0.6))
    return figure


def cost(committees: pd.DataFrame, singles: pd.DataFrame, *, names: Mapping[str, str], labels: Mapping[str, str]) -> Figure:
    """Accuracy against the multiply-accumulates of all members: a line per family of committees, open dots for single networks.

    Args:
        committees: as :func:`snp_lib.results.committee.accuracy_and_cost` returns it.
        singles: as :func:`snp_lib.results.committee.single_networks` returns it.
        names: family of committees → what stands at the end of its line, with ``{}`` for the size of its largest.
        labels: single network → what stands beside its dot.
    """
    figure, (axis,) = panels(1)
    figure.set_size_inches(6.4, 4.6)
    colors = distinct(list(names))
    text: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 10}
    for _, one in singles.iterrows():
        dot, color = (one.macs / 1e6, 100 * one.accuracy), colors.get(one.family, CONTROL)
        axis.plot(*dot, "o", color=color, mfc="white", ms=6)
        if one.network in labels:
            axis.annotate(labels[one.network], dot, (-7, 0), ha="right", color=color, **text)
    for family, name in names.items():
        rows = committees[committees.family == family]
        axis.plot(rows.macs / 1e6, 100 * rows.accuracy, ".-", color=colors[family], lw=1.5, ms=8)
        for _, last in rows.tail(1).iterrows():
            axis.annotate(name.format(last["size"]), (last.macs / 1e6, 100 * last.accuracy), (7, 0), color=colors[family], **text)
    costs = pd.concat([committees.macs, singles.macs]) / 1e6
    axis.set_xscale("log")
    axis.set(
        xlabel="multiply-accumulates of all members (millions)", ylabel="test accuracy (%)", xlim=(costs.min() / 2.5, costs.max() * ROOM)
    )
    axis.xaxis.set_major_formatter("{x:g}")
    return figure
