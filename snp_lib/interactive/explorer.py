"""The explorer of chapter A2: any node or head of any site, at any threshold, with the names of the labels it recognises."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import ipywidgets as widgets
import numpy as np
from jaxtyping import Float
from PIL import Image

from snp_lib.performance import binarize, summarize
from snp_lib.plots import matrix_pixels
from snp_lib.store import Unit

THETAS = (0.2, 0.3, 0.4, 0.6)

RANKS = ("few labels", "typical", "many labels")

FEW = 8  # units of a site that are all offered by name

NAMED = 24  # labels that a caption names

ORDERS = ("labels in order", "clusters first")

FIRST: dict[Unit, int] = {"node": 0, "head": 1}  # the number of the first one, as figures and tables count

_STYLE = """<style>
.snp-pair { display: flex; flex-wrap: wrap; gap: 6px 16px; line-height: 1.4; }
.snp-pair span { display: block; }
.snp-pair + p, .snp-text { line-height: 1.4; margin: 8px 0; max-width: 640px; }
.snp-pair img.snp-pixels { width: SIDEpx; max-width: 100%; box-sizing: border-box; padding: 0 !important; border: 1px solid #888;
  border-radius: 0; background: #fff !important; image-rendering: pixelated; }
</style>"""


@runtime_checkable
class Explorable(Protocol):
    """What an explorer shows, such as a :class:`snp_lib.store.Run`."""

    @property
    def class_names(self) -> list[str]: ...
    @property
    def sites(self) -> dict[str, int]: ...
    @property
    def num_heads(self) -> int: ...
    def sites_of(self, kind: str) -> list[str]: ...
    def matrices(self, site: str, *, unit: Unit = "node") -> Float[np.ndarray, "unit label output"]: ...


def explore(run: Explorable) -> widgets.VBox:
    """An explorer of thresholded performance matrices, the nodes of a run at every site and its heads, if it has any, at the ``mha`` sites.

    Site, unit and threshold switch in the browser alone, so they work in a published page too: three example nodes of
    every site, and all heads. With a live kernel a node can be chosen by its number.

    Returns:
        A widget; display it as the last expression of a cell.
    """
    explorer = _Explorer(run)
    colours = explorer.html(legend(len(run.class_names)))
    if not run.num_heads:
        return widgets.VBox([explorer.menus("node"), colours])
    kind = widgets.ToggleButtons(options=["nodes", "heads"], description="show", style={"button_width": "90px"})
    menus = explorer.switch([explorer.menus("node"), explorer.menus("head")], kind)
    return widgets.VBox([kind, menus, colours])


class _Explorer:
    """The parts of one explorer, which share the slider of thresholds and, to stay small, one layout and one style."""

    def __init__(self, run: Explorable) -> None:
        self.run = run
        self.theta = widgets.SelectionSlider(options=[f"{t:g}" for t in THETAS], value="0.3", description="θ")
        self.layout, self.style = widgets.Layout(), widgets.HTML().style

    def html(self, text: str = "") -> widgets.HTML:
        return widgets.HTML(text, layout=self.layout, style=self.style)

    def switch(self, children: Sequence[widgets.Widget], menu: widgets.Widget) -> widgets.Stack:
        """The child that stands at the menu's index; the browser alone keeps them together."""
        stack = widgets.Stack(children, selected_index=menu.index, layout=self.layout)
        widgets.jslink((menu, "index"), (stack, "selected_index"))
        return stack

    def menus(self, unit: Unit) -> widgets.VBox:
        """Menus for site and unit, the threshold, and the pages that they switch."""
        sites = list(self.run.sites) if unit == "node" else self.run.sites_of("mha")
        all_shown = unit == "head" and self.run.num_heads <= FEW
        names = [unit_name(unit, i) for i in range(self.run.num_heads)] if all_shown else [*RANKS, "by number"]
        site = widgets.Dropdown(options=sites, value=sites[-1] if unit == "head" else sites[-2:][0], description="site")
        menu = widgets.ToggleButtons(options=names, index=0 if all_shown else 1, description=unit, style={"button_width": "90px"})
        by_site: list[list[widgets.Widget]] = []
        for name in sites:
            matrices = self.run.matrices(name, unit=unit)
            shown = range(len(matrices)) if all_shown else _examples(matrices)
            by_site.append([self.switch([self.html(p) for p in _pages(self.run, name, unit, i, matrices[i])], self.theta) for i in shown])
        panels: list[widgets.Widget] = [self.switch(of_sites, site) for of_sites in zip(*by_site, strict=True)]
        if not all_shown:
            panels.append(self.by_number(unit, site))
        return widgets.VBox([site, menu, self.theta, self.switch(panels, menu)])

    def by_number(self, unit: Unit, site: widgets.Dropdown) -> widgets.VBox:
        """A field for the number of a unit and the pages of that unit at the site chosen; the kernel fills them."""
        number = widgets.BoundedIntText(value=FIRST[unit], min=FIRST[unit], max=2**31, description="number", layout={"width": "180px"})
        note = self.html('<div class="snp-text">The number needs a running kernel; everything else works in this page.</div>')
        pages = [self.html() for _ in THETAS]

        def fill(change: object = None) -> None:
            matrices = self.run.matrices(site.value, unit=unit)
            number.max = len(matrices) - 1 + FIRST[unit]  # a number too large becomes the last one
            chosen = number.value - FIRST[unit]
            for page, text in zip(pages, _pages(self.run, site.value, unit, chosen, matrices[chosen]), strict=True):
                page.value = text

        fill()
        number.observe(fill, "value")
        site.observe(fill, "value")
        return widgets.VBox([number, note, self.switch(pages, self.theta)])


def _examples(matrices: np.ndarray) -> list[int]:
    """Units that recognise few labels, a typical number, and many."""
    order = np.argsort(summarize(matrices).labels_of_unit, kind="stable")
    return [int(order[int(q * (len(order) - 1))]) for q in (0.1, 0.5, 0.9)]


def unit_name(unit: Unit, index: int) -> str:
    """What captions call a unit: nodes count from 0, heads from 1."""
    return f"{unit} {index + FIRST[unit]}"


def _pages(run: Explorable, site: str, unit: Unit, index: int, matrix: np.ndarray) -> list[str]:
    """What is shown of a unit, at each threshold."""
    return [unit_page(f"{site}, {unit_name(unit, index)}", matrix, theta, run.class_names) for theta in THETAS]


def unit_page(title: str, matrix: np.ndarray, theta: float, names: list[str]) -> str:
    """Both pictures of a thresholded matrix, and in words what the unit recognises."""
    binary, summary = binarize(matrix[None], theta)[0], summarize(matrix[None], theta)
    clusters, pictures = summary.clusters[0], ""
    for order in ORDERS:
        picture = _address(matrix_pixels(binary, clusters, ordered=order == "clusters first"))
        pictures += f'<div><span>{order}</span><img class="snp-pixels" alt="matrix, {order}" src="{picture}"></div>'
    labels, noise = int(summary.labels_of_unit[0]), int(summary.noise[0])
    said = f"{_count(labels, 'label')} in {_count(len(clusters), 'cluster')}, {_count(noise, 'one')} of noise"
    return f'<div class="snp-pair">{pictures}</div><p><b>{title}</b>, θ = {theta:g}: {said}. {_in_words(clusters, names)}</p>'


def legend(labels: int) -> str:
    """What the colours of :func:`unit_page` mean, and its style for matrices of so many labels."""
    side = labels * max(1, round(300 / labels)) + 2  # every label as many pixels wide as every other, within a border
    return (
        f'{_STYLE.replace("SIDE", str(side))}<div class="snp-text"><span style="color:#d55e00">■</span> inside a cluster &nbsp; '
        '<span style="color:#0173b2">■</span> noise &nbsp; rows: true label, columns: output</div>'
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _in_words(clusters: list[list[int]], names: list[str]) -> str:
    """The clusters by the names of their labels, the largest first, as many as a caption holds."""
    largest_first = sorted(clusters, key=len, reverse=True)
    sizes = np.cumsum([len(cluster) for cluster in largest_first])
    named = max(1, int((sizes <= NAMED).sum()))
    said = [" + ".join(html.escape(names[label]) for label in cluster) for cluster in largest_first[:named]]
    if named < len(clusters):
        said.append(f"and {_count(int(sizes[-1] - sizes[named - 1]), 'label')} more")
    return " · ".join(said)


def _address(pixels: np.ndarray) -> str:
    """The PNG of these RGB pixels, written into an address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).quantize(4).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
