"""Every chapter from nothing: real data, real training, at the scale made for it; and the records of the other data set.

What `make book` has just executed from nothing, with this library and these cells, is looked at and not done once more.
"""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import papermill
import pytest

from snp_lib.book.chapters import chapters
from snp_lib.machine import BOOK, PROJECT

BUILT = PROJECT / "_build" / "smoke" / "chapters"
"""Where `make book` leaves the chapters that it executed from nothing."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder of runs that the chapters share, in every worker of pytest-xdist, so that each experiment is trained once."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "chapters"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # of the notebook tools and their kernels, not of this library
@pytest.mark.parametrize("name", chapters())
def test_chapter_runs_from_nothing_at_smoke_scale(name: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_fresh(BUILT, name):
        check(BUILT / f"{name}.ipynb")
        return
    monkeypatch.setenv("SNP_RUNS_DIR", str(runs))
    check(execute(name, tmp_path, monkeypatch, scale="smoke", seeds="0", device="cpu"))


FLOWERS = ("a1_training", "a2_snp_matrices", "a3_sharpening", "a4_symmetry_breaking", "a5_andc")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", FLOWERS)
def test_chapter_shows_the_flowers_from_the_records(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("SNP_DATA_DIR", str(tmp_path / "none"))  # nothing to train on: all comes from the records
    check(execute(name, tmp_path, monkeypatch, dataset="flowers102", scale="small"))


@pytest.mark.parametrize("name", chapters())
def test_a_chapter_is_short(name: str) -> None:
    code = [cell.source.splitlines() for cell in nbformat.read(chapters()[name], 4).cells if cell.cell_type == "code"]
    assert len(code) <= 12
    assert max(map(len, code)) <= 15
    assert any(line.startswith("parameters.check(globals()") for line in code[1])


def test_only_what_was_executed_with_this_code_is_fresh(tmp_path: Path) -> None:
    executed = nbformat.read(chapters()["scoreboard"], 4)
    nbformat.write(executed, tmp_path / "scoreboard.ipynb")
    assert is_fresh(tmp_path, "scoreboard")
    os.utime(tmp_path / "scoreboard.ipynb", (0, 0))  # older than the library
    assert not is_fresh(tmp_path, "scoreboard")
    executed.cells[-1].source += "1"
    nbformat.write(executed, tmp_path / "scoreboard.ipynb")
    assert not is_fresh(tmp_path, "scoreboard")
    assert not is_fresh(tmp_path, "status")


def is_fresh(folder: Path, name: str) -> bool:
    """Whether a chapter was executed there, with the cells that it has now and the library as it is now."""
    path = folder / f"{name}.ipynb"
    if not path.exists() or path.stat().st_mtime < max(file.stat().st_mtime for file in (PROJECT / "snp_lib").rglob("*.py")):
        return False
    there, here = (
        [cell.source for cell in nbformat.read(each, 4).cells if "injected-parameters" not in cell.metadata.get("tags", [])]
        for each in (path, chapters()[name])
    )
    return there == here


def execute(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **parameters: str) -> Path:
    """Run a chapter with those of the parameters that it has."""
    monkeypatch.delenv("SNP_ACCEPT", raising=False)
    notebook = chapters()[name]
    known = papermill.inspect_notebook(str(notebook))
    assert "dataset" not in parameters or "dataset" in known
    given, output = {key: value for key, value in parameters.items() if key in known}, folder / notebook.name
    papermill.execute_notebook(str(notebook), str(output), given, cwd=str(BOOK), progress_bar=False)
    return output


def check(executed: Path) -> None:
    """Every cell must have run, without an error."""
    code = [cell for cell in nbformat.read(executed, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
