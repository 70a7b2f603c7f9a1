"""Files of a data set: downloaded beside their place, verified, moved in when whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from snp_lib.data.dataset import DataError


def provide(name: str, root: Path, folder: str, download: Callable[[Path], object]) -> None:
    """Make ``root/folder`` exist: download beside it and move it in place only when whole."""
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
            f"without one, copy the folder {folder} (torchvision's layout) into {root} or point SNP_DATA_DIR at it."
        ) from error
    finally:
        shutil.rmtree(partial_root, ignore_errors=True)


def verify(name: str, root: Path, folder: str, files: dict[str, str]) -> None:
    """Compare files below ``root`` with their MD5; raises DataError naming the first that differs and the way out."""
    for file, expected in files.items():
        path = root / file
        advice = f"Delete the folder {root / folder} and load again to download it anew."
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "md5").hexdigest()
        except OSError as error:
            raise DataError(f"{name}: cannot read {path} ({error.strerror}). {advice}") from error
        if found != expected:
            raise DataError(f"{name}: {path} is damaged: MD5 {found} of {path.stat().st_size:,} bytes, expected {expected}. {advice}")
