"""The explorer of chapter 2 with a live kernel; the browser tests cover the published page."""

import io

import ipywidgets as widgets
import numpy as np
import pytest
from PIL import Image

from snp_lib.explorer import THETAS, explore
from snp_lib.performance import binarize
from snp_lib.store import Run


def find(box: widgets.Widget, description: str) -> widgets.Widget:
    return next(child for child in box.children if getattr(child, "description", "") == description)


def leaf(box: widgets.Widget, *path: int) -> widgets.Image:
    """The picture behind site, node slot, threshold and order, counted from zero."""
    stack = next(child for child in box.children if isinstance(child, widgets.Stack))
    site, slot, theta, order = path
    return stack.children[site].children[slot].children[0].children[theta].children[order]


@pytest.mark.parametrize("theta_index", range(len(THETAS)))
def test_a_node_chosen_by_number_is_shown(smoke_run: Run, theta_index: int) -> None:
    box = explore(smoke_run)
    sites = list(smoke_run.sites)
    find(box, "site").value = sites[1]
    find(box, "node no.").value = 7
    assert find(box, "node").value == "chosen"
    shown = np.asarray(Image.open(io.BytesIO(leaf(box, 1, 3, theta_index, 1).value)).convert("RGB"))
    ones = binarize(smoke_run.matrices(sites[1])[7:8], THETAS[theta_index])[0]
    assert ((shown != 255).any(axis=2) == ones).all()


def test_sorting_moves_ones_and_keeps_their_number(smoke_run: Run) -> None:
    box = explore(smoke_run)
    pictures = [np.asarray(Image.open(io.BytesIO(leaf(box, 0, 1, 1, order).value)).convert("RGB")) for order in (0, 1)]
    inked = [int((picture != 255).any(axis=2).sum()) for picture in pictures]
    assert inked[0] == inked[1] > 0
