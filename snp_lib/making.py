"""Making a run: load, train, measure, and write what was found, into a folder that is not yet among the runs."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import save_file

import snp_lib
from snp_lib import data
from snp_lib.contents import FORMAT, files_of, snapshot_name
from snp_lib.data import Dataset
from snp_lib.disk import sha256
from snp_lib.experiments import Experiment
from snp_lib.models import create_model
from snp_lib.paths import PROJECT, runs_dir
from snp_lib.performance import Measurement, ReadoutRecipe, measure, train_readouts
from snp_lib.performance.readout import Readout
from snp_lib.training import TrainingError, accuracy, team, train
from snp_lib.training.augmentation import make_normalize
from snp_lib.training.loop import uses_bfloat16

CHECKPOINT = "checkpoint.safetensors"


def make(
    experiment: Experiment,
    device: torch.device,
    *,
    data_root: str | Path | None = None,
    deadline: float = math.inf,
    compiled: bool = False,
    progress: bool = True,
) -> Path:
    """Train and measure an experiment; returns the folder that holds the finished run, still outside ``runs/``.

    In a team of processes all train, and the first one alone measures and writes.

    Raises:
        DataError, TrainingError, CheckpointError: from loading the data and from training.
        Stopped: the deadline passed or SIGTERM came; the folder keeps the checkpoint.
    """
    folder = runs_dir() / ".partial" / experiment.id
    if team.rank() == 0:
        dataset = data.load(experiment.dataset, data_root, size=experiment.dataset_size, progress=progress)
        folder.mkdir(parents=True, exist_ok=True)
    team.decide(True)  # the others load what the first one may have had to download
    if team.rank() > 0:
        dataset = data.load(experiment.dataset, data_root, size=experiment.dataset_size, progress=False)
    model = initial_model(experiment, dataset.num_classes)
    checkpoint, code = folder / CHECKPOINT, code_version()

    def keep_snapshot(epoch: int) -> None:
        if epoch in (experiment.snapshots or ()):
            path = folder / snapshot_name(epoch)
            try:
                save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
            except (OSError, SafetensorError) as error:
                raise TrainingError(f"cannot write {path}: {error}. Make room; the same command goes on.") from error

    history = train(
        model,
        dataset,
        experiment.recipe,
        seed=experiment.seed,
        device=device,
        fingerprint=f"{experiment.training_hash} {experiment.snapshots}",  # a resumed training must have kept them
        checkpoint=checkpoint,
        deadline=deadline,
        after_epoch=keep_snapshot,
        compiled=compiled,
        progress=progress,
    )
    if team.rank() == 0:
        metrics = _measure(model, experiment, dataset, folder, deadline, progress)
        manifest = _manifest(experiment, dataset, device, history) | {"code": code, "compiled": compiled, "metrics": metrics}
        manifest |= {
            "sites": {site: model.sites[site] for site in experiment.readout.chosen(model.sites)},
            "num_heads": model.config.num_heads,
        }
        manifest["files"] = {name: sha256(folder / name) for name in files_of(experiment.describe())}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return folder


def initial_model(experiment: Experiment, num_classes: int) -> Any:
    """The network of an experiment as its seed initialises it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        return create_model(experiment.model, num_classes=num_classes, **experiment.model_options)


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


def code_version() -> str:
    """The library's version and, in a git checkout, the commit, marked when files differ from it."""
    git = ["git", "-C", str(PROJECT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "snp_lib"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return snp_lib.__version__
    return f"{snp_lib.__version__}+{commit.stdout.strip()}{'.changed' if changed.stdout.strip() else ''}"


def read_out(
    model: Any,
    experiment: Experiment,
    dataset: Dataset,
    splits: Sequence[str],
    recipe: ReadoutRecipe | None = None,
    *,
    deadline: float = math.inf,
    progress: bool = True,
) -> tuple[dict[str, Readout], dict[str, Measurement]]:
    """Readouts of the sites that the recipe chooses, trained on the frozen network, and what they measure on each split.

    Args:
        recipe: of the readouts; default: the experiment's own.

    Raises:
        Stopped: the deadline passed or SIGTERM came; readouts start again next time.
    """
    recipe = recipe or experiment.readout
    sites = recipe.chosen(model.sites)
    readouts = train_readouts(model, dataset, sites, recipe, experiment.recipe, seed=experiment.seed, deadline=deadline, progress=progress)
    normalize = make_normalize(experiment.recipe, dataset.train.images.to(next(model.parameters()).device))
    measured = {
        name: measure(model, readouts, dataset.split(name), normalize, num_classes=dataset.num_classes, progress=progress)
        for name in splits
    }
    return readouts, measured


def _measure(model: Any, experiment: Experiment, dataset: Dataset, folder: Path, deadline: float, progress: bool) -> dict[str, Any]:
    """Train the readouts, measure both splits, write arrays and weights; returns the metrics of the manifest."""
    splits = ("test",) if experiment.lean else ("train", "test")
    readouts, measured = read_out(model, experiment, dataset, splits, deadline=deadline, progress=progress)
    arrays: dict[str, np.ndarray] = {}
    if not experiment.lean:
        arrays |= {"logits": measured["test"].logits.half().numpy(), "labels": dataset.test.labels.numpy().astype(np.uint8)}
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for site, readout in readouts.items():
        arrays[f"weight/{site}"] = readout.linear.weight.detach().half().cpu().numpy()
        for split, measurement in measured.items():
            arrays[f"means_{split}/{site}"] = measurement.class_means[site].half().numpy()
        tensors |= {f"readout.{site}.{name}": tensor.contiguous() for name, tensor in readout.state_dict().items()}
    np.savez_compressed(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
    save_file(tensors, folder / "weights.safetensors")
    return {
        "test_accuracy": accuracy(measured["test"].logits, dataset.test.labels),
        "readout_accuracy": dict(measured["test"].readout_accuracy),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _manifest(experiment: Experiment, dataset: Dataset, device: torch.device, history: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "experiment": experiment.describe(),
        "hash": experiment.hash,
        "training_hash": experiment.training_hash,
        "libraries": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "device": device_name(device),
        "processes": team.size(),
        "threads": torch.get_num_threads(),
        "precision": "bfloat16" if uses_bfloat16(experiment.recipe.precision, device) else "float32",
        "training_seconds": round(sum(row["seconds"] for row in history), 1),
        "data_checksum": dataset.checksum,
        "class_names": dataset.class_names,
        "date": datetime.date.today().isoformat(),
        "history": history,
    }
