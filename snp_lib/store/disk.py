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

from snp_lib.machine import runs_dir


class StoreError(RuntimeError):
    """What is stored is damaged, of another format or of another definition of its experiment, or cannot be written."""


class OutdatedError(StoreError):
    """A run or record is whole, but of another definition of its experiment."""


@contextmanager
def locked(run_id: str, progress: bool) -> Iterator[None]:
    """Hold the one lock of a run; waits, and with ``progress`` says so, while another process has it.

    Raises:
        StoreError: the folder of the runs cannot be written to.
    """
    folder = runs_dir() / ".locks"
    lock = FileLock(folder / f"{run_id}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        if progress:
            print(f"another process is making {run_id}; waiting for it", flush=True)
        lock.acquire()
    except OSError as error:
        raise StoreError(
            f"{run_id}: cannot write to {runs_dir()} ({error.strerror or error}). Choose a folder you can write to: "
            "the environment variable SNP_RUNS_DIR."
        ) from error
    try:
        yield
    finally:
        lock.release()


def replace_folder(source: Path, target: Path) -> None:
    """Rename a finished folder to ``target``; what stood there goes, or comes back if the renaming fails (OSError)."""
    flush(source)
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
    flush(target.parent)


def replace_file(target: Path, content: bytes) -> Path:
    """Write a file that appears whole, in the place of one that stood there, or not at all (OSError); returns its path."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        write_durably(partial, content)
        os.replace(partial, target)
        flush(target.parent)
    finally:
        partial.unlink(missing_ok=True)
    return target


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it; raises OSError."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex digits; raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
