"""Curves over epochs, encoders and thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from snp_lib.plots.style import COLORS, CONTROL, NAMES, band, epoch_axis, legend, panels, style_legend


def training_curves(history: pd.DataFrame) -> Figure:
    """Accuracy against epoch: one thin line per seed while training, dots where the test split was evaluated."""
    figure, axis = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    for i, (_, rows) in enumerate(history.groupby("seed")):
        axis.plot(rows.epoch, 100 * rows.train_accuracy, color=COLORS["mha"], lw=1.2, label=None if i else "training images, augmented")
        tested = rows.dropna(subset="test_accuracy")
        axis.plot(
            tested.epoch, 100 * tested.test_accuracy, "o-", color=COLORS["ff_hidden"], ms=4, lw=1.2, label=None if i else "test images"
        )
    axis.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, None))
    axis.legend(loc="lower right")
    return figure


def along_blocks(
    table: pd.DataFrame,
    statistics: dict[str, str],
    *,
    kinds: Sequence[str],
    control: pd.DataFrame | None = None,
    blocks: str = "encoder",
) -> Figure:
    """One panel per statistic along the blocks; mean over seeds, band ± one standard deviation, grey the control."""
    figure, axes = panels(len(statistics))
    for axis, (column, label) in zip(axes, statistics.items(), strict=True):
        for kind in kinds:
            band(axis, table[table.kind == kind], "block", column, COLORS[kind], NAMES[kind], "o-")
        for kind in kinds:
            if control is None:
                break
            name = "control: outputs shuffled" if kind == kinds[0] else "_"  # one entry in the legend
            band(axis, control[control.kind == kind], "block", column, CONTROL, name, "s:")
        axis.set(xlabel=blocks, ylabel=label, xticks=sorted(table.block.unique()))
        axis.set_ylim(bottom=0)
    legend(figure, axes[0], columns=1)
    return figure


def theta_sweep(table: pd.DataFrame, statistics: dict[str, str], *, kind: str) -> Figure:
    """Each statistic against θ, one line per encoder from light (first) to dark (last)."""
    return shaded(table[table.kind == kind], "theta", statistics, by="block", name="encoder {}", xlabel="threshold θ", color=COLORS[kind])


def shaded(
    table: pd.DataFrame, x: str, statistics: dict[str, str], *, by: str, name: str, xlabel: str, color: str, style: str = "-"
) -> Figure:
    """One panel per statistic against ``x``, one line per value of the column ``by`` from light (least) to dark (most).

    Args:
        name: of a line, with ``{}`` for the value.
    """
    values = sorted(table[by].unique())
    shades = sns.light_palette(color, n_colors=len(values) + 2)[2:]
    figure, axes = panels(len(statistics))
    for axis, (column, label) in zip(axes, statistics.items(), strict=True):
        for value, shade in zip(values, shades, strict=True):
            band(axis, table[table[by] == value], x, column, shade, name.format(value), style)
        axis.set(xlabel=xlabel, ylabel=label)
        if x == "block":
            axis.set_xticks(sorted(table.block.unique()))
        axis.set_ylim(bottom=0)
    legend(figure, axes[0], columns=3)
    return figure


def histograms(values: dict[str, dict[str, np.ndarray]], *, colors: dict[str, str]) -> Figure:
    """One panel per quantity: shares of units (or clusters) against whole numbers, one outline per group."""
    figure, axes = panels(len(values))
    for axis, (quantity, groups) in zip(axes, values.items(), strict=True):
        top = max(int(v.max(initial=0)) for v in groups.values())
        width = max(1, -(-(top + 1) // 60))
        bins = np.arange(-0.5, top + width + 0.5, width).tolist()
        for group, v in groups.items():
            look = {"stat": "percent", "element": "step", "fill": False, "color": colors[group], "label": group}
            sns.histplot(x=v, bins=bins, ax=axis, **look)
        axis.set(xlabel=quantity, ylabel="share (%)")
    legend(figure, axes[0], columns=2)
    return figure


def against_chance(table: pd.DataFrame, x: str, y: str, chance: str, *, xlabel: str, ylabel: str, names: tuple[str, str]) -> Figure:
    """A measure and what chance gives, mean over the rows of each x, band ± one standard deviation."""
    figure, axis = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    band(axis, table, x, y, COLORS["mha"], names[0], "o-")
    band(axis, table, x, chance, CONTROL, names[1], "s:")
    axis.set(xlabel=xlabel, ylabel=ylabel, xticks=sorted(table[x].unique()))
    axis.set_ylim(bottom=0)
    legend(figure, axis, columns=2)
    return figure


def over_training(table: pd.DataFrame, y: str, *, ylabel: str) -> Figure:
    """A measure against finished epochs, one line per encoder from light (first) to dark (last)."""
    blocks = sorted(table.block.unique())
    shades = sns.light_palette(COLORS["mha"], n_colors=len(blocks) + 2)[2:]
    figure, axis = plt.subplots(figsize=(5.6, 3.9), layout="constrained")
    for block, shade in zip(blocks, shades, strict=True):
        band(axis, table[table.block == block], "epoch", y, shade, f"encoder {block}", "o-")
    axis.axhline(0, color=CONTROL, lw=0.8, ls=":")
    epoch_axis(axis, table)
    axis.set(xlabel="finished epochs", ylabel=ylabel)
    legend(figure, axis, columns=3)
    return figure


def along_blocks_at_stages(table: pd.DataFrame, y: str, *, kinds: Sequence[str], ylabel: str) -> Figure:
    """One panel per kind of site: a measure along the encoders, one line per stage from light (untrained) to dark (trained)."""
    epochs = sorted(table.epoch.unique())
    figure, axes = panels(len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        shades = sns.light_palette(COLORS[kind], n_colors=len(epochs) + 2)[2:]
        for epoch, shade in zip(epochs, shades, strict=True):
            rows = table[(table.kind == kind) & (table.epoch == epoch)]
            name = {0: "untrained", 1: "1 epoch"}.get(epoch, f"{epoch} epochs")
            band(axis, rows, "block", y, shade, name, "o-")
        axis.set(xlabel="encoder", ylabel=ylabel, xticks=sorted(table.block.unique()))
        axis.set_title(NAMES[kind], fontsize=11)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=9, loc="lower left", ncol=2)
    return figure


def trained_and_untrained(table: pd.DataFrame, statistics: dict[str, str], *, kinds: Sequence[str], blocks: str = "encoder") -> Figure:
    """A row of panels per statistic, a column per kind of site: the last epoch of the table in colour, the first in grey."""
    size = (max(1.75 * len(kinds) + 0.7, 4.2), 2.1 * len(statistics) + 0.7)
    figure, axes = plt.subplots(len(statistics), len(kinds), figsize=size, layout="constrained", squeeze=False, sharex=True, sharey="row")
    for row, (column, label) in zip(axes, statistics.items(), strict=True):
        for axis, kind in zip(row, kinds, strict=True):
            rows = table[table.kind == kind]
            band(axis, rows[rows.epoch == rows.epoch.max()], "block", column, COLORS[kind], "trained", "o-")
            band(axis, rows[rows.epoch == rows.epoch.min()], "block", column, CONTROL, "untrained", "s:")
            axis.set(xticks=sorted(table.block.unique()))
        row[0].set_ylabel(label)
        row[0].set_ylim(bottom=0)
    for axis, kind in zip(axes[0], kinds, strict=True):
        axis.set_title(kind, fontsize=12)
    for axis in axes[-1]:
        axis.set_xlabel(blocks)
    style_legend(figure, {"trained (in colour)": "o-", "untrained (grey)": "s:"})
    return figure


def by_kind(table: pd.DataFrame, x: str, y: str, *, kinds: Sequence[str], xlabel: str, ylabel: str, at: float) -> Figure:
    """One line per kind of site, mean over seeds, band ± one standard deviation; dotted the value that means no difference."""
    figure, axis = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    for kind in kinds:
        band(axis, table[table.kind == kind], x, y, COLORS[kind], NAMES[kind], "o-")
    axis.axhline(at, color=CONTROL, lw=0.8, ls=":")
    if x == "epoch":
        epoch_axis(axis, table)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    legend(figure, axis, columns=2)
    return figure


def along_blocks_by(table: pd.DataFrame, y: str, by: str, *, kinds: Sequence[str], ylabel: str) -> Figure:
    """One panel per kind of site, one style of line per value of the column ``by``; where the table has epochs, the last in
    colour and the first in grey."""
    figure, axes = panels(len(kinds))
    values = table[by].unique()
    styles = dict(zip(values, ("o-", "s--", "^:")[: len(values)], strict=True))
    stages = {table.epoch.max(): None, table.epoch.min(): CONTROL} if "epoch" in table else {None: None}
    for axis, kind in zip(axes, kinds, strict=True):
        for epoch, color in stages.items():
            for value, style in styles.items():
                rows = table[(table.kind == kind) & (table[by] == value)]
                band(axis, rows if epoch is None else rows[rows.epoch == epoch], "block", y, color or COLORS[kind], value, style)
        axis.set(xlabel="encoder", ylabel=ylabel, xticks=sorted(table.block.unique()))
        axis.set_title(NAMES[kind], fontsize=11)
        axis.set_ylim(bottom=0)
    style_legend(figure, styles)
    return figure
