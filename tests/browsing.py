"""A real browser without a network, and what goes wrong in its pages."""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from shared import skip

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
WIDTHS = (400, 1400)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a folder, served from a thread."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A running browser; skips the test where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        skip("browser")
    with sync_playwright() as playwright, contextlib.closing(playwright.chromium.launch(executable_path=program, args=FLAGS)) as browser:
        yield browser


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
        yield page, problems
