"""The reader of a published page: the browser computes what Python computes, and does what a reader asks."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import launched, opened, served
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from playwright.sync_api import Browser, Page

from snp_lib import store
from snp_lib.interactive import reader
from snp_lib.machine import BOOK
from snp_lib.performance import binarize, find_clusters, summarize
from snp_lib.performance.clusters import cluster_index
from snp_lib.performance.density import snr_at_density
from snp_lib.results.sites import shuffle_outputs
from snp_lib.results.stages import Stage, matrices_at
from snp_lib.store import Run

THETAS = (0.05, 0.1, 0.3, 0.37, 0.6, 0.95)
RUNS = ("cct-medium-s0", "flowers-small-s0")
AVERAGES = ("labels", "clusters", "cluster_size", "noise", "snr")

PAGE = """<!doctype html><html data-theme="{theme}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><style>{variables}</style><link rel="stylesheet" href="reader.css"><script defer src="reader.js"></script>
<body><h1>Reader</h1>{reader}</body></html>"""
VARIABLES = """:root { --pst-color-text-base: #222; --pst-color-text-muted: #555; --pst-color-border: #bbb; --pst-color-surface: #f4f4f4 }
html[data-theme=dark] { --pst-color-text-base: #ddd; --pst-color-surface: #262b33; background: #14181e; color: #ddd }"""

SUMMARY = """async ([run, site, state, unit, cut]) => {
    const measured = await snpReader.siteOf(run, site, state), K = measured.labels;
    const { units, ...averages } = snpReader.summarize(measured, unit, cut), clusterOf = new Int8Array(units.length * K).fill(-1);
    units.forEach((u, n) => u.clusters.forEach((cluster, c) => cluster.forEach((label) => (clusterOf[n * K + label] = c))));
    const hex = [...new Uint8Array(clusterOf.buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return { clusterOf: hex, noise: units.map((u) => u.noise), averages };
}"""


@pytest.fixture(scope="module")
def run() -> Run:
    return store.read(store.root("records") / RUNS[0])


@pytest.fixture(scope="module")
def untrained(run: Run) -> dict[str, np.ndarray]:
    return dict(Stage(epoch=0).read(run))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, run: Run, untrained: dict[str, np.ndarray]) -> Path:
    """Pages with the reader and what it loads, as a build of the book has them."""
    folder = tmp_path_factory.mktemp("reader")
    flowers = store.read(store.root("records") / RUNS[1])
    for name, content in [*reader.files(run, shuffle_outputs, untrained), *reader.files(flowers, shuffle_outputs)]:
        path = folder / "reader" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    for name in ("reader.js", "reader.css"):
        (folder / name).write_bytes((BOOK / "_static" / name).read_bytes())
    pages = {
        "whole": reader.embed(run, "block7.ff", number=41, theta=0.3, runs=" ".join(RUNS)),
        "reduced": reader.embed(run, "block7.mha", unit="head", number=3, theta=0.2, reduced=True),
    }
    for name, element in pages.items():
        for theme in ("light", "dark"):
            text = PAGE.format(theme=theme, variables=VARIABLES, reader=element.data)
            (folder / f"{name}-{theme}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    """One page from a file, to compute in."""
    with opened(browser, folder.as_uri(), "whole-light.html", 1400) as (page, problems):
        page.wait_for_selector(".snp-said")
        yield page
        assert problems == []


def test_every_half_precision_number_is_read(page: Page) -> None:
    ours = np.array(page.evaluate("[...snpReader.HALVES]"), dtype=np.float32)
    np.testing.assert_array_equal(ours, np.arange(65536).astype("<u2").view("<f2").astype(np.float32))


def same(page: Page, matrices: np.ndarray, where: list[Any]) -> None:
    """The browser's clusters, noise and averages of a site are those of Python."""
    summary, seen = summarize(matrices, where[-1]["theta"]), page.evaluate(SUMMARY, where)
    assert bytes.fromhex(seen["clusterOf"]) == summary.cluster_of.astype(np.int8).tobytes()
    assert seen["noise"] == summary.noise.tolist()
    averages = summary.averages()
    for name in AVERAGES:
        assert seen["averages"][name] == pytest.approx(averages[name], rel=1e-12, nan_ok=True)


@pytest.mark.parametrize(("name", "theta"), [*((RUNS[1], theta) for theta in THETAS), (RUNS[0], 0.3)])
def test_every_node_and_head_of_every_site_equals_python(page: Page, name: str, theta: float) -> None:
    run = store.read(store.root("records") / name)
    for site in run.sites:
        same(page, run.matrices(site), [run.experiment.id, site, "trained", "node", {"theta": theta}])
    for site in run.sites_of("mha"):
        same(page, packed(run.arrays, site, run.num_heads), [run.experiment.id, site, "trained", "head", {"theta": theta}])


def packed(arrays: Any, site: str, units: int) -> np.ndarray:
    return reader.matrices(arrays[f"means_test/{site}"], arrays[f"weight/{site}"], units)


def test_heads_are_those_of_the_chapters_but_for_the_last_bit(run: Run) -> None:
    for site in run.sites_of("mha"):
        np.testing.assert_allclose(packed(run.arrays, site, run.num_heads), run.matrices(site, unit="head"), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(packed(run.arrays, site, run.sites[site]), run.matrices(site))


@pytest.mark.parametrize("unit", ["node", "head"])
@pytest.mark.parametrize("state", ["untrained", "shuffled"])
def test_controls_equal_python(page: Page, run: Run, untrained: dict[str, np.ndarray], state: str, unit: str) -> None:
    site = "block6.mha"
    units = run.num_heads if unit == "head" else run.sites[site]
    matrices = packed(untrained if state == "untrained" else run.arrays, site, units)
    if state == "untrained":
        np.testing.assert_allclose(matrices, matrices_at(untrained, site, units), rtol=1e-4, atol=1e-6)
    else:
        matrices = shuffle_outputs(matrices, seed=run.experiment.seed)
    same(page, matrices, [run.experiment.id, site, state, unit, {"theta": 0.3}])


@pytest.mark.parametrize("ones", [1, 100, 3000])
def test_equal_density_equals_python(page: Page, run: Run, ones: int) -> None:
    site = "block3.ff"
    matrices = run.matrices(site)
    seen = page.evaluate(SUMMARY, [run.experiment.id, site, "trained", "node", {"ones": ones}])
    assert seen["averages"]["snr"] == pytest.approx(snr_at_density(matrices, ones), rel=1e-12)
    assert seen["averages"]["ones"] == ones
    index = cluster_index(np.stack([largest(matrix, ones) for matrix in matrices]))
    assert bytes.fromhex(seen["clusterOf"]) == index.astype(np.int8).tobytes()


def largest(matrix: np.ndarray, ones: int) -> np.ndarray:
    """The largest elements of a matrix, among equals those earlier in reading order; none of a silent one."""
    binary = np.zeros(matrix.size, dtype=bool)
    if matrix.max() > 0:
        binary[np.argsort(-matrix.ravel(), kind="stable")[:ones]] = True
    return binary.reshape(matrix.shape)


@settings(max_examples=40)
@given(
    matrix=st.sampled_from([2, 3, 10]).flatmap(
        lambda k: hnp.arrays(
            np.float32, (k, k), elements=st.sampled_from([-2.0, -0.0, 0.0, 0.1, 0.3, 0.5, 1.0]) | st.floats(-2, 2, width=32)
        )
    ),
    theta=st.sampled_from(THETAS),
    ones=st.integers(1, 120),
)
def test_any_matrix_equals_python(page: Page, matrix: np.ndarray, theta: float, ones: int) -> None:
    """Ties at θ, zeros, silent units, two labels."""
    seen = page.evaluate(
        """([text, K, cuts]) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const seen = cuts.map((cut) => snpReader.look(new Float32Array(bytes.buffer), K, cut));
            return seen.map(({ binary, ...rest }) => ({ ...rest, binary: [...binary] }));
        }""",
        [base64.b64encode(matrix.astype("<f4").tobytes()).decode(), len(matrix), [{"theta": theta}, {"ones": min(ones, matrix.size)}]],
    )
    for answer, binary in zip(seen, (binarize(matrix[None], theta)[0], largest(matrix, ones)), strict=True):
        assert answer["binary"] == binary.ravel().astype(int).tolist()
        assert answer["clusters"] == find_clusters(binary)
        assert answer["noise"] == binary.sum() - sum(len(cluster) ** 2 for cluster in find_clusters(binary))


def test_an_address_names_a_view_and_nothing_else_does(page: Page) -> None:
    addresses = [
        "cct-medium-s0/block7.ff/17/0.37/c",
        "cct-medium-s0/block7/0/0.05/g/untrained",
        "flowers-small-s0/block5.mha/h2/n300/c/shuffled",
    ]
    assert page.evaluate("(texts) => texts.map((text) => snpReader.address(snpReader.parse(text)))", addresses) == addresses
    wrong = ["", "a/b/1/2/c", "a/b/h0/0.3/c", "a/b/1/0.3/x", "a/b/1/0.3/c/other", "a/b/-1/0.3/c", 'a/"><script>/1/0.3/c']
    assert page.evaluate("(texts) => texts.map(snpReader.parse)", wrong) == [None] * len(wrong)


@pytest.mark.parametrize(
    ("over", "width", "scheme"), [("file", 400, "dark"), ("file", 1400, "light"), ("http", 400, "light"), ("http", 1400, "dark")]
)
def test_the_reader_fits_and_asks_no_one_else(browser: Browser, folder: Path, over: str, width: int, scheme: str) -> None:
    with served(folder) as address:
        site = address if over == "http" else folder.as_uri()
        for name in ("whole", "reduced"):
            with opened(browser, site, f"{name}-{scheme}.html", width, scheme) as (page, problems):
                page.wait_for_selector(".snp-said")
                if name == "whole":
                    page.wait_for_selector(".snp-along circle", state="attached")
                assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
                assert problems == []


def said(page: Page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('.snp-said')?.textContent.includes(text)", arg=text)


def test_keys_move_the_threshold_and_python_says_the_same(browser: Browser, folder: Path, run: Run) -> None:
    with opened(browser, folder.as_uri(), "whole-light.html", 1400) as (page, problems):
        page.wait_for_selector(".snp-said")
        page.get_by_label("θ = 0.30").focus()
        for _ in range(7):
            page.keyboard.press("ArrowRight")
        said(page, "θ = 0.37")
        caption = re.sub("<[^>]+>", "", str(reader.embed(run, "block7.ff", number=41, theta=0.37).data).partition("<p>")[2])
        assert caption.startswith(page.locator(".snp-said").inner_text())
        assert page.locator("canvas").last.get_attribute("aria-label") == f"Matrix of {page.locator('.snp-said').inner_text()}"
        page.wait_for_function("location.hash === '#reader=cct-medium-s0/block7.ff/41/0.37/c'")
        assert problems == []


def test_cells_are_inked_where_python_has_ones(browser: Browser, folder: Path, run: Run) -> None:
    with opened(browser, folder.as_uri(), "whole-light.html#reader=cct-medium-s0/block5.ff_hidden/3/0.2/g", 1400) as (page, _):
        said(page, "block5.ff_hidden, node 3, θ = 0.2:")
        page.wait_for_timeout(500)  # labels walk to their places
        inked = page.evaluate(
            """() => {
                const canvas = [...document.querySelectorAll("canvas")].at(-1), { width } = canvas, side = width / 100;
                const { data } = canvas.getContext("2d").getImageData(0, 0, width, width), middle = (k) => Math.floor((k + 0.5) * side);
                return [...Array(10000).keys()].map((k) => data[4 * (middle(Math.floor(k / 100)) * width + middle(k % 100)) + 3] > 0);
            }"""
        )
    assert inked == binarize(run.matrices("block5.ff_hidden"), 0.2)[3].ravel().tolist()


def test_a_shared_address_opens_head_control_and_flowers(browser: Browser, folder: Path) -> None:
    with opened(browser, folder.as_uri(), "whole-light.html#reader=cct-medium-s0/block7.mha/h3/0.2/c/untrained", 400) as (page, problems):
        said(page, "block7.mha, head 3, θ = 0.2, untrained: ")
        page.get_by_label("trained", exact=True).check()
        said(page, "block7.mha, head 3, θ = 0.2: 32 labels in 25 clusters")
        page.get_by_label("the n largest").check()
        said(page, "head 3, 100 ones: ")
        page.get_by_label("network").select_option("flowers-small-s0")
        said(page, "block5.mha, head 1, 100 ones: ")
        assert not page.get_by_text("untrained", exact=True).is_visible()  # this run kept no class means from before its training
        name = page.locator("[data-cluster]").first.inner_text().split(" + ")[0]
        page.get_by_label("which units of this site know").fill(name)
        hits = page.locator(".snp-hits button")
        hits.first.click()
        said(page, f"block5.mha, {hits.first.inner_text().partition(':')[0]}, 100 ones: ")
        assert name in [label for chip in page.locator("[data-cluster]").all_inner_texts() for label in chip.split(" + ")]
        assert problems == []


def test_without_its_data_the_picture_stays(browser: Browser, folder: Path) -> None:
    text = (folder / "whole-light.html").read_text(encoding="utf-8").replace('run="cct-medium-s0"', 'run="cct-smoke-s0"')
    (folder / "unpacked.html").write_text(text.replace('runs="', 'other="'), encoding="utf-8")
    with opened(browser, folder.as_uri(), "unpacked.html", 400) as (page, _):
        assert page.locator("snp-reader .snp-pixels").count() == 2
        assert "node 41, θ = 0.3" in page.locator("snp-reader").inner_text()


def test_sizes_stay_within_the_budget(folder: Path, run: Run) -> None:
    assert (folder / "reader.js").stat().st_size <= 30_000
    assert (folder / "reader.css").stat().st_size <= 8_000
    packed = folder / "reader" / run.experiment.id
    assert (packed / "index.js").stat().st_size <= 10_000
    assert max(path.stat().st_size for path in packed.iterdir()) <= 280_000
    assert len(list(packed.iterdir())) == 1 + 3 * len(run.sites)


def test_only_what_half_precision_holds_is_packed(run: Run) -> None:
    site = next(iter(run.sites))
    arrays = run.arrays | {f"weight/{site}": run.arrays[f"weight/{site}"].astype(np.float32) + np.float32(1e-6)}
    other = Run(run.experiment, run.path, run.manifest)
    other.__dict__["arrays"] = arrays  # as if it had been read so
    with pytest.raises(ValueError, match="half precision"):
        list(reader.files(other, shuffle_outputs))


def test_more_labels_than_a_byte_counts_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="has 257 labels"):
        next(iter(reader.files(Run(run.experiment, run.path, run.manifest | {"class_names": ["label"] * 257}), shuffle_outputs)))


def test_a_unit_that_is_not_there_is_named(run: Run) -> None:
    with pytest.raises(IndexError, match="has 4 units \\(head\\), numbered from 1; there is no 5"):
        reader.embed(run, "block7.mha", unit="head", number=5)
