"""Every result with the inputs that made it: the user's own runs over the committed, read-only records."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision
from filelock import FileLock, Timeout
from jaxtyping import Float, UInt8
from safetensors.torch import save_file

import snp_lib
from snp_lib import data
from snp_lib.data import Dataset
from snp_lib.experiments import Experiment
from snp_lib.models import create_model
from snp_lib.paths import PROJECT, RECORDS, runs_dir
from snp_lib.performance import group_units, measure, train_readouts, unit_matrices
from snp_lib.training import accuracy, train
from snp_lib.training import checkpoint as checkpoints
from snp_lib.training.augmentation import make_normalize

FORMAT = "snp-run-1"
RECORD_LIMIT = 8_000_000  # bytes a record may take
Unit = Literal["node", "head"]


class StoreError(RuntimeError):
    """A run or record is damaged, of another format, or was made by another definition of its experiment."""


@dataclass(frozen=True)
class Run:
    """A finished experiment: its manifest and, read on first use, its arrays."""

    experiment: Experiment
    path: Path
    manifest: dict[str, Any]

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row per epoch, as :func:`snp_lib.training.train` returns them."""
        return list(self.manifest["history"])

    @property
    def metrics(self) -> dict[str, Any]:
        """``test_accuracy`` of the network, ``readout_accuracy`` per site on the test split, ``parameters``."""
        return dict(self.manifest["metrics"])

    @property
    def sites(self) -> dict[str, int]:
        """Measured sites, in the order of the forward pass, and their channels."""
        return dict(self.manifest["sites"])

    @property
    def class_names(self) -> list[str]:
        return list(self.manifest["class_names"])

    @property
    def record(self) -> str:
        """First 8 hex digits of the SHA-256 of the arrays, which change whenever a measured number does."""
        return str(self.manifest["files"]["arrays.npz"])[:8]

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the run, by name."""
        with np.load(self.path / "arrays.npz", allow_pickle=False) as file:
            return dict(file)

    def matrices(
        self, site: str, *, unit: Unit = "node", split: Literal["train", "test"] = "test"
    ) -> Float[np.ndarray, "unit label output"]:
        """Performance matrices of every node or head of a site.

        Raises:
            ValueError: unknown site or unit, or heads asked for at a site that is not ``mha``.
        """
        if site not in self.sites:
            raise ValueError(f"unknown site {site!r}; this run has {', '.join(self.sites)}")
        if unit not in ("node", "head"):
            raise ValueError(f'unit must be "node" or "head", got {unit!r}')
        if unit == "head" and not site.endswith(".mha"):
            raise ValueError(f"heads live at the mha sites, not at {site}")
        units = self.manifest["num_heads"] if unit == "head" else self.sites[site]
        means, weight = (
            group_units(torch.from_numpy(self.arrays[f"{kind}/{site}"].astype(np.float32)), units) for kind in (f"means_{split}", "weight")
        )
        return unit_matrices(means, weight).numpy()

    @property
    def logits(self) -> Float[np.ndarray, "image label"]:
        """Logits of the network on the test split, in its order."""
        return self.arrays["logits"]

    @property
    def labels(self) -> UInt8[np.ndarray, " image"]:
        """True labels of the test split."""
        return self.arrays["labels"]


def run(
    experiment: Experiment,
    *,
    device: str = "auto",
    refresh: bool = False,
    data_root: str | Path | None = None,
    deadline: float = math.inf,
    progress: bool = True,
) -> Run:
    """The finished run of an experiment: from the user's runs, else from the records, else by training now.

    An interrupted training goes on where its checkpoint left it. Of two processes that ask for the same run one trains
    and the other waits and reads.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``; only used when training.
        refresh: train anew even if a run or record exists; the new run then takes its place in ``runs/``.
        data_root: see :func:`snp_lib.data.load`.
        deadline: value of ``time.monotonic()`` at which an unfinished training stops, at a checkpoint.

    Raises:
        StoreError: the stored result is damaged or of another definition of the experiment.
        Stopped: the deadline passed or SIGTERM came; the same call goes on from the checkpoint.
        DataError, TrainingError: from loading the data and from training.
    """
    if not refresh and (found := find(experiment)) is not None:
        return found
    with _locked(experiment.id, progress):
        if not refresh and (found := find(experiment)) is not None:
            return found  # another process finished it while this one waited
        return _make(experiment, choose_device(device), data_root, deadline, progress)


def find(experiment: Experiment) -> Run | None:
    """The stored run of an experiment, or None; raises StoreError if what is stored does not fit."""
    for root in (runs_dir(), RECORDS):
        if (root / experiment.id).is_dir():
            return read(root / experiment.id, experiment)
    return None


def read(path: Path, experiment: Experiment) -> Run:
    """Read a stored run and check that it is whole and of this experiment; raises StoreError otherwise."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise StoreError(f"{path} has format {manifest['format']!r}; this version reads {FORMAT!r}")
        changed = _differences(manifest["experiment"], experiment.describe())
        if changed or manifest["hash"] != experiment.hash:
            raise StoreError(
                f"{path} was made by another definition of {experiment.id} (differs in {', '.join(changed) or 'its hash'}). "
                "Train it again with refresh=True, or give the changed experiment a name of its own with .vary(name, …)."
            )
        for name, expected in manifest["files"].items():
            wanted = name == "arrays.npz" or (path / name).exists()  # a record comes without weights
            if wanted and (found := _sha256(path / name)) != expected:
                raise StoreError(f"{path / name} is damaged: SHA-256 {found[:12]}…, expected {expected[:12]}…. {_again(path)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"cannot read the run {path}: {error!r}. {_again(path)}") from error
    return Run(experiment, path, manifest)


def promote(finished: Run) -> Path:
    """Copy a run, without weights, to the committed records; replaces an older record of the same id.

    Raises:
        StoreError: the record would exceed 8 MB.
    """
    files = ("manifest.json", "arrays.npz")
    size = sum((finished.path / name).stat().st_size for name in files)
    if size > RECORD_LIMIT:
        raise StoreError(f"{finished.experiment.id} takes {size:,} bytes; a record may take {RECORD_LIMIT:,}")
    target = RECORDS / finished.experiment.id
    if finished.path != target:
        partial = RECORDS / f".{target.name}.partial-{os.getpid()}"
        partial.mkdir(parents=True)
        try:
            for name in files:
                shutil.copyfile(finished.path / name, partial / name)
            _replace_folder(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def snapshot_name(epoch: int) -> str:
    """File of the weights after so many epochs, in the folder of a run."""
    return f"snapshot-{epoch:03d}.safetensors"


def choose_device(name: str = "auto") -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` to a device; raises ValueError for another name or an absent GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device is available to torch; use device cpu or auto")
    return torch.device(name)


def _make(experiment: Experiment, device: torch.device, data_root: str | Path | None, deadline: float, progress: bool) -> Run:
    dataset = data.load(experiment.dataset, data_root, size=experiment.dataset_size, progress=progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        model = create_model(experiment.model, num_classes=dataset.num_classes, **experiment.model_options)
    folder = runs_dir() / ".partial" / experiment.id
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.safetensors"

    def keep_snapshot(epoch: int) -> None:
        if epoch in (experiment.snapshots or ()):
            save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / snapshot_name(epoch))

    history = train(
        model,
        dataset,
        experiment.recipe,
        seed=experiment.seed,
        device=device,
        fingerprint=experiment.training_hash,
        checkpoint=checkpoint,
        deadline=deadline,
        after_epoch=keep_snapshot,
        progress=progress,
    )
    readouts = train_readouts(
        model, dataset, list(model.sites), experiment.readout, experiment.recipe, seed=experiment.seed, progress=progress
    )
    normalize = make_normalize(experiment.recipe, dataset.train.images.to(device))
    measured = {
        name: measure(model, readouts, dataset.split(name), normalize, num_classes=dataset.num_classes, progress=progress)
        for name in ("train", "test")
    }
    arrays = {"logits": measured["test"].logits.half().numpy(), "labels": dataset.test.labels.numpy().astype(np.uint8)}
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for site, readout in readouts.items():
        arrays[f"weight/{site}"] = readout.linear.weight.detach().half().cpu().numpy()
        for split, measurement in measured.items():
            arrays[f"means_{split}/{site}"] = measurement.class_means[site].half().numpy()
        tensors |= {f"readout.{site}.{name}": tensor.contiguous() for name, tensor in readout.state_dict().items()}
    np.savez_compressed(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
    save_file(tensors, folder / "weights.safetensors")
    metrics = {
        "test_accuracy": accuracy(measured["test"].logits, dataset.test.labels),
        "readout_accuracy": dict(measured["test"].readout_accuracy),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    snapshots = [snapshot_name(epoch) for epoch in experiment.snapshots or ()]
    files = {name: _sha256(folder / name) for name in ("arrays.npz", "weights.safetensors", *snapshots)}
    manifest = _manifest(experiment, dataset, device, history, metrics, files)
    manifest |= {"sites": model.sites, "num_heads": model.config.num_heads}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    checkpoints.remove(checkpoint)
    target = runs_dir() / experiment.id
    _replace_folder(folder, target)
    return read(target, experiment)


def _manifest(
    experiment: Experiment,
    dataset: Dataset,
    device: torch.device,
    history: list[dict[str, Any]],
    metrics: dict[str, Any],
    files: dict[str, str],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "experiment": experiment.describe(),
        "hash": experiment.hash,
        "training_hash": experiment.training_hash,
        "code": code_version(),
        "libraries": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores",
        "training_seconds": round(sum(row["seconds"] for row in history), 1),
        "data_checksum": dataset.checksum,
        "class_names": dataset.class_names,
        "date": datetime.date.today().isoformat(),
        "metrics": metrics,
        "history": history,
        "files": files,
    }


def code_version() -> str:
    """The library's version and, in a git checkout, the commit, marked when files differ from it."""
    git = ["git", "-C", str(PROJECT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "snp_lib"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return snp_lib.__version__
    return f"{snp_lib.__version__}+{commit.stdout.strip()}{'.changed' if changed.stdout.strip() else ''}"


@contextmanager
def _locked(run_id: str, progress: bool) -> Iterator[None]:
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


def _replace_folder(source: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old-{uuid.uuid4().hex[:8]}")
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _again(path: Path) -> str:
    return f"Delete the folder {path} to make the run again."


def _differences(stored: Any, wanted: Any, path: str = "") -> list[str]:
    """Names of the fields in which two descriptions differ, dotted."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        keys = sorted(stored.keys() | wanted.keys())
        return [d for k in keys for d in _differences(stored.get(k), wanted.get(k), f"{path}.{k}" if path else k)]
    return [] if stored == wanted else [path]
