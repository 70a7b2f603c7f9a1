"""Verdicts and benchmarks for the page."""

from __future__ import annotations

from collections.abc import Hashable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from snp_lib.plots.style import COLORS, CONTROL, VERDICTS, legend


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


def verdict_dots(table: pd.DataFrame) -> Figure:
    """One dot per claim in the colour and form of its verdict, one line per paper and part, those with a verdict first.

    Args:
        table: columns group, the name of a line, and verdict; lines are in the order of the table.
    """
    groups, forms = list(dict.fromkeys(table["group"])), dict(zip(VERDICTS, "o^Ds", strict=True))
    figure, axis = plt.subplots(figsize=(6.4, 0.34 * len(groups) + 1.2), layout="constrained")
    for line, group in enumerate(groups):
        verdicts = sorted(table.verdict[table["group"] == group], key=list(VERDICTS).index)
        for verdict in dict.fromkeys(verdicts):
            places = [x for x, each in enumerate(verdicts) if each == verdict]
            face = "none" if verdict == "not yet measured" else VERDICTS[verdict]
            axis.plot(places, [line] * len(places), forms[verdict], color=VERDICTS[verdict], mfc=face, ms=6 if forms[verdict] != "D" else 5)
    axis.set_yticks(range(len(groups)), groups)
    axis.set(ylim=(len(groups) - 0.4, -0.6), xticks=[])
    axis.spines[["bottom", "left"]].set_visible(False)
    axis.tick_params(length=0)
    legend(figure, [(verdict, VERDICTS[verdict], forms[verdict]) for verdict in VERDICTS])
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
