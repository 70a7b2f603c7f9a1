"""The library where it is installed, not checked out: nothing is written beside it, and nothing is trained unseen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parent.parent / "snp_lib"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds the library and nothing else of the project."""
    folder = tmp_path_factory.mktemp("packages")
    shutil.copytree(LIBRARY, folder / "snp_lib", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def call(installed: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SNP_")}
    environment |= {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1", "XDG_DATA_HOME": str(home / "data")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=home, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=120
    )


def test_a_missing_record_is_said_before_anything_is_trained(installed: Path, tmp_path: Path) -> None:
    before = sorted(installed.rglob("*"))
    answer = call(installed, tmp_path, "-c", "from snp_lib import run, experiments as e; run(e.get('cct', 'small', seed=0))")
    assert answer.returncode == 1
    last = answer.stderr.strip().splitlines()[-1]
    assert last.startswith("snp_lib.store.disk.StoreError: there is no run cct-small-s0 in ")
    assert "nor any record: the installed library comes without them" in last
    assert "snp train cct --scale small --seeds 0" in last
    assert sorted(installed.rglob("*")) == before
    assert not list(tmp_path.iterdir())


def test_folders_are_the_user_s(installed: Path, tmp_path: Path) -> None:
    ask = "from snp_lib import machine as m; print(m.runs_dir(), m.data_dir(), m.records_dir(), sep='\\n')"
    folders = call(installed, tmp_path, "-c", ask).stdout.split()
    assert folders == [str(tmp_path / "data" / "snp_lib" / part) for part in ("runs", "data/cache", "data/records")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify"], "there is nothing to check in"),
        (["reproduce", "a2"], "its chapters come with a checkout of the project"),
        (["measure", "cct", "--scale", "small"], "cct-small-s0 has no finished run; make it with"),
    ],
)
def test_commands_say_what_is_not_there(arguments: list[str], message: str, installed: Path, tmp_path: Path) -> None:
    answer = call(installed, tmp_path, "-m", "snp_lib.cli", *arguments)
    assert answer.returncode == 1
    assert message in answer.stderr


def test_smoke_is_trained_into_the_user_s_folder(installed: Path, tmp_path: Path) -> None:
    answer = call(installed, tmp_path, "-m", "snp_lib.cli", "train", "cct", "--scale", "smoke", "--seeds", "0", "--device", "cpu")
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "data" / "snp_lib" / "runs" / "cct-smoke-s0" / "manifest.json").exists()
