"""Every built page in a real browser with the network off: what a reader sees, at the width of a phone and of a desk."""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from shared import skip

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
PAGES = sorted(p.relative_to(SITE).as_posix() for p in SITE.glob("book/*.html"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
WIDTHS = (400, 1400)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Address of the built book, served from a thread."""
    if not PAGES:
        skip("book")
    handler = functools.partial(_Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        skip("browser")
    with sync_playwright() as playwright, contextlib.closing(playwright.chromium.launch(executable_path=program, args=FLAGS)) as launched:
        yield launched


@contextlib.contextmanager
def opened(browser: Browser, site: str, name: str, width: int, scheme: str = "light") -> Iterator[tuple[Page, list[str]]]:
    """A page after loading, and the list of everything that went wrong while it is open."""
    with contextlib.closing(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)) as context:  # type: ignore[arg-type]
        context.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        page = context.new_page()
        problems: list[str] = []

        def local_only(route) -> None:  # type: ignore[no-untyped-def]
            if route.request.url.startswith((site, "data:", "blob:")):
                route.continue_()
            else:
                problems.append(f"request to another host: {route.request.url}")
                route.abort()

        context.route("**/*", local_only)
        page.on("console", lambda message: problems.append(f"console: {message.text}") if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(f"script: {error}"))
        page.on("response", lambda response: problems.append(f"{response.status}: {response.url}") if response.status >= 400 else None)
        page.goto(f"{site}/{name}", wait_until="load")
        if page.locator("script[type='application/vnd.jupyter.widget-view+json']").count():
            page.wait_for_selector(".jupyter-widgets")
        page.wait_for_load_state("networkidle")
        yield page, problems


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES or [pytest.param("", id="no-built-book")])
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


EXPLORERS = ("a2_snp_matrices", "e2_flowers")


def shown(page: Page) -> tuple[str, str]:
    """Address of the first picture that the explorer shows now, and the caption."""
    page.wait_for_timeout(300)
    pair = page.locator(".snp-pair:visible")
    assert pair.count() == 1
    assert pair.locator("img").count() == 2
    return str(pair.locator("img").first.get_attribute("src")), pair.locator("xpath=following-sibling::p").inner_text()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", EXPLORERS)
def test_explorer_switches_in_the_browser_alone(browser: Browser, site: str, name: str, width: int) -> None:
    with opened(browser, site, f"book/{name}.html", width) as (page, problems):
        page.wait_for_selector(".snp-pixels:visible")
        seen = [shown(page)]
        page.locator(".widget-dropdown select:visible").first.select_option(index=0)
        seen.append(shown(page))
        page.locator(".widget-slider:visible .noUi-handle").first.press("ArrowRight")
        seen.append(shown(page))
        assert seen[1][1].startswith("block1.mha, node")
        assert "θ = 0.4" in seen[2][1]
        page.get_by_role("button", name="heads").click()
        for head in range(1, 5):
            page.get_by_role("button", name=f"head {head}").click()
            seen.append(shown(page))
            assert f"mha, head {head}, θ = 0.4: " in seen[-1][1]
        assert len({picture for picture, _ in seen}) == 7, "the picture stays the same when site, θ or head change"
        assert problems == []


def test_text_is_legible_in_dark_mode(browser: Browser, site: str) -> None:
    with opened(browser, site, "book/a2_snp_matrices.html", 1400, scheme="dark") as (page, problems):
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        label = page.locator(".widget-label:visible").first
        brightness = "rgb => rgb.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 3"
        text, ground = label.evaluate(
            f"""e => {{
                const brightness = {brightness};
                const text = brightness(getComputedStyle(e).color);
                while (e && /, 0\\)$|transparent/.test(getComputedStyle(e).backgroundColor)) e = e.parentElement;
                return [text, brightness(getComputedStyle(e).backgroundColor)];
            }}"""
        )
        assert text - ground > 100, f"text of brightness {text:.0f} on a ground of {ground:.0f}"
        assert problems == []
