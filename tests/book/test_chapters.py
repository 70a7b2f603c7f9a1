"""Every chapter from nothing: real data, real training, at the scale made for it; and the records of the other data set.

One seed, so that nothing needs a second one; `make book` runs them with two.
"""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import papermill
import pytest

from snp_lib.paths import BOOK
from snp_lib.reproduce import chapters


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
    monkeypatch.setenv("SNP_RUNS_DIR", str(runs))
    execute(name, tmp_path, monkeypatch, scale="smoke", seeds="0", device="cpu")


FLOWERS = ("02_snp_matrices", "03_sharpening", "04_symmetry_breaking", "05_andc")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", FLOWERS)
def test_chapter_shows_the_flowers_from_the_records(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("SNP_DATA_DIR", str(tmp_path / "none"))  # nothing to train on: all comes from the records
    execute(name, tmp_path, monkeypatch, dataset="flowers102")


def execute(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **parameters: str) -> None:
    """Run a chapter with those of the parameters that it has; every cell must have run, without an error."""
    monkeypatch.delenv("SNP_ACCEPT", raising=False)
    notebook = chapters()[name]
    known = papermill.inspect_notebook(str(notebook))
    assert "dataset" not in parameters or "dataset" in known
    given, output = {key: value for key, value in parameters.items() if key in known}, folder / notebook.name
    papermill.execute_notebook(str(notebook), str(output), given, cwd=str(BOOK), progress_bar=False)
    code = [cell for cell in nbformat.read(output, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
