"""Files of a data set: downloaded beside their place, verified, moved in when whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

from tqdm.auto import tqdm

from snp_lib.data.dataset import DataError

ALGORITHMS = {"md5": "MD5", "sha256": "SHA-256"}


def provide(name: str, root: Path, folder: str, download: Callable[[Path], object], *, layout: str = "torchvision's layout") -> None:
    """Make ``root/folder`` exist: download beside it and move it in place only when whole. ``layout`` says what belongs into it."""
    if (root / folder).is_dir():
        return
    partial_root = root / f".{folder}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        partial_root.mkdir(parents=True)
    except OSError as error:
        raise DataError(
            f"{name}: cannot write to {root} ({error.strerror}). Choose a folder you can write to: "
            "load(name, root=…) or the environment variable SNP_DATA_DIR."
        ) from error
    try:
        download(partial_root)
        if not (root / folder).is_dir():  # another process may have been faster
            (partial_root / folder).rename(root / folder)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name}: not found at {root / folder}, and the download failed ({error}). With a network, try again; "
            f"without one, copy the folder {folder} ({layout}) into {root} or point SNP_DATA_DIR at it."
        ) from error
    finally:
        shutil.rmtree(partial_root, ignore_errors=True)


def fetch(address: str, target: Path, *, progress: bool) -> None:
    """Download one file; raises OSError where the network or the disk refuses."""
    with urllib.request.urlopen(address, timeout=60) as answer, target.open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0) or None
        with tqdm(total=size, desc=target.name, unit="B", unit_scale=True, disable=not progress, leave=False) as bar:
            while block := answer.read(2**16):
                file.write(block)
                bar.update(len(block))


def verify(name: str, root: Path, folder: str, files: dict[str, str], *, algorithm: str = "md5") -> None:
    """Compare files below ``root`` with their digests; raises DataError naming the first that differs and the way out."""
    for file, expected in files.items():
        path = root / file
        advice = f"Delete the folder {root / folder} and load again to download it anew."
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, algorithm).hexdigest()
        except OSError as error:
            raise DataError(f"{name}: cannot read {path} ({error.strerror}). {advice}") from error
        if found != expected:
            kind, size = ALGORITHMS[algorithm], f"{path.stat().st_size:,} bytes"
            raise DataError(f"{name}: {path} is damaged: {kind} {found} of {size}, expected {expected}. {advice}")
