"""A figure's eight digits change with what it draws and with nothing else."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from snp_lib import plots
from snp_lib.plots.fingerprint import fingerprint

TABLE = pd.DataFrame({"seed": [0, 0, 1, 1], "x": [1, 2, 1, 2], "y": [1.0, 2, 3, 4], "name": ["a", "b", "a", "b"]})


def drawn(table: pd.DataFrame = TABLE, label: str = "why") -> Figure:
    return plots.curves(table, "x", {"y": label})


def test_drawing_the_size_and_the_last_digits_change_nothing() -> None:
    digits = fingerprint(figure := drawn())
    assert len(digits) == 8
    figure.canvas.draw()
    figure.set_size_inches(3, 3)
    figure.canvas.draw()
    assert fingerprint(figure) == digits == fingerprint(drawn(TABLE.assign(y=TABLE.y * (1 + 1e-9))))


CHANGES: dict[str, Callable[[Figure], object]] = {
    "a point of a line": lambda figure: figure.axes[0].lines[0].set_ydata([2, 3.2]),
    "its colour": lambda figure: figure.axes[0].lines[0].set_color("red"),
    "its style": lambda figure: figure.axes[0].lines[0].set_linestyle(":"),
    "the band": lambda figure: figure.axes[0].collections[0].remove(),
    "a label": lambda figure: figure.axes[0].set_xlabel("another"),
    "a title": lambda figure: figure.axes[0].set_title("another"),
    "the names of ticks": lambda figure: figure.axes[0].set_xticks([1, 2], ["one", "two"]),
    "numbers as names": lambda figure: figure.axes[0].set_yticks([1, 2], [7, 8]),
    "a word": lambda figure: figure.axes[0].text(1, 1, "word"),
    "an entry of a legend": lambda figure: figure.legend(handles=figure.axes[0].lines[:1], labels=["new"]),
    "a bar": lambda figure: figure.axes[0].bar([1], [2]),
    "an image": lambda figure: figure.axes[0].imshow(np.eye(3)),
    "dots": lambda figure: figure.axes[0].scatter([1], [2]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_drawn_changes_it(change: str) -> None:
    figure = drawn()
    before = fingerprint(figure)
    CHANGES[change](figure)
    assert fingerprint(figure) != before
    plt.close(figure)


def test_an_element_of_an_image_and_the_height_of_a_bar_count() -> None:
    figure, axis = plt.subplots()
    image, (bar,) = axis.imshow(np.eye(3)), axis.bar([1], [2])
    seen = {fingerprint(figure)}
    image.set_data(np.eye(3)[::-1])
    seen.add(fingerprint(figure))
    bar.set_height(3)
    seen.add(fingerprint(figure))
    assert len(seen) == 3
    plt.close(figure)
