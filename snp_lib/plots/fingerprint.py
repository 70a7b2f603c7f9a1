"""What a figure shows, in eight hex digits: a stored picture whose digits differ from those of a new one is stale (defined here)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, ScalarFormatter

DIGITS = 3  # significant ones of every number: sums in another order do not change them


def fingerprint(figure: Figure) -> str:
    """First 8 hex digits of the SHA-256 of all that a figure draws: words, colours, and numbers to three significant digits.

    Where things lie on the page does not count, nor ticks that matplotlib chooses: drawing changes nothing.
    """
    artists: list[Artist] = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    lines = []
    for axes in figure.axes:
        artists += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        artists += [*axes.lines, *axes.collections, *axes.images, *axes.patches]
        if (legend := axes.get_legend()) is not None:
            artists += legend.get_texts()
        lines += [name for axis in (axes.xaxis, axes.yaxis) for name in _ticks(axis)]
    lines += [line for artist in artists for line in _lines(artist)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def _ticks(axis: Axis) -> list[str]:
    """The names of ticks that somebody gave."""
    locator, formatter = axis.get_major_locator(), axis.get_major_formatter()
    if isinstance(locator, FixedLocator) and not isinstance(formatter, ScalarFormatter):
        return [str(name) for name in formatter.format_ticks(list(locator()))]
    return []


def _lines(artist: Any) -> Iterator[str]:
    """The words and numbers of one artist; none where it draws nothing of the data."""
    if isinstance(artist, Text):
        yield from [artist.get_text()] if artist.get_visible() and artist.get_text() else []
    elif isinstance(artist, Line2D):
        yield f"{to_hex(artist.get_color())} {artist.get_linestyle()} {artist.get_marker()} {_numbers(artist.get_xydata())}"
    elif isinstance(artist, Collection):
        paths = [path.vertices for path in artist.get_paths()]
        yield f"{_numbers(artist.get_facecolor())} {_numbers(artist.get_offsets())} {' '.join(map(_numbers, paths))}"
    elif isinstance(artist, AxesImage):
        yield _numbers(artist.get_array())
    elif isinstance(artist, Patch):
        shape, where = artist.get_path().vertices, artist.get_patch_transform().get_matrix()
        yield f"{_numbers(artist.get_facecolor())} {_numbers(shape)} {_numbers(where)}"


def _numbers(values: Any) -> str:
    flat: np.ndarray = np.ma.filled(np.ma.asarray(values, dtype=float), np.nan).ravel()
    return " ".join(f"{value + 0.0:.{DIGITS}g}" for value in flat)  # + 0.0: minus zero is zero
