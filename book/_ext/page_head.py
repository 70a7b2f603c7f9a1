"""Sphinx extension: what a page says of itself in a tab, in a search engine and in a link, and how soon it can be seen."""

import functools
import html
import re
import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from docutils import nodes
from matplotlib.figure import Figure
from PIL import Image
from snp_lib import store
from snp_lib.interactive import reader
from snp_lib.machine import code_version
from snp_lib.performance import binarize, find_clusters
from snp_lib.plots import matrix_pixels
from sphinx.application import Sphinx

CARD = "_static/card.png"
THETA = 0.2


def describe(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Title, description and card of a page, and the version of the code in its footer."""
    root, book = pagename == app.config.root_doc, str(app.config.html_title)
    context["theme_logo"] = {**(context.get("theme_logo") or {}), "text": book}
    if root:
        context["docstitle"] = ""  # or the tab says the same twice
    title = re.sub("<[^>]+>", "", str(context.get("title", "")))
    tags = {"og:type": "website", "og:site_name": book, "og:title": html.unescape(title), "og:image": _address(app, context, CARD)}
    if doctree is not None and (text := description(doctree)):
        tags |= {"description": text, "og:description": text}
    if app.config.html_baseurl:
        tags["og:url"] = app.config.html_baseurl.rstrip("/") + "/" + app.builder.get_target_uri(pagename)
    context["metatags"] = context.get("metatags", "") + meta(tags)
    if 'class="math' not in context.get("body", ""):  # MathJax is a quarter of a megabyte for a page without a formula
        context["script_files"][:] = [s for s in context["script_files"] if "mathjax" not in (str(s.filename) + str(s.attributes)).lower()]
    context["theme_extra_footer"] = f'<p>snp_lib <span class="snp-version">{app.config.snp_version}</span></p>'


def description(doctree: nodes.document, width: int = 200) -> str:
    """The beginning of the first paragraph of the text."""
    texts = (paragraph.astext() for paragraph in doctree.findall(nodes.paragraph))
    return next((textwrap.shorten(text, width, placeholder=" …") for text in texts if len(text) > 40), "")


def meta(tags: dict[str, str]) -> str:
    """The same as HTML; those of Open Graph are properties, the others names."""
    card = [("twitter:card", "summary_large_image")] if "og:image" in tags else []
    rows = ((("property" if name.startswith("og:") else "name"), name, value) for name, value in [*tags.items(), *card])
    return "".join(f'\n<meta {kind}="{name}" content="{html.escape(value)}" />' for kind, name, value in rows)


def _address(app: Sphinx, context: dict[str, Any], path: str) -> str:
    """Whole where the address of the book is known, as unfurling asks for, else as seen from the page."""
    base = str(app.config.html_baseurl)
    return f"{base.rstrip('/')}/{path}" if base else str(context["pathto"](path, 1))


def lazy_pictures(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Pictures below the first are fetched when they come near."""
    for image in list(doctree.findall(nodes.image))[1:]:
        image["loading"] = "lazy"


def finish(app: Sphinx, error: Exception | None) -> None:
    """The card, an index page that describes the book, pictures that know their size, and icons from their font alone.

    The theme loads its icons twice, as a font and as a megabyte and a half of script that draws them again.
    """
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    figure = card(app.config.snp_reader_runs[0], str(app.config.html_title))
    figure.savefig(out / CARD, dpi=100)
    plt.close(figure)
    for drawn_again in (out / "_static" / "scripts").glob("fontawesome.js*"):
        drawn_again.unlink()
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r'\s*<script [^>]*src="[^"]*/scripts/fontawesome\.js[^>]*></script>', "", text)
        text = re.sub(r'<img [^>]*?src="([^"]+\.png)"', functools.partial(sized, folder=page.parent), text)
        page.write_text(text, encoding="utf-8")
    first = app.builder.get_target_uri(app.config.root_doc)
    text = (out / first).read_text(encoding="utf-8")
    tags = "\n".join(re.findall(r'<meta (?:property="og:|name="(?:description|twitter:))[^>]*>', text)).replace("../", "")
    title = f"<title>{html.escape(str(app.config.html_title))}</title>"
    icon = '<link rel="icon" href="_static/favicon.svg">'
    body = f'<meta http-equiv="Refresh" content="0; url={first}">'
    (out / "index.html").write_text(f'<!doctype html>\n<meta charset="utf-8">{title}\n{tags}\n{icon}\n{body}\n', encoding="utf-8")


def sized(image: re.Match[str], folder: Path) -> str:
    """A picture with its width and height, so that the text below does not jump when it arrives."""
    if " height=" in image[0] or not (folder / image[1]).is_file():
        return image[0]
    with Image.open(folder / image[1]) as picture:
        return f'{image[0]} width="{picture.width}" height="{picture.height}"'


def card(run: str, title: str) -> Figure:
    """1,200 by 630 pixels to share: the title beside a head of the last encoder."""
    recorded = store.read(store.root("records") / run)
    site = recorded.sites_of("mha")[-1]
    arrays = recorded.arrays
    heads = reader.matrices(arrays[f"means_test/{site}"], arrays[f"weight/{site}"], recorded.num_heads)
    binary = binarize(heads, THETA)
    clusters = [find_clusters(each) for each in binary]
    best = int(np.argmax([sum(len(cluster) > 1 for cluster in each) for each in clusters]))
    pixels = matrix_pixels(binary[best], clusters[best], ordered=True)
    recognised = sum(map(len, clusters[best]))
    figure = plt.figure(figsize=(12, 6.3), facecolor="white")
    figure.text(0.05, 0.84, textwrap.fill(title, 18), fontsize=36, weight="bold", va="top", color="#14181e", linespacing=1.25)
    words = f"Head {best + 1} of the last encoder recognises {recognised} of {len(recorded.class_names)} labels. Which? Drag θ and see."
    figure.text(0.05, 0.3, textwrap.fill(words, 32), fontsize=21, va="top", color="#444444", linespacing=1.3)
    axis = figure.add_axes((0.53, 0.07, 0.45, 0.86))
    side = min(len(pixels), recognised + 4)
    axis.imshow(pixels[:side, :side], interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    return figure


def note_version(app: Sphinx) -> None:
    app.config.snp_version = code_version()


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("snp_version", "", "", str)
    app.connect("builder-inited", note_version)
    app.connect("html-page-context", describe, priority=900)
    app.connect("doctree-resolved", lazy_pictures)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
