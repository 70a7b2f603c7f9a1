"""Chapters are executed side by side; an executed one is stored as the same text whenever it holds the same things."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import nbformat
import pytest
import yaml

from snp_lib.book.chapters import LAST, ReproduceError, chapters, from_the_middle, parts, reproduce, select
from snp_lib.book.claims import load_claims
from snp_lib.book.notebook import tidy
from snp_lib.book.reporting import Reported
from snp_lib.interactive.explorer import explore
from snp_lib.machine import BOOK
from snp_lib.store import Run

WIDGETS = "application/vnd.jupyter.widget-state+json"


@pytest.fixture(scope="module")
def explored(smoke_run: Run) -> dict[str, Any]:
    """A notebook that shows an explorer, as a kernel stores it."""
    widgets.Widget.close_all()
    view = explore(smoke_run)
    state = widgets.Widget.get_manager_state()
    data = {
        "text/plain": "VBox()",
        "application/vnd.jupyter.widget-view+json": {"model_id": view.model_id, "version_major": 2, "version_minor": 0},
    }
    output = {"output_type": "display_data", "data": data, "metadata": {}}
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "explore(run)", "outputs": [output], "execution_count": 1}
    return {"metadata": {"widgets": {WIDGETS: state}}, "cells": [cell], "nbformat": 4, "nbformat_minor": 5}


def with_fresh_ids(notebook: dict[str, Any]) -> dict[str, Any]:
    """As another execution would name the widgets: at random, sorted by name."""
    fresh = {name: uuid.uuid4().hex for name in notebook["metadata"]["widgets"][WIDGETS]["state"]}
    renamed: dict[str, Any] = json.loads(re.sub("|".join(fresh), lambda match: fresh[match[0]], json.dumps(notebook)))
    widgets = renamed["metadata"]["widgets"][WIDGETS]
    widgets["state"] = dict(sorted(widgets["state"].items()))
    return renamed


def test_widgets_named_anew_give_the_same_text(explored: dict[str, Any]) -> None:
    assert tidy(with_fresh_ids(explored)) == tidy(with_fresh_ids(explored))


def test_renaming_keeps_every_widget_and_what_it_refers_to(explored: dict[str, Any]) -> None:
    before = with_fresh_ids(explored)
    after = json.loads(tidy(copy.deepcopy(before)))
    old, new = (n["metadata"]["widgets"][WIDGETS]["state"] for n in (before, after))
    assert len(old) == len(new) > 100
    assert all(name in new for name in re.findall(r"IPY_MODEL_(\w+)", json.dumps(new)))
    views = [
        output["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
        for cell in after["cells"]
        for output in cell.get("outputs", [])
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    assert views
    assert all(view in new for view in views)
    kinds = [sorted(model["model_name"] for model in state.values()) for state in (old, new)]
    assert kinds[0] == kinds[1]


def test_what_papermill_adds_is_left_out_and_the_rest_is_kept() -> None:
    cells = [{"cell_type": "code", "metadata": {"papermill": {}, "tags": ["x"]}, "source": "1", "outputs": []}]
    cells.append({"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": "a = 2", "outputs": []})
    notebook = {"metadata": {"papermill": {"duration": 3}, "kernelspec": {}}, "cells": cells, "nbformat": 4, "nbformat_minor": 5}
    kept = json.loads(tidy(notebook))
    assert kept["metadata"] == {"kernelspec": {}}
    assert [(cell["source"], cell["metadata"]) for cell in kept["cells"]] == [("1", {"tags": ["x"]})]


def test_every_notebook_is_in_the_book_and_stored_tidy() -> None:
    assert set(chapters().values()) == set(BOOK.glob("*.ipynb"))
    for path in chapters().values():
        text = path.read_text(encoding="utf-8")
        assert tidy(json.loads(text)) == text, f"{path.name}: run `snp reproduce {path.stem} --in-place`"
        nbformat.validate(nbformat.read(path, 4))


def test_chapters_come_in_reading_order_and_are_chosen_by_their_beginning() -> None:
    names = list(chapters())
    assert names[:4] == ["intro", "u1_your_network", "a1_training", "a2_snp_matrices"]
    assert names.index("e2_flowers") < names.index("scoreboard") < names.index("how_fast")
    assert list(parts()[LAST]) == ["scoreboard", "status", "how_fast"]
    assert list(select(["b1", "a2_snp_matrices", "how_fast"])) == ["b1_many_heads", "a2_snp_matrices", "how_fast"]
    assert list(select([])) == names
    with pytest.raises(ReproduceError, match="no chapter 'a'; there are intro, u1_your_network, "):
        select(["a"])


def test_neighbours_are_not_executed_side_by_side() -> None:
    assert from_the_middle([]) == []
    assert from_the_middle(list("abcde")) == list("bcade")
    assert from_the_middle(list("abcd")) == list("bcad")


def test_claims_name_chapters_of_the_book() -> None:
    short = {name.split("_")[0] for name in chapters()} | {"d5"}  # is to come
    assert {claim.chapter for claim in load_claims().values()} <= short


def chapter(path: Path, *cells: str) -> Path:
    """A notebook of a parameters cell and these cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in ('scale: str = "small"', *cells)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.cells[0].metadata.tags = ["parameters"]
    nbformat.write(notebook, path)
    return path


def reports(name: str, mean: float) -> str:
    """A cell that logs a number as `snp_lib.report` does."""
    number = Reported(
        name=name, mean=mean, sd=None, n=1, tol=0.1, seeds=[0], scale="smoke", experiment="cct", record="", verdict="reproduced"
    )
    return f"import os\nfrom pathlib import Path\nPath(os.environ['SNP_REPORT_LOG']).write_text({json.dumps(asdict(number)) + chr(10)!r})"


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a book of parts, title → name → cells, with runs and records of its own; returns its folder of chapters."""

    def make(**parts: dict[str, tuple[str, ...]]) -> Path:
        folder = tmp_path / "book"
        folder.mkdir()
        for pages in parts.values():
            for name, cells in pages.items():
                chapter(folder / f"{name}.ipynb", *cells)
        contents = [{"caption": title, "chapters": [{"file": f"book/{name}"} for name in pages]} for title, pages in parts.items()]
        (tmp_path / "_toc.yml").write_text(yaml.safe_dump({"root": "book/intro", "parts": contents}), encoding="utf-8")
        monkeypatch.setattr("snp_lib.book.chapters.BOOK", folder)
        for name in ("runs", "data", "records"):
            monkeypatch.setenv(f"SNP_{name.upper()}_DIR", name)  # not in full
        monkeypatch.chdir(tmp_path)
        return folder

    return make


@pytest.mark.filterwarnings("default")  # of the notebook tools and their kernels
def test_chapters_side_by_side_report_in_reading_order_and_a_failure_stops_no_other(
    book: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share = max(1, (os.cpu_count() or 1) // 2)
    slow = f"import os, time\ntime.sleep(3)\nassert (scale, os.environ['OMP_NUM_THREADS']) == ('smoke', '{share}')"
    here = "import os\nfrom pathlib import Path\nassert Path('z_first.ipynb').exists()\n"
    here += "\n".join(f"assert os.environ['SNP_{n.upper()}_DIR'] == {str(tmp_path / n)!r}" for n in ("runs", "data", "records"))
    waits = f"from pathlib import Path\nassert Path({str(tmp_path / 'runs/chapters/z_first.ipynb')!r}).exists()"
    book(
        Results={"board": (waits,)},
        A={"z_first": (slow, reports("A.clusters-small", 0.25)), "broken": ("raise ValueError('no such node')",)},
        B={"last": (here, reports("A.snr-rises-mha", 1.5))},
    )
    assert reproduce(scale="smoke", jobs=2) == 1
    printed = capsys.readouterr().out
    assert printed.index("A.clusters-small") < printed.index("A.snr-rises-mha") < printed.index("FAILED broken: ValueError: no such node")
    assert printed.count("FAILED") == 1
    assert {path.stem for path in (tmp_path / "runs/chapters").iterdir()} >= {"z_first", "last", "board"}


@pytest.mark.filterwarnings("default")
def test_what_chapters_accept_is_there_for_the_pages_that_show_it(book: Callable[..., Path], tmp_path: Path) -> None:
    accept = (
        "from pathlib import Path\nfrom snp_lib import report\nfrom snp_lib.experiments import get\nfrom snp_lib.store import Run\n"
        "run = Run(get('cct', 'small', 0), Path('nowhere'), {{'files': {{'arrays.npz': '0123456789'}}, 'device': ''}})\n"
        "report({name!r}, {mean}, 0.1, runs=[run])"
    )
    names = {"one": 2.0, "two": 3.0, "three": 4.0}
    board = "from snp_lib.book.reporting import published\nprint(sorted(published()['small']['cct']))"
    folder = book(A={name: (accept.format(name=name, mean=mean),) for name, mean in names.items()}, Results={"board": (board,)})
    assert reproduce(accept=True, in_place=True, jobs=2) == 0
    stored = json.loads((folder / "board.ipynb").read_text(encoding="utf-8"))
    (shown,) = stored["cells"][1]["outputs"]
    assert "".join(shown["text"]) == "['one', 'three', 'two']\n"
    assert "papermill" not in stored["metadata"]


def test_a_parameter_that_a_named_chapter_has_not_is_refused(book: Callable[..., Path]) -> None:
    book(A={"first": ()}, Results={"board": ()})
    with pytest.raises(ReproduceError, match="first has no parameter 'dataset'; it has scale"):
        reproduce(["first"], dataset="flowers102")


def test_without_a_book_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snp_lib.book.chapters.BOOK", tmp_path / "site-packages" / "book")
    with pytest.raises(ReproduceError, match=r"there is no book at .* a checkout"):
        reproduce(["a2"])


@pytest.mark.filterwarnings("default")
def test_a_script_without_a_main_guard_may_reproduce(tmp_path: Path) -> None:
    script = "from snp_lib.book.chapters import reproduce\nprint(reproduce(['how_fast'], jobs=2))"
    environment = os.environ | {"SNP_RUNS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-"], input=script, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "0"), done.stderr
