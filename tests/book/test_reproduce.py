"""Chapters are executed side by side; an executed one is stored as the same text whenever it holds the same things."""

from __future__ import annotations

import copy
import json
import os
import re
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat
import pytest

from snp_lib import reproduce
from snp_lib.paths import BOOK
from snp_lib.reporting import Reported
from snp_lib.reproduce import tidy

WIDGETS = "application/vnd.jupyter.widget-state+json"


def stored(name: str) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads((BOOK / name).read_text())
    return notebook


def with_fresh_ids(notebook: dict[str, Any]) -> dict[str, Any]:
    """As another execution would name the widgets: at random, sorted by name."""
    fresh = {name: uuid.uuid4().hex for name in notebook["metadata"]["widgets"][WIDGETS]["state"]}
    renamed: dict[str, Any] = json.loads(re.sub("|".join(fresh), lambda match: fresh[match[0]], json.dumps(notebook)))
    widgets = renamed["metadata"]["widgets"][WIDGETS]
    widgets["state"] = dict(sorted(widgets["state"].items()))
    return renamed


def test_widgets_named_anew_give_the_same_text() -> None:
    notebook = stored("02_snp_matrices.ipynb")
    assert tidy(with_fresh_ids(notebook)) == tidy(with_fresh_ids(notebook))


def test_renaming_keeps_every_widget_and_what_it_refers_to() -> None:
    before = with_fresh_ids(stored("02_snp_matrices.ipynb"))
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


def test_stored_chapters_are_tidy() -> None:
    for path in sorted(BOOK.glob("[0-9]*.ipynb")):
        assert tidy(json.loads(path.read_text())) == path.read_text(), f"{path.name}: run `snp reproduce {path.stem} --in-place`"
        nbformat.validate(nbformat.read(path, 4))


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


@pytest.mark.filterwarnings("default")  # of the notebook tools and their kernels
def test_chapters_side_by_side_report_in_reading_order_and_a_failure_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    share = max(1, (os.cpu_count() or 1) // 2)
    slow = f"import os, time\ntime.sleep(3)\nassert (scale, os.environ['OMP_NUM_THREADS']) == ('smoke', '{share}')"
    chapter(tmp_path / "01_first.ipynb", slow, reports("A.clusters-small", 0.25))
    chapter(tmp_path / "02_broken.ipynb", "raise ValueError('no such node')")
    chapter(tmp_path / "03_last.ipynb", "from pathlib import Path\nassert Path('01_first.ipynb').exists()", reports("A.snr-rises-mha", 1.5))
    monkeypatch.setattr(reproduce, "BOOK", tmp_path)
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "runs"))
    assert reproduce.reproduce(scale="smoke", jobs=2) == 1
    printed = capsys.readouterr().out
    assert (
        printed.index("A.clusters-small") < printed.index("A.snr-rises-mha") < printed.index("FAILED 02_broken: ValueError: no such node")
    )
    assert {path.name for path in (tmp_path / "runs/chapters").iterdir()} >= {"01_first.ipynb", "03_last.ipynb"}


def test_numbers_are_accepted_one_chapter_at_a_time() -> None:
    with pytest.raises(reproduce.ReproduceError, match="one chapter at a time"):
        reproduce.reproduce(accept=True, jobs=2)
