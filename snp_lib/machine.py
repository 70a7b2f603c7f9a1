"""Where we are: folders, device, precision, and the version of the code. Imports nothing of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

PROJECT = Path(__file__).resolve().parent.parent
BOOK = PROJECT / "book"

Precision = Literal["auto", "float32", "bfloat16"]


def checked_out() -> bool:
    """Whether the library runs from a checkout of the project, with its book and its records, and is not merely installed."""
    return (PROJECT / "_toc.yml").is_file() and BOOK.is_dir()


def home() -> Path:
    """The checkout; of an installed library ``snp_lib`` in the folder where this user's programs keep their data."""
    if checked_out():
        return PROJECT
    if os.name == "nt":
        return _folder("LOCALAPPDATA", Path("~/AppData/Local")) / "snp_lib"
    return _folder("XDG_DATA_HOME", Path("~/.local/share")) / "snp_lib"


def data_dir() -> Path:
    """Folder of the data sets: ``SNP_DATA_DIR``, else ``data/cache/`` of :func:`home`."""
    return _folder("SNP_DATA_DIR", home() / "data" / "cache")


def runs_dir() -> Path:
    """Folder of this user's own runs: ``SNP_RUNS_DIR``, else ``runs/`` of :func:`home`."""
    return _folder("SNP_RUNS_DIR", home() / "runs")


def records_dir() -> Path:
    """Folder of the committed records: ``SNP_RECORDS_DIR``, else ``data/records/`` of :func:`home`."""
    return _folder("SNP_RECORDS_DIR", home() / "data" / "records")


def _folder(variable: str, default: Path) -> Path:
    try:
        return Path(os.environ.get(variable) or default).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise ValueError(f"{variable} is {os.environ[variable]!r}, which names no folder: {error}") from error


def choose_device(name: str = "auto") -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` to a device; raises ValueError for another name or an absent GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device is available to torch; use device cpu or auto")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """What a reader wants to know of the machine."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"


def uses_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16; ``auto``: where the device has matrix units for it."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has_tiles: Callable[[], bool] = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return has_tiles()


def measuring_batch(device: torch.device) -> int:
    """Inputs of a pass that measures: as many as keep the device busy."""
    return 512 if device.type == "cuda" else 128


def code_version() -> str:
    """The library's version and, in its own git checkout, the commit, marked when files differ from it."""
    version = metadata.version("snp-lib")

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PROJECT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != PROJECT:
            return version  # a copy that lies in some other project's checkout
        commit, changed = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "snp_lib")
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version}+{commit}{'.changed' if changed else ''}"


def torchvision_fits() -> bool:
    """Whether torchvision's compiled operators were built for the torch that is installed, so that a program can import it plainly."""
    plain = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, encoding="utf-8")
    return plain.returncode == 0


def import_torchvision() -> Any:
    """The module torchvision, also where its compiled operators were built for another torch than the one installed.

    Beside a CPU-only torch, the wheel of the package index cannot load them, and its Python part asks for the names of two:
    ``operator torchvision::nms does not exist``. Nothing here calls either. Imported on first use, since it takes seconds.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    import torchvision.models.feature_extraction

    return torchvision
