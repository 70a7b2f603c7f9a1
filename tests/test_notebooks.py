"""Every chapter from nothing: real data, real training, at the scale made for it; some on the other data set too.

One seed, so that nothing needs a second one; `make book` runs them with two.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import papermill
import pytest

from snp_lib.paths import BOOK
from snp_lib.reproduce import chapters


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder of runs that the chapters share, so that each experiment is trained once."""
    return tmp_path_factory.mktemp("runs")


OTHER_DATASET = ("02_snp_matrices", "04_symmetry_breaking")  # they share the runs of chapter 13, the one about Flowers-102


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # of the notebook tools and their kernels, not of this library
@pytest.mark.parametrize(("name", "dataset"), [*((name, None) for name in chapters()), *((name, "flowers102") for name in OTHER_DATASET)])
def test_chapter_runs_from_nothing_at_smoke_scale(
    name: str, dataset: str | None, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(runs))
    monkeypatch.delenv("SNP_ACCEPT", raising=False)
    notebook = chapters()[name]
    known = papermill.inspect_notebook(str(notebook))
    wanted = {"scale": "smoke", "seeds": "0", "device": "cpu"}
    given = {key: value for key, value in wanted.items() if key in known}
    if dataset is not None:
        assert "dataset" in known
        given["dataset"] = dataset
    output = tmp_path / notebook.name
    papermill.execute_notebook(str(notebook), str(output), given, cwd=str(BOOK), progress_bar=False)
    code = [cell for cell in nbformat.read(output, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
