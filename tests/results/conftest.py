"""A run with stages, its measurements beside it, and four members of committees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from shared import shortened, shortened_vgg

from snp_lib import store
from snp_lib.results import measure
from snp_lib.store import Run


@pytest.fixture(scope="session")
def run_with_stages(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("stages")))
        return store.run(replace(shortened("staged"), snapshots=(1,)), device="cpu", progress=False)


@pytest.fixture
def staged(run_with_stages: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Of two epochs, with a snapshot after the first; what is measured of it stays, and no record is in reach."""
    monkeypatch.setenv("SNP_RUNS_DIR", str(run_with_stages.path.parent))
    monkeypatch.setenv("SNP_RECORDS_DIR", str(tmp_path / "records"))
    return run_with_stages


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Trained for an epoch each: two and four heads of seed 0, and the same of seed 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("members")))
        found = []
        for seed in (0, 1):
            for heads in (2, 4):
                base = shortened(f"members-h{heads}", seed)
                options = base.model_options | {"num_heads": heads}
                short = replace(
                    base, model_options=options, recipe=replace(base.recipe, epochs=1), readout=replace(base.readout, kinds=("mha",))
                )
                found.append(store.run(short, device="cpu", progress=False))
        return found


@pytest.fixture(scope="module")
def filters_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the tests of one module."""
    return tmp_path_factory.mktemp("filters")


@pytest.fixture(scope="module")
def vgg_run(filters_folder: Path) -> Run:
    """A small VGG-11 whose filters are measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(filters_folder))
        finished = store.run(shortened_vgg(), device="cpu", progress=False)
        measure([finished], "filters", device="cpu", progress=False)
        return finished
