"""Sphinx extension: copy the part of MathJax that the book needs next to its pages, so that they load it from no other host."""

from importlib import util
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset

PARTS = ("tex-mml-chtml.js", "output/chtml/fonts", "input/tex/extensions")


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy after a build that succeeded; html builders only."""
    if error is not None or app.builder.format != "html":
        return
    package = util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise RuntimeError("the package sphinx-mathjax-offline is not installed; run `make env`")
    source = Path(package.origin).parent / "static" / "mathjax"
    for part in PARTS:
        target = Path(app.outdir) / "_static" / "mathjax" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_asset(source / part, target if (source / part).is_dir() else target.parent)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
