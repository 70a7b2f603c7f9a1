"""What switching heads off costs."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from snp_lib.plots.style import COLORS, CONTROL, band, legend


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
        band(axis, percent[percent.variant == variant], "block", "percent", color, variant, style)
    axis.set(xlabel="encoder whose heads are switched off", ylabel="test accuracy (%)", xticks=sorted(table.block.unique()))
    axis.set_ylim(bottom=0)
    legend(figure, axis, columns=2)
    return figure
