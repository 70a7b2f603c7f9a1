"""Shape checks on the whole library, the shared fixtures, and the one list of skipped tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import jaxtyping
import pytest
import torch
from beartype import BeartypeConf, beartype
from hypothesis import settings

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number is a float too, as for mypy
jaxtyping.install_import_hook("snp_lib", "conftest.checked")  # before the library is first imported: every signature is checked

from snp_lib import data, experiments, store  # noqa: E402
from snp_lib.data import Dataset, Split  # noqa: E402

settings.register_profile("same_every_time", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("same_every_time")
torch.set_num_threads(1)  # bit-for-bit comparisons hold for one thread count

SKIPS = {
    "cifar100": "set SNP_TEST_DATA to a folder that holds cifar-100-python (torchvision's layout)",
    "flowers102": "set SNP_TEST_DATA to a folder that holds flowers-102 (torchvision's layout)",
    "book": "build the book first (make book): the browser tests open its pages",
    "cuda": "run on a machine with a CUDA device: a graph is recorded there",
    "browser": "install Chromium: the browser tests need a browser",
}


def skip(name: str) -> NoReturn:
    """Skip the running test for a reason of the list above."""
    pytest.skip(SKIPS[name])


@contextmanager
def unchecked() -> Iterator[None]:
    """Signatures unchecked, as for a reader, so that the library's own check of a wrong value is reached."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def shortened(name: str = "cct-test", seed: int = 0) -> experiments.Experiment:
    """The smoke experiment with two epochs for the network and two for the readouts."""
    smoke = experiments.get("cct", "smoke", seed)
    return smoke.vary(name, snapshots=None, recipe=replace(smoke.recipe, epochs=2, eval_every=1), readout=replace(smoke.readout, epochs=2))


def first_digits() -> Dataset:
    """The first 192 training and 100 test images, at 8 pixels: real, and trained on in a blink."""
    digits = data.load("digits")
    train, test = (Split(s.images[:n], s.labels[:n]) for s, n in ((digits.train, 192), (digits.test, 100)))
    return replace(digits, train=train, test=test)


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


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and records of this test alone: ``runs/`` and ``records/`` below the folder returned."""
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "runs"))
    for module in ("store", "reporting", "cli"):
        monkeypatch.setattr(f"snp_lib.{module}.RECORDS", tmp_path / "records")
    return tmp_path


@pytest.fixture
def catalogue(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The catalogue has one more entry, which trains in seconds."""
    entry = experiments.Entry(
        build=lambda scale, seed: shortened(seed=seed), summary="for tests", cost={"smoke": "seconds"}, expected={"smoke": "little"}
    )
    monkeypatch.setitem(experiments.CATALOGUE, "cct-test", entry)
    return own_folders
