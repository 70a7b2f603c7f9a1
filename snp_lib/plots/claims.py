"""Verdicts and benchmarks for the page."""

from __future__ import annotations

from collections.abc import Hashable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from snp_lib.plots.style import COLORS, CONTROL, VERDICTS


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
    short: list[Hashable] = [column for column in table if column not in (*long, "paper", "n", "chapter", "seconds")]
    style = table.style.hide(axis="index").set_uuid(name)
    style.map(lambda verdict: f"color: {VERDICTS[verdict]}; font-weight: bold", subset=verdicts)
    style.set_properties(subset=list(table), **{"text-align": "left", "vertical-align": "top"})
    style.set_properties(subset=long, **{"min-width": "11em"})
    style.set_properties(subset=short, **{"min-width": "6em"})
    style.set_table_styles([{"selector": "th", "props": "text-align: left"}])
    return str(style.to_html())
