"""Figures. Everything here draws what it is given and computes nothing but axes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

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


def set_style() -> None:
    """Figure defaults of the book: legible at 400 pixels, 160 dots per inch."""
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=1.05)
    plt.rcParams.update({"figure.dpi": 160, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


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


def along_blocks(table: pd.DataFrame, statistics: dict[str, str], *, kinds: Sequence[str], control: pd.DataFrame | None = None) -> Figure:
    """One panel per statistic against the encoder; mean over seeds, band ± one standard deviation, grey the control."""
    figure, axes = _panels(len(statistics))
    for axis, (column, label) in zip(axes, statistics.items(), strict=True):
        for kind in kinds:
            _band(axis, table[table.kind == kind], "block", column, COLORS[kind], NAMES[kind], "o-")
        for kind in kinds:
            if control is None:
                break
            name = "control: outputs shuffled" if kind == kinds[0] else "_"  # one entry in the legend
            _band(axis, control[control.kind == kind], "block", column, CONTROL, name, "s:")
        axis.set(xlabel="encoder", ylabel=label, xticks=sorted(table.block.unique()))
        axis.set_ylim(bottom=0)
    _legend(figure, axes[0], columns=1)
    return figure


def theta_sweep(table: pd.DataFrame, statistics: dict[str, str], *, kind: str) -> Figure:
    """Each statistic against θ, one line per encoder from light (first) to dark (last)."""
    rows = table[table.kind == kind]
    blocks = sorted(rows.block.unique())
    shades = sns.light_palette(COLORS[kind], n_colors=len(blocks) + 2)[2:]
    figure, axes = _panels(len(statistics))
    for axis, (column, label) in zip(axes, statistics.items(), strict=True):
        for block, shade in zip(blocks, shades, strict=True):
            _band(axis, rows[rows.block == block], "theta", column, shade, f"encoder {block}", "-")
        axis.set(xlabel="threshold θ", ylabel=label)
        axis.set_ylim(bottom=0)
    _legend(figure, axes[0], columns=3)
    return figure


def histograms(values: dict[str, dict[str, np.ndarray]], *, colors: dict[str, str]) -> Figure:
    """One panel per quantity: shares of units (or clusters) against whole numbers, one outline per group."""
    figure, axes = _panels(len(values))
    for axis, (quantity, groups) in zip(axes, values.items(), strict=True):
        top = max(int(v.max(initial=0)) for v in groups.values())
        width = max(1, -(-(top + 1) // 60))
        bins = np.arange(-0.5, top + width + 0.5, width).tolist()
        for group, v in groups.items():
            look = {"stat": "percent", "element": "step", "fill": False, "color": colors[group], "label": group}
            sns.histplot(x=v, bins=bins, ax=axis, **look)
        axis.set(xlabel=quantity, ylabel="share (%)")
    _legend(figure, axes[0], columns=2)
    return figure


def matrix_triptych(raw: np.ndarray, binary: np.ndarray, clusters: Sequence[Sequence[int]]) -> Figure:
    """One unit's matrix as measured, thresholded, and with labels permuted so that clusters stand on the diagonal."""
    order = cluster_order(clusters, len(raw))
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 3.0), layout="constrained")
    limit = np.abs(raw).max()
    axes[0].imshow(raw / limit, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    ink = ListedColormap(["#ffffff", COLORS["mha"]])
    axes[1].imshow(binary, cmap=ink, vmin=0, vmax=1, interpolation="nearest")
    axes[2].imshow(binary[np.ix_(order, order)], cmap=ink, vmin=0, vmax=1, interpolation="nearest")
    start = 0
    for cluster in clusters:
        axes[2].add_patch(Rectangle((start - 0.5, start - 0.5), len(cluster), len(cluster), fill=False, ec="#d55e00", lw=1.5))
        start += len(cluster)
    for axis, title in zip(axes, ("measured", "thresholded", "clusters first"), strict=True):
        axis.set_title(title, fontsize=12)
        axis.set(xlabel="output", xticks=[], yticks=[])
        sns.despine(ax=axis, top=False, right=False)
    axes[0].set_ylabel("true label")
    return figure


def cluster_order(clusters: Sequence[Sequence[int]], labels: int) -> list[int]:
    """Labels permuted for display: the clusters one after the other, then the rest."""
    taken = [label for cluster in clusters for label in cluster]
    return taken + [label for label in range(labels) if label not in set(taken)]


def matrix_pixels(binary: np.ndarray, clusters: Sequence[Sequence[int]], *, ordered: bool) -> np.ndarray:
    """RGB pixels of a thresholded matrix, one per element: clusters orange, noise blue, zero white."""
    pixels = np.ones((*binary.shape, 3))
    pixels[binary] = to_rgb(COLORS["mha"])
    for cluster in clusters:
        pixels[np.ix_(cluster, cluster)] = to_rgb("#d55e00")
    if ordered:
        order = cluster_order(clusters, len(binary))
        pixels = pixels[np.ix_(order, order)]
    return (255 * pixels).astype(np.uint8)


def _band(axis: Axes, rows: pd.DataFrame, x: str, y: str, color: str | tuple[float, ...], label: str, style: str) -> None:
    grouped = rows.groupby(x)[y]
    mean, sd = grouped.mean(), grouped.std(ddof=1).fillna(0)
    axis.plot(mean.index, mean, style, color=color, ms=4, lw=1.5, label=label)
    axis.fill_between(mean.index, mean - sd, mean + sd, color=color, alpha=0.2, lw=0)


def ladder(table: pd.DataFrame) -> Figure:
    """One bar per way, its ratio to the first; lines from the smallest to the largest ratio of a round."""
    figure, axis = plt.subplots(figsize=(5.6, 0.45 * len(table) + 1.0), layout="constrained")
    places = np.arange(len(table))
    axis.barh(places, table["ratio"], color=[CONTROL, *[COLORS["mha"]] * (len(table) - 1)], height=0.6)
    axis.hlines(places, table["from"], table["to"], color="black", lw=1.5)
    axis.set_yticks(places, table["way"])
    axis.invert_yaxis()
    axis.axvline(1, color="black", lw=0.8, ls=":")
    axis.set(xlabel="images a second, relative to the usual loop")
    return figure


def verdict_table(table: pd.DataFrame, *, name: str) -> str:
    """A table of claims as HTML, the verdicts in their colours.

    Args:
        table: a column of verdicts is called ``verdict``, or ends so.
        name: what tells its style apart from that of other tables on the page.
    """
    verdicts: list[Hashable] = [column for column in table if str(column).endswith("verdict")]
    long: list[Hashable] = [column for column in table if column in ("claim", "holds if")]
    short: list[Hashable] = [column for column in table if column not in (*long, "paper")]
    style = table.style.hide(axis="index").set_uuid(name)
    style.map(lambda verdict: f"color: {VERDICTS[verdict]}; font-weight: bold", subset=verdicts)
    style.set_properties(subset=list(table), **{"text-align": "left", "vertical-align": "top"})
    style.set_properties(subset=long, **{"min-width": "11em"})
    style.set_properties(subset=short, **{"min-width": "6em"})
    style.set_table_styles([{"selector": "th", "props": "text-align: left"}])
    return str(style.to_html())


def claim_maps(maps: dict[str, np.ndarray]) -> Figure:
    """One strip per encoder: heads down, labels across, sorted by the head that claims them most; dark is many nodes.

    Every label's claims are shown as shares of its own claims, so that a column says who claims it.
    """
    figure, axes = plt.subplots(len(maps), 1, figsize=(6.4, 1.0 * len(maps) + 0.8), layout="constrained", squeeze=False)
    for axis, (title, claims) in zip(axes.flat, maps.items(), strict=True):
        share = claims / np.maximum(claims.sum(axis=0), 1)
        order = np.lexsort((-share.max(axis=0), share.argmax(axis=0)))
        image = axis.imshow(share[:, order], aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axis.set(ylabel=title, xticks=[], yticks=range(len(claims)), yticklabels=range(1, len(claims) + 1))
        axis.tick_params(labelsize=9, length=0)
    axes.flat[-1].set_xlabel("labels, sorted by the head that claims them most")
    figure.colorbar(image, ax=axes, label="share of the label's claims", shrink=min(1.0, 2.5 / len(maps)))
    return figure


def against_chance(table: pd.DataFrame, x: str, y: str, chance: str, *, xlabel: str, ylabel: str, names: tuple[str, str]) -> Figure:
    """A measure and what chance gives, mean over the rows of each x, band ± one standard deviation."""
    figure, axis = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    _band(axis, table, x, y, COLORS["mha"], names[0], "o-")
    _band(axis, table, x, chance, CONTROL, names[1], "s:")
    axis.set(xlabel=xlabel, ylabel=ylabel, xticks=sorted(table[x].unique()))
    axis.set_ylim(bottom=0)
    _legend(figure, axis, columns=2)
    return figure


def over_training(table: pd.DataFrame, y: str, *, ylabel: str) -> Figure:
    """A measure against finished epochs, one line per encoder from light (first) to dark (last)."""
    blocks = sorted(table.block.unique())
    shades = sns.light_palette(COLORS["mha"], n_colors=len(blocks) + 2)[2:]
    figure, axis = plt.subplots(figsize=(5.6, 3.9), layout="constrained")
    for block, shade in zip(blocks, shades, strict=True):
        _band(axis, table[table.block == block], "epoch", y, shade, f"encoder {block}", "o-")
    axis.axhline(0, color=CONTROL, lw=0.8, ls=":")
    _epoch_axis(axis, table)
    axis.set(xlabel="finished epochs", ylabel=ylabel)
    _legend(figure, axis, columns=3)
    return figure


def along_blocks_at_stages(table: pd.DataFrame, y: str, *, kinds: Sequence[str], ylabel: str) -> Figure:
    """One panel per kind of site: a measure along the encoders, one line per stage from light (untrained) to dark (trained)."""
    epochs = sorted(table.epoch.unique())
    figure, axes = _panels(len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        shades = sns.light_palette(COLORS[kind], n_colors=len(epochs) + 2)[2:]
        for epoch, shade in zip(epochs, shades, strict=True):
            rows = table[(table.kind == kind) & (table.epoch == epoch)]
            name = {0: "untrained", 1: "1 epoch"}.get(epoch, f"{epoch} epochs")
            _band(axis, rows, "block", y, shade, name, "o-")
        axis.set(xlabel="encoder", ylabel=ylabel, xticks=sorted(table.block.unique()))
        axis.set_title(NAMES[kind], fontsize=11)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=9, loc="lower left", ncol=2)
    return figure


def trained_and_untrained(table: pd.DataFrame, statistics: dict[str, str], *, kinds: Sequence[str]) -> Figure:
    """A row of panels per statistic, a column per kind of site: the last epoch of the table in colour, the first in grey."""
    size = (1.75 * len(kinds) + 0.7, 2.1 * len(statistics) + 0.7)
    figure, axes = plt.subplots(len(statistics), len(kinds), figsize=size, layout="constrained", squeeze=False, sharex=True, sharey="row")
    for row, (column, label) in zip(axes, statistics.items(), strict=True):
        for axis, kind in zip(row, kinds, strict=True):
            rows = table[table.kind == kind]
            _band(axis, rows[rows.epoch == rows.epoch.max()], "block", column, COLORS[kind], "trained", "o-")
            _band(axis, rows[rows.epoch == rows.epoch.min()], "block", column, CONTROL, "untrained", "s:")
            axis.set(xticks=sorted(table.block.unique()))
        row[0].set_ylabel(label)
        row[0].set_ylim(bottom=0)
    for axis, kind in zip(axes[0], kinds, strict=True):
        axis.set_title(kind, fontsize=12)
    for axis in axes[-1]:
        axis.set_xlabel("encoder")
    _style_legend(figure, {"trained (in colour)": "o-", "untrained (grey)": "s:"})
    return figure


def by_kind(table: pd.DataFrame, x: str, y: str, *, kinds: Sequence[str], xlabel: str, ylabel: str, at: float) -> Figure:
    """One line per kind of site, mean over seeds, band ± one standard deviation; dotted the value that means no difference."""
    figure, axis = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    for kind in kinds:
        _band(axis, table[table.kind == kind], x, y, COLORS[kind], NAMES[kind], "o-")
    axis.axhline(at, color=CONTROL, lw=0.8, ls=":")
    if x == "epoch":
        _epoch_axis(axis, table)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    _legend(figure, axis, columns=2)
    return figure


def along_blocks_by(table: pd.DataFrame, y: str, by: str, *, kinds: Sequence[str], ylabel: str) -> Figure:
    """One panel per kind of site, one style of line per value of the column ``by``; where the table has epochs, the last in
    colour and the first in grey."""
    figure, axes = _panels(len(kinds))
    values = table[by].unique()
    styles = dict(zip(values, ("o-", "s--", "^:")[: len(values)], strict=True))
    stages = {table.epoch.max(): None, table.epoch.min(): CONTROL} if "epoch" in table else {None: None}
    for axis, kind in zip(axes, kinds, strict=True):
        for epoch, color in stages.items():
            for value, style in styles.items():
                rows = table[(table.kind == kind) & (table[by] == value)]
                _band(axis, rows if epoch is None else rows[rows.epoch == epoch], "block", y, color or COLORS[kind], value, style)
        axis.set(xlabel="encoder", ylabel=ylabel, xticks=sorted(table.block.unique()))
        axis.set_title(NAMES[kind], fontsize=11)
        axis.set_ylim(bottom=0)
    _style_legend(figure, styles)
    return figure


def correlations(table: pd.DataFrame) -> Figure:
    """Rank correlations with their 95 % intervals, one point per seed, side by side at each encoder."""
    figure, axis = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    seeds = sorted(table.seed.unique())
    for i, seed in enumerate(seeds):
        rows = table[table.seed == seed]
        place = rows.block + 0.15 * (i - (len(seeds) - 1) / 2)
        axis.vlines(place, rows.low, rows.high, color=COLORS["mha"], lw=1.2, alpha=0.6)
        axis.plot(place, rows.correlation, "o", color=COLORS["mha"], ms=5)
    axis.axhline(0, color=CONTROL, lw=0.8, ls=":")
    axis.set(xlabel="encoder", ylabel="rank correlation", xticks=sorted(table.block.unique()))
    return figure


def ablation_accuracy(table: pd.DataFrame) -> Figure:
    """Accuracy with heads switched off against the encoder, one line per variant; mean over seeds, band ± one standard deviation."""
    figure, axis = plt.subplots(figsize=(5.6, 3.9), layout="constrained")
    looks = ((CONTROL, "s:"), (COLORS["ff"], "o-"), (COLORS["ff_hidden"], "o-"), (COLORS["mha"], "o-"))
    percent = table.assign(percent=100 * table.accuracy)
    for variant, (color, style) in zip(table.variant.unique(), looks, strict=True):
        _band(axis, percent[percent.variant == variant], "block", "percent", color, variant, style)
    axis.set(xlabel="encoder whose heads are switched off", ylabel="test accuracy (%)", xticks=sorted(table.block.unique()))
    axis.set_ylim(bottom=0)
    _legend(figure, axis, columns=2)
    return figure


ARM_LOOKS = {
    "andc": ("ANDC", COLORS["mha"], "o-"),
    "magnitude": ("largest weights", COLORS["ff_hidden"], "s-"),
    "random clusters": ("random clusters", COLORS["ff"], "^-"),
    "shuffled": ("ANDC mask shuffled", CONTROL, "v:"),
    "fresh": ("ANDC mask, fresh weights", COLORS["block"], "D:"),
}


def pareto(table: pd.DataFrame, columns: dict[str, str]) -> Figure:
    """One panel per column: accuracy against the share of weights kept, one line per arm; mean over seeds ± one standard deviation.

    The dashed line is the intact network, in the same column.
    """
    figure, axes = _panels(len(columns))
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
    _legend(figure, axes[0], columns=2)
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
    _legend(figure, axis, columns=2)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """At most two panels side by side, so that letters stay legible when the page is 400 pixels wide."""
    columns = 1 if count == 1 else 2
    rows = -(-count // columns)
    size = (5.6, 3.9) if count == 1 else (6.4, 2.5 * rows + 0.9)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, list(axes.flat[:count])


def _epoch_axis(axis: Axes, table: pd.DataFrame) -> None:
    axis.set_xscale("symlog", base=2, linthresh=1)
    epochs = sorted(table.epoch.unique())
    axis.set_xticks(epochs, [str(epoch) for epoch in epochs])


def _style_legend(figure: Figure, styles: dict[str, str]) -> None:
    """A legend of line styles alone, for panels of several colours."""
    handles = [Line2D([], [], color="black", marker=style[0], ls=style[1:], ms=4, lw=1.5, label=name) for name, style in styles.items()]
    figure.legend(handles=handles, loc="outside upper center", ncol=len(handles), fontsize=11)


def _legend(figure: Figure, axis: Axes, *, columns: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncol=columns if len(labels) > 2 else 2, fontsize=11)
