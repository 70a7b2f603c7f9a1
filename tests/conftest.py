"""Shape checks on the whole library, and the shared fixtures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings

jaxtyping.install_import_hook("snp_lib", "checking.checked")  # before the library is first imported: every signature is checked

from shared import first_digits, shortened  # noqa: E402

from snp_lib import experiments, machine, store  # noqa: E402
from snp_lib.data import Dataset  # noqa: E402

machine.import_torchvision()  # before tests and their twins import it

settings.register_profile("same_every_time", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("same_every_time")
torch.set_num_threads(1)  # bit-for-bit comparisons hold for one thread count


@pytest.fixture(scope="session")
def few_digits() -> Dataset:
    return first_digits()


@pytest.fixture(scope="session")
def smoke_runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def smoke_run(smoke_runs_dir: Path) -> store.Run:
    """One finished run, trained once for all tests; read it, copy it, never change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(smoke_runs_dir))
        return store.run(shortened(), device="cpu", progress=False)


@pytest.fixture(scope="module")
def staged_run(tmp_path_factory: pytest.TempPathFactory) -> store.Run:
    """A run with snapshots before training and after the first of two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("staged")))
        return store.run(replace(shortened("staged"), snapshots=(0, 1)), device="cpu", progress=False)


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and records of this test alone: ``runs/`` and ``records/`` below the folder returned."""
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("SNP_RECORDS_DIR", str(tmp_path / "records"))
    return tmp_path


@pytest.fixture
def catalogue(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The catalogue has one more entry, which trains in seconds."""
    entry = experiments.Entry(build=lambda scale, seed: shortened(seed=seed), summary="for tests", cost={"smoke": "seconds"})
    monkeypatch.setitem(experiments.CATALOGUE, "cct-test", entry)
    return own_folders
