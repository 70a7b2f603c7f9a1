"""A menu of networks: what each reaches, what it costs, and how to build it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import pandas as pd

from snp_lib.store import Run


def choose(families: Mapping[str, Sequence[Run]], table: pd.DataFrame) -> widgets.VBox:
    """A menu of networks, those that none beats first, that works in a published page too.

    Args:
        families: network → its runs.
        table: accuracy and latency of the same networks, see :func:`snp_lib.results.fronts.accuracy_and_latency`.

    Returns:
        A widget; display it as the last expression of a cell.

    Raises:
        ValueError: a network without a row in the table.
    """
    if missing := [name for name in families if name not in set(table.network)]:
        raise ValueError(f"the table has no row for {missing[0]!r}")
    best = table.groupby("network").on_frontier.any()
    names = sorted(families, key=lambda name: (not best[name], table[table.network == name].ratio.min()))
    options = [f"{name}{'' if best[name] else ' (beaten)'}" for name in names]
    menu = widgets.Dropdown(options=options, index=0, description="network", layout={"width": "320px"})
    pages = [widgets.HTML(_page(families[name][0], table[table.network == name])) for name in names]
    stack = widgets.Stack(pages, selected_index=0)
    widgets.jslink((menu, "index"), (stack, "selected_index"))
    return widgets.VBox([menu, stack])


def _page(run: Run, rows: pd.DataFrame) -> str:
    first, experiment = rows.iloc[0], run.experiment
    spread = "" if pd.isna(first.sd) else f" ± {100 * first.sd:.1f}"
    times = "".join(
        f"<li>batch {row.batch}: {row.ratio:.2f} of the time of all encoders ({row.ratio_low:.2f} to {row.ratio_high:.2f})</li>"
        for _, row in rows.iterrows()
    )
    options = "".join(f", {name}={value!r}" for name, value in experiment.model_options.items())
    code = f'create_model("{experiment.model}", num_classes={len(run.class_names)}{options})'
    command = f"snp train {experiment.name} --scale {experiment.scale} --seeds 0,1,2"
    return (
        f'<div class="snp-text"><p>{100 * first.accuracy:.1f}{spread} % (n = {first.n}), '
        f"{first.macs / 1e6:.1f} million multiply-accumulates, {first.parameters:,.0f} parameters</p><ul>{times}</ul>"
        f"<pre>{html.escape(code)}</pre><pre>{html.escape(command)}</pre></div>"
    )
