"""Colours, names, panels and legends that all figures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLORS = {"mha": "#0173b2", "attention": "#0173b2", "ff_hidden": "#de8f05", "ff": "#029e73", "block": "#cc78bc"}
COLORS |= {"feed-forward": COLORS["ff"], "convolution": COLORS["block"]}
"""Kinds of sites, and of residual units, in the order of the forward pass, in seaborn's colour-blind-safe palette."""

NAMES = {
    "mha": "attention heads (mha)",
    "attention": "attention output (attention)",
    "ff_hidden": "hidden layer (ff_hidden)",
    "ff": "feed-forward output (ff)",
    "block": "residual stream (block)",
}

CONTROL = "#777777"

LINE: dict[str, Any] = {"ms": 4, "lw": 1.5}

VERDICTS = {"reproduced": "#029e73", "undecided": "#b06f00", "not reproduced": "#d55e00", "not yet measured": "#777777"}


def distinct(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, told apart as well as so many can be; the first ten are colour-blind-safe."""
    base = sns.color_palette("colorblind").as_hex()
    more = sns.husl_palette(max(0, len(names) - len(base))).as_hex()
    return dict(zip(names, [*base, *more], strict=False))


def set_style() -> None:
    """Figure defaults of the book: legible at 400 pixels, 160 dots per inch."""
    look = {"figure.dpi": 160, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=1.05, rc=look)


def panels(count: int, across: int = 1) -> tuple[Figure, list[Axes]]:
    """At most two panels side by side, so that letters stay legible when the page is 400 pixels wide.

    Args:
        across: panels for each of ``count``; where both are several, each has a row of its own with a common axis.
    """
    total, grid = count * across, count > 1 and across > 1
    columns = across if grid else min(total, 2)
    rows = -(-total // columns)
    size = (1.75 * columns + 0.7, 2.1 * rows + 0.7) if grid else (5.6, 3.9) if total == 1 else (6.4, 2.5 * rows + 0.9)
    sharey: Literal["row", "none"] = "row" if grid else "none"
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharex=grid, sharey=sharey)
    for axis in axes.flat[total:]:
        axis.axis("off")
    return figure, list(axes.flat[:total])


def legend(figure: Figure, entries: Sequence[tuple[str, Any, str]], *, columns: int = 2) -> None:
    """A legend above the panels, of names, colours and styles such as ``o-``, a marker or none and a line or none."""
    handles = [
        Line2D([], [], color=color, marker=style.rstrip("-:"), ls=style.lstrip("os^vD"), label=name, **LINE)
        for name, color, style in entries
    ]
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncol=columns if len(handles) > 2 else 2, fontsize=11)
