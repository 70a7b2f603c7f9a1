"""Making a run: load, train, measure, and put what came out among the runs."""

from __future__ import annotations

import contextlib
import datetime
import io
import math
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snp_lib import data
from snp_lib.data import Dataset
from snp_lib.experiments import Experiment
from snp_lib.experiments.experiment import initial_model
from snp_lib.machine import (
    checked_out,
    choose_device,
    code_version,
    device_name,
    measuring_batch,
    records_dir,
    runs_dir,
    uses_bfloat16,
)
from snp_lib.performance.class_means import Measurement, measure
from snp_lib.performance.readout import Readout, ReadoutRecipe, train_readouts
from snp_lib.store import answers, weights
from snp_lib.store.disk import StoreError, locked, replace_folder, sha256, write_durably
from snp_lib.store.manifest import FORMAT, files_of, model_of, parse_manifest, seal, snapshot_name
from snp_lib.store.runs import Run, find
from snp_lib.training import checkpoint as checkpoints, team
from snp_lib.training.loop import TrainingError, train
from snp_lib.training.prediction import accuracy
from snp_lib.training.preparation import preparation


def run(
    experiment: Experiment,
    *,
    device: str = "auto",
    refresh: bool = False,
    data_root: str | Path | None = None,
    deadline: float = math.inf,
    compiled: bool = False,
    progress: bool = True,
    train: bool | None = None,
) -> Run:
    """The finished run of an experiment: from the user's runs, else from the records, else by training now.

    An interrupted training goes on where its checkpoint left it. Of two processes that ask for the same run one trains
    and the other waits and reads.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``; only used when training.
        refresh: train anew even if a run or record exists; the new run then takes its place in ``runs/``.
        data_root: see :func:`snp_lib.data.load`.
        deadline: value of ``time.monotonic()`` at which an unfinished training stops, at a checkpoint.
        compiled: let torch.compile make the parts of the network while training, see :func:`snp_lib.training.train`.
        train: whether a missing run is trained. None: yes, but where there are no records at all, as with a library that was installed
            without them, only at scale ``smoke``.

    Raises:
        StoreError: the stored result is damaged or of another definition of the experiment; or it is missing and not to be trained.
        Stopped: the deadline passed or SIGTERM came; the same call goes on from the checkpoint.
        DataError, TrainingError: from loading the data and from training.
    """
    chosen = team.start(choose_device(device))
    stored = None if refresh else find(experiment)
    if team.decide(stored is not None):
        return stored or _stored(experiment)
    _may_train(experiment, train)
    # one process of a team holds the lock for all of them
    with locked(experiment.id, progress) if team.rank() == 0 else contextlib.nullcontext():
        stored = None if refresh else find(experiment)
        if team.decide(stored is not None):
            return stored or _stored(experiment)  # another process finished it while this one waited
        folder = make(experiment, chosen, data_root=data_root, deadline=deadline, compiled=compiled, progress=progress)
        if team.rank() == 0:
            with _room(runs_dir() / experiment.id):
                replace_folder(folder, runs_dir() / experiment.id)
            checkpoints.remove(runs_dir() / experiment.id / CHECKPOINT)  # only now: a crash before this loses no training
        team.decide(True)  # nobody reads before it is there
        return _stored(experiment)


def _may_train(experiment: Experiment, train: bool | None) -> None:
    recorded = checked_out() or records_dir().is_dir() or experiment.scale == "smoke"
    if train is False or (train is None and not recorded):
        absent = "" if recorded else ", nor any record: the installed library comes without them"
        raise StoreError(
            f"there is no run {experiment.id} in {runs_dir()}{absent}. Let SNP_RECORDS_DIR name data/records of a checkout to read what "
            f"is recorded there, or train it with `{experiment.command('train')}`, in Python with run(…, train=True)."
        )


def _stored(experiment: Experiment) -> Run:
    if (run := find(experiment)) is None:
        raise StoreError(f"the run {experiment.id} vanished while it was being read; ask for it again")
    return run


@contextlib.contextmanager
def _room(path: Path) -> Iterator[None]:
    """A file that cannot be written is a TrainingError; the checkpoint is still there."""
    try:
        yield
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error}. Make room; the same command goes on.") from error


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
            with _room(path):
                weights.write(path, model.state_dict())

    history = train(
        model,
        dataset,
        experiment.recipe,
        seed=experiment.seed if experiment.order_seed is None else experiment.order_seed,
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
        parse_manifest(content := seal(manifest))  # what could not be read is noticed before the checkpoint goes
        with _room(folder):
            write_durably(folder / "manifest.json", content)
    return folder


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
    device = next(model.parameters()).device
    prepare = preparation(experiment.recipe, dataset.train.inputs.to(device), dataset.num_classes).plain
    options: dict[str, Any] = {"num_classes": dataset.num_classes, "deadline": deadline, "progress": progress}
    options |= {"batch_size": measuring_batch(device), "bfloat16": uses_bfloat16(experiment.recipe.precision, device)}
    measured = {name: measure(model, readouts, dataset.split(name), prepare, **options) for name in splits}
    return readouts, measured


def _measure(model: Any, experiment: Experiment, dataset: Dataset, folder: Path, deadline: float, progress: bool) -> dict[str, Any]:
    """Train the readouts, measure both splits, write arrays and weights; returns the metrics of the manifest."""
    splits = ("test",) if experiment.lean else ("train", "test")
    readouts, measured = read_out(model, experiment, dataset, splits, deadline=deadline, progress=progress)
    arrays: dict[str, np.ndarray] = {}
    if not experiment.lean:
        arrays |= {"logits": answers.rounded(measured["test"].logits.numpy()), "labels": dataset.test.labels.numpy().astype(np.uint8)}
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for site, readout in readouts.items():
        arrays[f"weight/{site}"] = readout.linear.weight.detach().half().cpu().numpy()
        for split, measurement in measured.items():
            arrays[f"means_{split}/{site}"] = measurement.class_means[site].half().numpy()
        tensors |= {f"readout.{site}.{name}": tensor for name, tensor in readout.state_dict().items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    with _room(folder):
        write_durably(folder / "arrays.npz", stream.getvalue())
        weights.write(folder / weights.FULL, tensors)
    return {
        "test_accuracy": accuracy(measured["test"].logits, dataset.test.labels),
        "readout_accuracy": dict(measured["test"].readout_accuracy),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _manifest(experiment: Experiment, dataset: Dataset, device: torch.device, history: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "experiment": experiment.describe(),
        "model": model_of(experiment.model, experiment.model_options, dataset.num_classes),
        "hash": experiment.hash,
        "training_hash": experiment.training_hash,
        "libraries": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),
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
