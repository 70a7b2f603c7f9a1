"""The explorer of chapter A2 with a live kernel; the browser tests cover the published page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator

import ipywidgets as widgets
import numpy as np
import pytest
from PIL import Image

from snp_lib.interactive.explorer import NAMED, RANKS, THETAS, _in_words, explore
from snp_lib.performance import binarize, summarize
from snp_lib.store import Run


def walk(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    """A widget and what is shown of what it contains: of a stack one child."""
    yield widget
    children = getattr(widget, "children", ())
    for child in [children[widget.selected_index]] if isinstance(widget, widgets.Stack) else children:
        yield from walk(child)


class Page:
    """What a reader sees of an explorer, and the menus."""

    def __init__(self, box: widgets.Widget) -> None:
        self.box = box

    def menu(self, description: str) -> widgets.Widget:
        return next(w for w in walk(self.box) if getattr(w, "description", "") == description)

    def choose(self, **values: object) -> Page:
        for description, value in values.items():
            self.menu(description).value = value
        return self

    @property
    def text(self) -> str:
        return next(w.value for w in walk(self.box) if isinstance(w, widgets.HTML) and "snp-pair" in w.value)

    @property
    def caption(self) -> str:
        return self.text.partition("<p>")[2].removesuffix("</p>")

    @property
    def pictures(self) -> list[np.ndarray]:
        """What is inked with labels in order, and with clusters first."""
        files = [base64.b64decode(code) for code in re.findall(r'src="data:image/png;base64,([^"]+)"', self.text)]
        return [(np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) != 255).any(axis=2) for file in files]


@pytest.fixture(scope="module")
def page(smoke_run: Run) -> Page:
    """An explorer whose menus are linked by the kernel, as no browser is at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snp_lib.interactive.explorer.widgets.jslink", widgets.link)
        return Page(explore(smoke_run))


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("site", ["block1.ff_hidden", "block3.mha"])
def test_a_node_chosen_by_number_is_shown(page: Page, smoke_run: Run, site: str, theta: float) -> None:
    page.choose(show="nodes", site=site, node="by number", number=7, θ=f"{theta:g}")
    ones = binarize(smoke_run.matrices(site)[7:8], theta)[0]
    assert np.array_equal(page.pictures[0], ones)
    summary = summarize(smoke_run.matrices(site), theta)
    assert page.caption.startswith(f"<b>{site}, node 7</b>, θ = {theta:g}: {summary.labels_of_unit[7]} label")


def test_a_number_past_the_last_node_is_the_last_node_of_each_site(page: Page, smoke_run: Run) -> None:
    page.choose(show="nodes", site="block1.ff_hidden", node="by number", number=10**6)
    assert "node 95<" in page.text
    page.choose(site="block1.ff")
    assert "block1.ff, node 47<" in page.text
    assert page.menu("number").value == 47


@pytest.mark.parametrize("theta", THETAS)
def test_every_head_of_every_encoder_is_shown_without_a_kernel(page: Page, smoke_run: Run, theta: float) -> None:
    page.choose(show="heads")
    assert page.menu("head").options == ("head 1", "head 2", "head 3", "head 4")
    assert page.menu("site").options == ("block1.mha", "block2.mha", "block3.mha")
    for site in page.menu("site").options:
        nodes = smoke_run.matrices(site)
        for head, name in enumerate(page.menu("head").options):
            page.choose(site=site, head=name, θ=f"{theta:g}")
            of_head = nodes.reshape(4, -1, *nodes.shape[1:]).sum(axis=1)[head]  # a head is the sum of its nodes
            assert np.array_equal(page.pictures[0], binarize(of_head[None], theta)[0])
            assert page.caption.startswith(f"<b>{site}, {name}</b>, θ = {theta:g}: ")


def test_examples_go_from_few_labels_to_many(page: Page, smoke_run: Run) -> None:
    page.choose(show="nodes", θ="0.3")
    for site in smoke_run.sites:
        counts = [int(page.choose(site=site, node=rank).caption.partition(": ")[2].split()[0]) for rank in RANKS]
        assert counts == sorted(counts)
        assert counts[1] == np.sort(summarize(smoke_run.matrices(site)).labels_of_unit)[(smoke_run.sites[site] - 1) // 2]


def test_sorting_moves_ones_and_keeps_their_number(page: Page) -> None:
    in_order, clusters_first = page.choose(show="nodes", site="block1.mha", node="many labels", θ="0.2").pictures
    assert in_order.sum() == clusters_first.sum() > 0


def test_a_caption_names_the_labels_cluster_by_cluster() -> None:
    names = [f"<{i}>" for i in range(50)]
    assert _in_words([[3], [0, 2]], names) == "&lt;0&gt; + &lt;2&gt; · &lt;3&gt;"
    assert _in_words([], names) == ""
    many = _in_words([[i] for i in range(50)], names)
    assert many.count(" · ") == NAMED
    assert many.endswith("and 26 labels more")
    assert _in_words([list(range(40)), [40]], names).endswith("and 1 label more")


def test_labels_named_are_those_of_the_diagonal_set(page: Page, smoke_run: Run) -> None:
    page.choose(show="nodes", site="block2.ff", node="by number", number=3, θ="0.3")
    recognised = np.flatnonzero(summarize(smoke_run.matrices("block2.ff"), 0.3).diagonal[3])
    said = page.caption.partition(" of noise. ")[2]
    assert sorted(re.split(r" \+ | · ", said)) == [smoke_run.class_names[label] for label in recognised]
