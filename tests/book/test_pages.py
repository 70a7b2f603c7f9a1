"""Every built page in a real browser with the network off: what a reader sees, at the width of a phone and of a desk."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import WIDTHS, launched, opened, served
from PIL import Image
from playwright.sync_api import Browser
from shared import skip

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
PAGES = sorted(p.relative_to(SITE).as_posix() for p in SITE.glob("book/*.html"))
EACH_PAGE = PAGES or [pytest.param("", id="no-built-book")]
BEFORE_PAINT = 200_000  # bytes as a compressing server sends them: a second and a half of slow 4G with its round trips
WIDGETS = "book/b3_convolutions_first.html"
READERS = ("intro", "any_node", "a2_snp_matrices", "a4_symmetry_breaking", "e2_flowers")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Address of the built book, served from a thread."""
    if not PAGES:
        skip("book")
    with served(SITE) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", EACH_PAGE)
def test_page_is_whole_without_a_network(browser: Browser, site: str, name: str, width: int) -> None:
    with opened(browser, site, name, width) as (page, problems):
        for image in page.locator("img:visible").all():  # pictures may load lazily: bring each into view
            image.scroll_into_view_if_needed()
        page.wait_for_load_state("networkidle")
        broken = page.evaluate("[...document.images].filter(i => i.checkVisibility() && !(i.complete && i.naturalWidth)).map(i => i.src)")
        assert not broken
        formulas = page.locator(".math").count()
        if formulas:
            page.wait_for_selector("mjx-container", state="attached")
            page.wait_for_function("document.querySelectorAll('.math mjx-container').length >= document.querySelectorAll('.math').length")
            assert page.locator("mjx-merror").count() == 0
        assert page.locator("h1:visible").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        assert problems == []


@pytest.mark.parametrize("name", EACH_PAGE)
def test_little_is_fetched_before_the_first_paint(site: str, name: str) -> None:
    """The page, its style sheets, and scripts that neither wait nor load beside it."""
    text = (SITE / name).read_text(encoding="utf-8")
    scripts = [tag for tag in re.findall(r"<script [^>]*src=[^>]*>", text) if not re.search(r"\b(?:defer|async)\b", tag)]
    sheets = re.findall(r"<link [^>]*rel=\"stylesheet\"[^>]*>", text)
    fetched = [re.search(r"(?:src|href)=\"([^\"?]+)", tag) for tag in (*scripts, *sheets)]
    files = [(SITE / name).parent / found[1] for found in fetched if found]
    assert len(files) >= 8
    sizes = {path.name: len(gzip.compress(path.read_bytes(), 6)) for path in (SITE / name, *files)}
    assert sum(sizes.values()) <= BEFORE_PAINT, sizes


def test_the_landing_page_stays_light(browser: Browser, site: str) -> None:
    """All that it asks for by itself, but for the theme's icons: no formulas, no widgets, one site of one run."""
    asked: list[str] = []
    with opened(browser, site, "book/intro.html", 1400) as (page, _):
        page.wait_for_selector(".snp-said")
        asked = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    files = [SITE / address.partition("?")[0].removeprefix(f"{site}/") for address in asked if "fontawesome" not in address]
    assert any(path.name == "block7.mha.trained.js" for path in files)
    assert not [path.name for path in files if re.search("mathjax|embed-amd|require", str(path))]
    assert sum(path.stat().st_size for path in files if path.suffix == ".js") <= 450_000


@pytest.mark.parametrize("name", EACH_PAGE)
def test_a_page_says_what_it_is(site: str, name: str) -> None:
    text = (SITE / name).read_text(encoding="utf-8")
    title = re.search("<title>(.*?)</title>", text)
    assert title is not None
    parts = title[1].split(" &#8212; ")
    assert len(parts) == len(set(parts)) <= 2
    described = dict(re.findall(r'<meta (?:property|name)="([^"]+)" content="([^"]*)" />', text))
    assert len(described["description"]) > 40
    assert described["og:title"]
    assert ((SITE / name).parent / described["og:image"]).is_file()
    assert "Last updated on" in text
    assert re.search(r'class="snp-version">\d', text)


def test_the_first_address_has_card_and_icon(site: str) -> None:
    text = (SITE / "index.html").read_text(encoding="utf-8")
    assert 'url=book/intro.html"' in text
    assert (SITE / re.findall(r'<link rel="icon" href="([^"]+)"', text)[0]).is_file()
    with Image.open(SITE / re.findall(r'"og:image" content="([^"]+)"', text)[0]) as card:
        assert card.size == (1200, 630)


@pytest.mark.parametrize("name", READERS)
def test_readers_answer_in_the_pages(browser: Browser, site: str, name: str) -> None:
    with opened(browser, site, f"book/{name}.html", 1400) as (page, problems):
        page.wait_for_selector(".snp-said")
        before = page.locator(".snp-said").inner_text()
        page.get_by_label("θ = 0.30").press("ArrowRight")
        page.wait_for_function("before => document.querySelector('.snp-said').textContent !== before", arg=before)
        assert page.locator(".snp-said").inner_text().startswith(before.split(" θ = ")[0] + " θ = 0.31: ")
        page.get_by_text("outputs shuffled").click()
        page.wait_for_function("document.querySelector('.snp-said').textContent.includes(', outputs shuffled: ')")
        assert problems == []


@pytest.mark.parametrize(("name", "text"), [(WIDGETS, ".widget-label"), ("book/intro.html", "snp-reader .snp-slider b")])
def test_text_is_legible_in_dark_mode(browser: Browser, site: str, name: str, text: str) -> None:
    with opened(browser, site, name, 1400, scheme="dark") as (page, problems):
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        label = page.locator(f"{text}:visible").first
        brightness = "rgb => rgb.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 3"
        ink, ground = label.evaluate(
            f"""e => {{
                const brightness = {brightness};
                const text = brightness(getComputedStyle(e).color);
                while (e && /, 0\\)$|transparent/.test(getComputedStyle(e).backgroundColor)) e = e.parentElement;
                return [text, brightness(getComputedStyle(e).backgroundColor)];
            }}"""
        )
        assert ink - ground > 100, f"text of brightness {ink:.0f} on a ground of {ground:.0f}"
        assert problems == []
