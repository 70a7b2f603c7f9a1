"""Files and folders that appear whole or not at all (defined here)."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from snp_lib.paths import runs_dir


@contextmanager
def locked(run_id: str, progress: bool) -> Iterator[None]:
    """Hold the one lock of a run; waits, and with ``progress`` says so, while another process has it."""
    folder = runs_dir() / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{run_id}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if progress:
            print(f"another process is making {run_id}; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def replace_folder(source: Path, target: Path) -> None:
    """Rename a finished folder to ``target``; what stood there goes, or comes back if the renaming fails (OSError)."""
    old = target.with_name(f".{target.name}.old-{uuid.uuid4().hex[:8]}")
    if target.exists():
        target.rename(old)
    try:
        source.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it; raises OSError."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex digits; raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
