"""The explorer of chapter 2: any node of any site, at any threshold, sorted or not."""

from __future__ import annotations

import io

import ipywidgets as widgets
import numpy as np
from PIL import Image

from snp_lib.performance import binarize, find_clusters
from snp_lib.plots import matrix_pixels
from snp_lib.store import Run

THETAS = (0.2, 0.3, 0.4, 0.6)
RANKS = ("few labels", "typical", "many labels")
_SIDE = 340  # pixels of the picture


def explore(run: Run) -> widgets.VBox:
    """An explorer of one run's thresholded performance matrices.

    Site, threshold, order and three example nodes per site switch in the browser alone, so they work in a published
    page too. With a live kernel, the last field shows any node of the site.

    Returns:
        A widget; display it as the last expression of a cell.
    """
    sites = list(run.sites)
    layout = widgets.Layout(width=f"{_SIDE}px", height=f"{_SIDE}px")
    plain, style = widgets.Layout(), widgets.HTML().style  # shared: hundreds of widgets need no layout of their own
    site_menu = widgets.Dropdown(options=sites, value=sites[-2], description="site")
    node_menu = widgets.ToggleButtons(options=[*RANKS, "chosen"], value="typical", description="node", style={"button_width": "90px"})
    theta_menu = widgets.SelectionSlider(options=[f"{t:g}" for t in THETAS], value="0.3", description="θ")
    order_menu = widgets.ToggleButtons(options=["clusters first", "labels in order"], description="sorted", style={"button_width": "120px"})
    number = widgets.BoundedIntText(value=0, min=0, max=max(run.sites.values()) - 1, description="node no.", layout={"width": "180px"})

    def switch(children: list[widgets.Widget], menu: widgets.Widget) -> widgets.Stack:
        stack = widgets.Stack(children, selected_index=menu.index, layout=plain)
        widgets.jslink((menu, "index"), (stack, "selected_index"))
        return stack

    images: dict[tuple[str, int, float, bool], widgets.Image] = {}
    captions: dict[tuple[str, int], widgets.HTML] = {}

    def examples(site: str) -> list[int]:
        labels = np.diagonal(binarize(run.matrices(site)), axis1=1, axis2=2).sum(axis=1)
        order = np.argsort(labels, kind="stable")
        return [int(order[int(q * (len(order) - 1))]) for q in (0.1, 0.5, 0.9)]

    def panel(site: str, slot: int, node: int) -> widgets.VBox:
        matrix = run.matrices(site)[node]
        by_theta = []
        for theta in THETAS:
            pictures = []
            for ordered in (True, False):
                picture = widgets.Image(value=_picture(matrix, theta, ordered), format="png", layout=layout)
                picture.add_class("snp-pixels")
                images[site, slot, theta, ordered] = picture
                pictures.append(picture)
            by_theta.append(switch(pictures, order_menu))
        captions[site, slot] = widgets.HTML(f"{site}, node {node}", layout=plain, style=style)
        return widgets.VBox([switch(by_theta, theta_menu), captions[site, slot]], layout=plain)

    def site_panel(site: str) -> widgets.Stack:
        nodes = examples(site)
        return switch([panel(site, slot, node) for slot, node in enumerate([*nodes, nodes[1]])], node_menu)

    def show_chosen(change: object = None) -> None:
        site = site_menu.value
        node = min(number.value, run.sites[site] - 1)
        matrix = run.matrices(site)[node]
        captions[site, len(RANKS)].value = f"{site}, node {node}"
        for theta in THETAS:
            for ordered in (True, False):
                images[site, len(RANKS), theta, ordered].value = _picture(matrix, theta, ordered)
        if isinstance(change, dict) and change.get("owner") is number:
            node_menu.value = "chosen"

    pictures = switch([site_panel(site) for site in sites], site_menu)
    number.observe(show_chosen, "value")
    site_menu.observe(show_chosen, "value")
    legend = widgets.HTML(
        '<span style="color:#d55e00">■</span> inside a cluster &nbsp; <span style="color:#0173b2">■</span> noise '
        "&nbsp; rows: true label, columns: output"
    )
    note = widgets.HTML("<small>Choosing a node by number needs a running kernel; everything else works in this page.</small>")
    return widgets.VBox([site_menu, node_menu, theta_menu, order_menu, pictures, legend, number, note])


def _picture(matrix: np.ndarray, theta: float, ordered: bool) -> bytes:
    binary = binarize(matrix[None], theta)[0]
    pixels = matrix_pixels(binary, find_clusters(binary), ordered=ordered)
    buffer = io.BytesIO()
    Image.fromarray(pixels).quantize(4).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
