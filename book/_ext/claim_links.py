"""Sphinx extension: every claim of the scoreboard leads to its chapter, every id of the status page to its line there."""

import re
from typing import Any

from docutils import nodes
from snp_lib.book.claims import Claim, load_claims
from sphinx.application import Sphinx


def link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Add links to the tables of claims of a page."""
    if not docname.endswith(("/scoreboard", "/status")):
        return
    pages = {each.rpartition("/")[2].partition("_")[0]: app.builder.get_relative_uri(docname, each) for each in app.env.found_docs}
    claims = load_claims().values()
    for table in doctree.findall(nodes.raw):
        if table.get("format") == "html" and "<td" in table.astext():
            text = linked(table.astext(), list(claims), pages)
            table.replace_self(nodes.raw("", text, format="html"))


def linked(table: str, claims: list[Claim], pages: dict[str, str]) -> str:
    """The same table, its claims linked to chapters that are there, and marked; its ids linked to the scoreboard.

    Args:
        table: HTML.
        pages: chapter or page, such as ``a2``, to its address.
    """
    for claim in claims:
        statement = f'<a href="{pages[claim.chapter]}">{claim.statement}</a>' if claim.chapter in pages else claim.statement
        table = _put(table, claim.statement, f'<span id="claim-{claim.id}">{statement}</span>')
        table = _put(table, claim.id, f'<a href="{pages["scoreboard"]}#claim-{claim.id}">{claim.id}</a>')
    return table


def _put(table: str, text: str, content: str) -> str:
    """Cells of this text with that content."""
    return re.sub(rf"(<td[^>]*>)\s*{re.escape(text)}\s*</td>", lambda cell: f"{cell[1]}{content}</td>", table)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
