"""Colours, names and legends that all figures share."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLORS = {
    "mha": "#0173b2",
    "attention": "#0173b2",
    "ff_hidden": "#de8f05",
    "ff": "#029e73",
    "block": "#cc78bc",
}  # seaborn's colour-blind-safe palette


NAMES = {
    "mha": "attention heads (mha)",
    "attention": "attention output (attention)",
    "ff_hidden": "hidden layer (ff_hidden)",
    "ff": "feed-forward output (ff)",
    "block": "residual stream (block)",
}


CONTROL = "#777777"


VERDICTS = {"reproduced": "#029e73", "partly": "#b06f00", "not reproduced": "#d55e00", "not yet measured": "#777777"}


def distinct(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, told apart as well as so many can be; the first ten are colour-blind-safe."""
    base = sns.color_palette("colorblind").as_hex()
    more = sns.husl_palette(max(0, len(names) - len(base))).as_hex()
    return dict(zip(names, [*base, *more], strict=False))


def set_style() -> None:
    """Figure defaults of the book: legible at 400 pixels, 160 dots per inch."""
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=1.05)
    plt.rcParams.update({"figure.dpi": 160, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


def band(axis: Axes, rows: pd.DataFrame, x: str, y: str, color: str | tuple[float, ...], label: str, style: str) -> None:
    grouped = rows.groupby(x)[y]
    mean, sd = grouped.mean(), grouped.std(ddof=1).fillna(0)
    axis.plot(mean.index, mean, style, color=color, ms=4, lw=1.5, label=label)
    axis.fill_between(mean.index, mean - sd, mean + sd, color=color, alpha=0.2, lw=0)


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """At most two panels side by side, so that letters stay legible when the page is 400 pixels wide."""
    columns = 1 if count == 1 else 2
    rows = -(-count // columns)
    size = (5.6, 3.9) if count == 1 else (6.4, 2.5 * rows + 0.9)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, list(axes.flat[:count])


def epoch_axis(axis: Axes, table: pd.DataFrame) -> None:
    axis.set_xscale("symlog", base=2, linthresh=1)
    epochs = sorted(table.epoch.unique())
    axis.set_xticks(epochs, [str(epoch) for epoch in epochs])


def style_legend(figure: Figure, styles: dict[str, str]) -> None:
    """A legend of line styles alone, for panels of several colours."""
    handles = [Line2D([], [], color="black", marker=style[0], ls=style[1:], ms=4, lw=1.5, label=name) for name, style in styles.items()]
    figure.legend(handles=handles, loc="outside upper center", ncol=len(handles), fontsize=11)


def legend(figure: Figure, axis: Axes, *, columns: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncol=columns if len(labels) > 2 else 2, fontsize=11)
