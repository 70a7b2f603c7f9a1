"""Sphinx extension: pages load their scripts from next to themselves, never from another host; names lead to their definition."""

import json
import pydoc
from importlib import util
from pathlib import Path
from typing import Any

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.fileutil import copy_asset

MATHJAX = ("tex-mml-chtml.js", "output/chtml/fonts", "input/tex/extensions")  # the part of MathJax that the book needs


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy MathJax into the built pages; after a build that succeeded, html builders only."""
    if error is not None or app.builder.format != "html":
        return
    package = util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise RuntimeError("the package sphinx-mathjax-offline is not installed; run `make env`")
    source = Path(package.origin).parent / "static" / "mathjax"
    for part in MATHJAX:
        target = Path(app.outdir) / "_static" / "mathjax" / part
        copy_asset(source / part, target if (source / part).is_dir() else target.parent)


def copy_widget_fonts(app: Sphinx, error: Exception | None) -> None:
    """Put the widgets' icon fonts where their two scripts ask for them: below the folder of the page."""
    if error is None and app.builder.format == "html":
        fonts, target = Path(app.srcdir) / "book" / "_static" / "vendor" / "fonts", Path(app.outdir) / "book" / "@jupyter-widgets"
        for folder in (target, target / "html-manager" / "dist"):
            copy_asset(fonts, folder)


def parsable_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """``<factory>``, the default of some dataclass fields, is no Python, and Sphinx then prints the whole signature raw."""
    return signature and signature.replace("<factory>", "..."), returns


def drop_thebe(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Jupyter Book always adds Thebe: it needs other hosts, and Sphinx 7.4 writes its settings twice, a script error."""
    scripts = context["script_files"]
    scripts[:] = [s for s in scripts if "thebe" not in (str(s.filename) + s.attributes.get("body", "")).lower()]


def one_figure(app: Sphinx, docname: str, source: list[str]) -> None:
    """The caption of a cell belongs to its figure: tables that the cell shows behind it become a cell of their own in the page."""
    if not app.env.doc2path(docname).endswith(".ipynb"):
        return
    notebook, cells = json.loads(source[0]), []
    for cell in notebook["cells"]:
        cells.append(cell)
        if "figure" in cell["metadata"].get("mystnb", {}):
            shown = [i for i, output in enumerate(cell["outputs"]) if "data" in output]
            for start in shown[1:2]:
                rest = {
                    "id": f"{cell['id']}-rest",
                    "metadata": {"tags": ["remove-input"]},
                    "source": "",
                    "outputs": cell["outputs"][start:],
                }
                cells.append(cell | rest)
                cell["outputs"] = cell["outputs"][:start]
    source[0] = json.dumps(notebook | {"cells": cells})


def public_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: Element) -> Element | None:
    """A name by which the library is called, such as ``snp_lib.store.Run``, leads to where it is defined."""
    target = str(node.get("reftarget", ""))
    found = pydoc.locate(target) if target.startswith("snp_lib.") else None
    defined = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if node.get("refdomain") != "py" or defined == target:
        return None
    return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, node["reftype"], defined, node, shown)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", drop_thebe)
    app.connect("autodoc-process-signature", parsable_signature)
    app.connect("source-read", one_figure)
    app.connect("missing-reference", public_name)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", copy_widget_fonts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
