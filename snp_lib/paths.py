"""Where the project keeps what it reads and writes."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
RECORDS = PROJECT / "data" / "records"
BOOK = PROJECT / "book"


def data_dir() -> Path:
    """Folder of the data sets: ``SNP_DATA_DIR``, else ``data/cache/`` of the project."""
    return Path(os.environ.get("SNP_DATA_DIR") or PROJECT / "data" / "cache").expanduser()


def runs_dir() -> Path:
    """Folder of this user's own runs: ``SNP_RUNS_DIR``, else ``runs/`` of the project."""
    return Path(os.environ.get("SNP_RUNS_DIR") or PROJECT / "runs").expanduser()
