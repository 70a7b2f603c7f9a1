"""Every result with the inputs that made it: the user's own runs over the committed, read-only records."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor

from snp_lib.contents import DefinitionError, SkewError, check_definition, load_arrays, parse_manifest, snapshot_name
from snp_lib.disk import locked, replace_folder, sha256, write_durably
from snp_lib.experiments import Experiment
from snp_lib.making import CHECKPOINT, choose_device, initial_model, make
from snp_lib.models import CCT, Network
from snp_lib.paths import RECORDS, runs_dir
from snp_lib.performance import group_units, unit_matrices
from snp_lib.performance.readout import Readout, make_readout
from snp_lib.training import checkpoint as checkpoints
from snp_lib.training import team

RECORD_LIMIT = 8_000_000  # bytes a record may take
RECORD_FILES = ("manifest.json", "arrays.npz")
Unit = Literal["node", "head"]
Place = Literal["runs", "records"]


class StoreError(RuntimeError):
    """A run or record is damaged, of another format, or was made by another definition of its experiment."""


class OutdatedError(StoreError):
    """A run or record is whole, but of another definition of its experiment."""


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
        """All arrays of the run, by name; raises StoreError where they are not those that the manifest promises."""
        try:
            return load_arrays(self.path / "arrays.npz", self.manifest)
        except ValueError as error:
            raise StoreError(f"cannot read the run {self.path}: {error}. {_again(self.path)}") from error

    def network(self, epoch: int | None = None) -> Network:
        """The trained network, in eval mode on the CPU; with ``epoch``, as it was after so many epochs.

        Before the first epoch it is made anew from the seed where no snapshot of it is here.

        Raises:
            StoreError: this run holds no such weights; records come without.
        """
        if epoch == 0 and not (self.path / snapshot_name(0)).exists():
            return initial_model(self.experiment, len(self.class_names)).to(memory_format=torch.channels_last).eval()  # type: ignore[no-any-return]
        tensors = self._tensors("weights.safetensors" if epoch is None else snapshot_name(epoch))
        model = initial_model(self.experiment, len(self.class_names))
        prefix = "model." if epoch is None else ""
        model.load_state_dict({key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)})
        return model.to(memory_format=torch.channels_last).eval()  # type: ignore[no-any-return]

    def transformer(self, epoch: int | None = None) -> CCT:
        """The same for a run of a compact transformer, whose parts are known by name.

        Raises:
            StoreError: as :meth:`network`.
            ValueError: the run is that of another kind of network.
        """
        if not isinstance(model := self.network(epoch), CCT):
            raise ValueError(f"{self.experiment.id} has the network {self.experiment.model}; only compact transformers (cct_…) will do")
        return model

    def readouts(self) -> dict[str, Readout]:
        """The trained readout of every site, in eval mode on the CPU.

        Raises:
            StoreError: this run holds no weights; records come without.
        """
        tensors = self._tensors("weights.safetensors")
        readouts = {}
        for site, width in self.sites.items():
            readout = make_readout(torch.empty(1, 1, width), len(self.class_names), self.experiment.readout.pooling)
            readout.load_state_dict({name: tensors[f"readout.{site}.{name}"] for name in readout.state_dict()})
            readouts[site] = readout.eval()
        return readouts

    def _tensors(self, name: str) -> dict[str, Tensor]:
        try:
            if sha256(self.path / name) != self.manifest["files"][name]:
                raise StoreError(f"{self.path / name} is damaged. {_again(self.path)}")
            return load_file(self.path / name)
        except (OSError, KeyError) as error:
            command = f"snp train {self.experiment.name} --scale {self.experiment.scale} --seeds {self.experiment.seed} --refresh"
            raise StoreError(f"{self.path} holds no {name}: records come without weights. Make them here with `{command}`.") from error

    def matrices(
        self, site: str, *, unit: Unit = "node", split: Literal["train", "test"] = "test"
    ) -> Float[np.ndarray, "unit label output"]:
        """Performance matrices of every node, head or filter of a site; a filter is the node of a site of maps.

        Raises:
            ValueError: unknown site or unit, or heads asked for at a site that is not ``mha``.
            StoreError: the training split of a lean run.
        """
        if site not in self.sites:
            raise ValueError(f"unknown site {site!r}; this run has {', '.join(self.sites)}")
        if unit not in ("node", "head"):
            raise ValueError(f'unit must be "node" or "head", got {unit!r}')
        if unit == "head" and not site.endswith(".mha"):
            raise ValueError(f"heads live at the mha sites, not at {site}")
        if split == "train":
            self._whole()
        units = self.manifest["num_heads"] if unit == "head" else self.sites[site]
        means, weight = (
            group_units(torch.from_numpy(self.arrays[f"{kind}/{site}"].astype(np.float32)), units) for kind in (f"means_{split}", "weight")
        )
        return unit_matrices(means, weight).numpy()

    @property
    def logits(self) -> Float[np.ndarray, "image label"]:
        """Logits of the network on the test split, in its order; raises StoreError for a lean run, which has none."""
        self._whole()
        return self.arrays["logits"]

    @property
    def labels(self) -> UInt8[np.ndarray, " image"]:
        """True labels of the test split; raises StoreError as ``logits`` does."""
        self._whole()
        return self.arrays["labels"]

    def _whole(self) -> None:
        if self.experiment.lean:
            raise StoreError(
                f"{self.path} is a lean run: it keeps neither logits nor class means of the training split. Make one that does: "
                f'snp_lib.run(replace(experiment, name="{self.experiment.name}-whole", lean=None)).'
            )


def run(
    experiment: Experiment,
    *,
    device: str = "auto",
    refresh: bool = False,
    data_root: str | Path | None = None,
    deadline: float = math.inf,
    compiled: bool = False,
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
        compiled: let torch.compile make the encoders while training, see :func:`snp_lib.training.train`.

    Raises:
        StoreError: the stored result is damaged or of another definition of the experiment.
        Stopped: the deadline passed or SIGTERM came; the same call goes on from the checkpoint.
        DataError, TrainingError: from loading the data and from training.
    """
    chosen = team.start(choose_device(device))
    if team.decide(not refresh and find(experiment) is not None):
        return _found(experiment)
    # one process of a team holds the lock for all of them
    with locked(experiment.id, progress) if team.rank() == 0 else contextlib.nullcontext():
        if team.decide(not refresh and find(experiment) is not None):
            return _found(experiment)  # another process finished it while this one waited
        folder = make(experiment, chosen, data_root=data_root, deadline=deadline, compiled=compiled, progress=progress)
        if team.rank() == 0:
            replace_folder(folder, runs_dir() / experiment.id)
            checkpoints.remove(runs_dir() / experiment.id / CHECKPOINT)  # only now: a crash before this loses no training
        team.decide(True)  # nobody reads before it is there
        return _found(experiment)


def root(place: Place) -> Path:
    """The folder of all runs or of all records."""
    return runs_dir() if place == "runs" else RECORDS


def folders() -> list[Path]:
    """The folders of all records and runs, whole or not, in the order of their names."""
    found = {path.parent for place in get_args(Place) for name in RECORD_FILES for path in root(place).glob(f"[!.]*/{name}")}
    return sorted(found)


def find(experiment: Experiment) -> Run | None:
    """The stored run of an experiment, or None; raises StoreError if what is stored does not fit."""
    for path in (root("runs") / experiment.id, root("records") / experiment.id):
        if path.is_dir():
            return read(path, experiment)
    return None


def _found(experiment: Experiment) -> Run:
    found = find(experiment)
    if found is None:
        raise StoreError(f"the run {experiment.id} vanished while it was being read; ask for it again")
    return found


def read(path: Path, experiment: Experiment | None = None) -> Run:
    """Read a stored run and check that it is whole and of this experiment (default: as the catalogue has it).

    The arrays are compared with their SHA-256 here and looked into on first use.

    Raises:
        StoreError: damaged, of another format, or made by another definition of the experiment.
    """
    try:
        manifest = parse_manifest((path / "manifest.json").read_bytes())
        experiment = check_definition(manifest, experiment)
        for name, expected in manifest["files"].items():
            wanted = name == "arrays.npz" or (path / name).exists()  # a record comes without weights
            if wanted and (found := sha256(path / name)) != expected:
                raise StoreError(f"{path / name} is damaged: SHA-256 {found[:12]}…, expected {expected[:12]}…. {_again(path)}")
    except DefinitionError as error:
        raise OutdatedError(f"{path} {error}") from error
    except SkewError as error:
        raise StoreError(f"{path} {error}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read the run {path}: {error}. {_again(path)}") from error
    return Run(experiment, path, manifest)


def promote(finished: Run) -> Path:
    """Copy a run, without weights, to the committed records; replaces an older record of the same id.

    Raises:
        StoreError: the record would exceed 8 MB.
    """
    members = {name: (finished.path / name).read_bytes() for name in RECORD_FILES}
    check_record_size(finished.experiment.id, members)
    target = root("records") / finished.experiment.id
    return target if finished.path == target else put(target, members)


def check_record_size(name: str, members: Mapping[str, bytes]) -> None:
    """Raise StoreError if these files, by name, are more than a record may take."""
    if (size := sum(map(len, members.values()))) > RECORD_LIMIT:
        raise StoreError(f"{name} takes {size:,} bytes; a record may take {RECORD_LIMIT:,}. Keep it among your runs.")


def put(target: Path, members: Mapping[str, bytes]) -> Path:
    """Make ``target`` a folder of exactly these files, by name, or leave it as it was.

    Raises:
        StoreError: the disk is full or refuses; what stood there before still stands.
    """
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        for name, content in members.items():
            write_durably(partial / name, content)
        replace_folder(partial, target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error}. Nothing there has changed; make room or choose another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _again(path: Path) -> str:
    return f"Delete the folder {path} to make the run again."
