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
BEFORE_PAINT = 400_000  # bytes as a compressing server sends them, two seconds of slow 4G
LANDING = 150_000  # of the landing page, less than one
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
        if page.locator("snp-reader").count():
            page.wait_for_selector(".snp-said")
        page.evaluate("[...document.images].forEach(i => i.loading = 'eager')")  # those that wait to come near
        page.wait_for_function("[...document.images].every(i => i.complete || !i.checkVisibility())")
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
    assert sum(sizes.values()) <= (LANDING if name == "book/intro.html" else BEFORE_PAINT), sizes


@pytest.mark.parametrize(
    ("name", "limit", "without"),
    [("intro", 1_300_000, "fontawesome.js|mathjax|embed-amd|require"), ("a2_snp_matrices", 4_000_000, "fontawesome.js|embed-amd|require")],
)
def test_a_page_with_a_reader_stays_light(browser: Browser, site: str, name: str, limit: int, without: str) -> None:
    """All that it asks for by itself, uncompressed: no widgets, on the landing page no formulas and one site of one run."""
    with opened(browser, site, f"book/{name}.html", 1400) as (page, _):
        page.wait_for_selector(".snp-said")
        asked = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    files = [SITE / address.partition("?")[0].removeprefix(f"{site}/") for address in asked]
    assert any(path.parent.name == "cct-medium-s0" and path.name.endswith(".trained.js") for path in files)
    assert not [path.name for path in files if re.search(without, str(path))]
    sizes = {path.name: path.stat().st_size for path in files}
    assert sum(sizes.values()) <= limit, sizes


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
        page.get_by_text("outputs shuffled", exact=True).click()
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


@pytest.mark.parametrize("width", WIDTHS)
def test_claims_are_chosen_by_paper_verdict_and_words(browser: Browser, site: str, width: int) -> None:
    with opened(browser, site, "book/scoreboard.html", width) as (page, problems):
        rows = page.locator(".snp-verdicts tbody tr")
        every = rows.count()
        assert page.locator(".snp-filter output").inner_text() == f"{every} of {every}"
        page.locator("select[name=verdict]").select_option("reproduced")
        page.locator("select[name=paper]").select_option("A")
        shown = page.locator(".snp-verdicts tbody tr:visible")
        assert 0 < shown.count() < every
        assert set(shown.locator("[data-column=verdict]").all_inner_texts()) == {"reproduced"}
        assert {text.strip() for text in shown.locator("[data-column=paper]").all_inner_texts()} == {"A"}
        page.get_by_label("words").fill("attention nodes rises")
        assert shown.count() == 1
        verdict = shown.locator("[data-column=verdict]").bounding_box()
        assert verdict is not None
        assert verdict["x"] + verdict["width"] <= width
        shown.get_by_role("link").click()
        assert page.url.endswith("/a2_snp_matrices.html")
        assert problems == []


def test_ids_lead_to_their_line_of_the_scoreboard(browser: Browser, site: str) -> None:
    with opened(browser, site, "book/status.html", 1400) as (page, problems):
        page.get_by_role("link", name="A.snr-rises-mha", exact=True).first.click()
        line = page.locator("[id='claim-A.snr-rises-mha']")
        line.wait_for()
        assert line.inner_text() == "The SNR of attention nodes rises along the encoders."
        assert problems == []
