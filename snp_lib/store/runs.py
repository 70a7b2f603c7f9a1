"""Finished runs: the user's own over the committed, read-only records."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from snp_lib.experiments import Experiment
from snp_lib.experiments.experiment import initial_model
from snp_lib.machine import records_dir, runs_dir
from snp_lib.models import Network
from snp_lib.models.sites import depth_of, split_site
from snp_lib.performance import group_units, unit_matrices
from snp_lib.performance.clusters import diagonal_shares
from snp_lib.performance.readout import Readout, make_readout
from snp_lib.store import weights
from snp_lib.store.disk import StoreError, replace_file, replace_folder, sha256, write_durably
from snp_lib.store.manifest import check_definition, load_arrays, parse_manifest, refusing, seal, snapshot_name, upgraded

RECORD_LIMIT = 8_000_000  # bytes a record may take

RECORD_FILES = ("manifest.json", "arrays.npz")

Unit = Literal["node", "head"]

Place = Literal["runs", "records"]


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

    def sites_of(self, kind: str) -> list[str]:
        """The measured sites of a kind, such as ``mha``, in the order of the forward pass."""
        return [site for site in self.sites if split_site(site)[1] == kind]

    @property
    def depth(self) -> int:
        """Number of the last block that is measured."""
        return depth_of(self.sites)

    @property
    def num_heads(self) -> int:
        """Heads of every attention, 0 where there is none."""
        return int(self.manifest["num_heads"])

    @property
    def prunable(self) -> bool:
        """Whether the network names layers that can be pruned, and every site that decides about them was measured."""
        layers = self.network(0).layers.values()
        return bool(layers) and all(site is None or site in self.sites for layer in layers for site in (layer.inputs, layer.outputs))

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
        with refusing(f"the run {self.path}", _advice(self.path)):
            return load_arrays(self.path / "arrays.npz", self.manifest)

    def network(self, epoch: int | None = None) -> Network:
        """The trained network, in eval mode on the CPU; with ``epoch``, as it was after so many epochs.

        Before the first epoch it is made anew from the seed where no snapshot of it is here.

        Weights that travelled come in half precision, and are used where there are no others.

        Raises:
            StoreError: this run holds no such weights, records come without; or they are damaged.
        """
        self.require_weights(epoch)
        if epoch is None:
            return self._trained()[0]
        model = initial_model(self.experiment, len(self.class_names))
        if epoch > 0 or (self.path / snapshot_name(0)).exists():
            model.load_state_dict(self._vouched(snapshot_name(epoch), model.state_dict()))
        return model.to(memory_format=torch.channels_last).eval()  # type: ignore[no-any-return]

    def readouts(self) -> dict[str, Readout]:
        """The trained readout of every site, in eval mode on the CPU; raises as :meth:`network`."""
        return self._trained()[1]

    def halved_weights(self) -> bytes:
        """The content of ``weights-half.safetensors``: network and readouts in half precision; raises as :meth:`network`."""
        model, readouts = self._trained()
        return weights.halved(_tensors(model, readouts), self.manifest["files"]["arrays.npz"])

    def adopted(self, path: Path) -> bytes:
        """The same from a file of these tensors in half precision that vouches for nothing.

        Raises:
            StoreError: unreadable, other tensors than those of this network and its readouts, or readouts of another run.
        """
        with refusing(str(path)):
            expected = weights.half_of(_tensors(*self._blank()))
            tensors = weights.read(path, expected)
            for site in self.sites:
                if not np.array_equal(tensors[f"readout.{site}.linear.weight"].numpy(), self.arrays[f"weight/{site}"]):
                    raise ValueError(f"its readout of {site} is not that of {self.experiment.id} {self.record}: it belongs to another run")
            return weights.halved(tensors, self.manifest["files"]["arrays.npz"])

    def look_into(self) -> None:
        """Check the arrays, and the weights where they are here, to the last number; raises StoreError."""
        _ = self.arrays  # reading them checks them
        if any((self.path / name).exists() for name in (weights.FULL, weights.HALF)):
            self._trained()
        for epoch in self.experiment.snapshots or ():
            if (self.path / snapshot_name(epoch)).exists():
                self.network(epoch)

    def _trained(self) -> tuple[Network, dict[str, Readout]]:
        self.require_weights()
        model, readouts = self._blank()
        expected, half = _tensors(model, readouts), self.path / weights.HALF
        if half.exists() and not (self.path / weights.FULL).exists():
            with refusing(str(half), _advice(self.path)):
                tensors = weights.read_halved(half, expected, self.manifest["files"]["arrays.npz"])
        else:
            tensors = self._vouched(weights.FULL, expected)
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])
        network = model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return network, {site: readout.eval() for site, readout in readouts.items()}

    def _blank(self) -> tuple[Network, dict[str, Readout]]:
        """Network and readouts of the right shapes, whose values are to be overwritten."""
        with torch.random.fork_rng(devices=[]):
            labels, pooling = len(self.class_names), self.experiment.readout.pooling
            readouts = {site: make_readout(torch.empty(1, 1, width), labels, pooling) for site, width in self.sites.items()}
        return initial_model(self.experiment, labels), readouts

    def require_weights(self, epoch: int | None = None) -> None:
        """Raise StoreError, saying what to do, where :meth:`network` would find no weights of this moment."""
        if epoch == 0 or (epoch is None and (self.path / weights.HALF).exists()):
            return
        name = weights.FULL if epoch is None else snapshot_name(epoch)
        if name not in self.manifest["files"] or not (self.path / name).exists():
            reason = "records come without weights" if epoch is None else "snapshots of a training stay where it was made"
            command = f"{self.experiment.command('train')} --refresh"
            raise StoreError(f"{self.path} holds no {name}: {reason}. Measure there, or train it here with `{command}`.")

    def _vouched(self, name: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        path = self.path / name
        with refusing(str(path), _advice(self.path)):
            if sha256(path) != self.manifest["files"][name]:
                raise ValueError("its SHA-256 is not the one that the manifest vouches for")
            return weights.read(path, expected)

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
        units = self.num_heads if unit == "head" else self.sites[site]
        means, weight = (
            group_units(torch.from_numpy(self.arrays[f"{kind}/{site}"].astype(np.float32)), units) for kind in (f"means_{split}", "weight")
        )
        return unit_matrices(means, weight).numpy()

    @functools.cached_property
    def diagonals(self) -> dict[str, Float[np.ndarray, "unit label"]]:
        """What :func:`snp_lib.performance.clusters.diagonal_shares` gives of every site on the training split."""
        return {site: diagonal_shares(self.matrices(site, split="train")) for site in self.sites}

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


def root(place: Place) -> Path:
    """The folder of all runs or of all records."""
    return runs_dir() if place == "runs" else records_dir()


def find(experiment: Experiment) -> Run | None:
    """The stored run of an experiment, or None; raises StoreError if what is stored does not fit."""
    for path in (root("runs") / experiment.id, root("records") / experiment.id):
        if path.is_dir():
            return read(path, experiment)
    return None


def read(path: Path, experiment: Experiment | None = None) -> Run:
    """Read a stored run and check that it is whole and of this experiment (default: as the catalogue has it).

    The arrays are compared with their SHA-256 here and looked into on first use, as the weights are.

    Raises:
        StoreError: no run, damaged, of another format, or made by another definition of the experiment.
    """
    return _read(path, _manifest(path), experiment)


def upgrade(path: Path) -> bool:
    """Give the manifest of a run its digest after a full check; returns whether it had none. Raises StoreError."""
    content = _manifest(path)
    new = upgraded(content)
    _read(path, new).look_into()
    if new != content:
        replace_file(path / "manifest.json", new)
    return new != content


def _manifest(path: Path) -> bytes:
    if not (path / "manifest.json").exists():
        raise StoreError(f"{path} is no run: it has no manifest.json")
    with refusing(f"the run {path}"):
        return (path / "manifest.json").read_bytes()


def _read(path: Path, manifest: bytes, experiment: Experiment | None = None) -> Run:
    with refusing(f"the run {path}", _advice(path)):
        content = parse_manifest(manifest)
        run = Run(check_definition(content, experiment), path, content)
        for name, expected in content["files"].items():
            wanted = name == "arrays.npz" or (path / name).exists()  # a record comes without weights
            if wanted and (actual := sha256(path / name)) != expected:
                raise ValueError(f"{name} is damaged: SHA-256 {actual[:12]}…, expected {expected[:12]}…")
    return run


def record_files(run: Run) -> dict[str, bytes]:
    """The files of a run that a record has, by name; raises StoreError where the arrays are no longer those that were read."""
    with refusing(f"the run {run.path}", _advice(run.path)):
        arrays = (run.path / "arrays.npz").read_bytes()
        if hashlib.sha256(arrays).hexdigest() != run.manifest["files"]["arrays.npz"]:
            raise ValueError("arrays.npz was changed since the run was read")
    return {"manifest.json": seal(run.manifest), "arrays.npz": arrays}


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


def _tensors(model: torch.nn.Module, readouts: Mapping[str, Readout]) -> dict[str, Tensor]:
    """Tensors of network and readouts under their names in the file of the weights; writing to one writes to its module."""
    modules = {"model": model} | {f"readout.{site}": readout for site, readout in readouts.items()}
    return {f"{prefix}.{name}": tensor for prefix, module in modules.items() for name, tensor in module.state_dict().items()}


def _advice(path: Path) -> str:
    """What to do about a broken run; only what is ours is named for deletion."""
    ours = path.resolve().parent in [root(place).resolve() for place in get_args(Place)] and not path.name.startswith(".")
    return f" Delete the folder {path} to make the run again." if ours else ""
