"""What the single units of anybody's network know: :func:`snp_lib.inspect` and the report that it returns.

The definitions are those of the book: a linear readout is trained on the frozen features of every site, the matrix of a unit is
M[u, i, j] = Σ_p weight[j, u, p] · class_means[i, u, p], and thresholds, clusters, noise and SNR follow from it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from tqdm.auto import tqdm

from snp_lib.interactive.explorer import explore
from snp_lib.machine import choose_device
from snp_lib.models.hooked import Hooked
from snp_lib.models.sites import evaluating
from snp_lib.performance import THETA, group_units, summarize, unit_matrices
from snp_lib.performance.class_means import measure_batches
from snp_lib.performance.density import snr_at_density
from snp_lib.performance.readout import Learning, Readout, ReadoutRecipe, make_readout
from snp_lib.results.sites import shuffle_outputs
from snp_lib.store.disk import write_durably
from snp_lib.training.stopping import Stopped, StopRequests

FORMAT = "snp-report-1"

Batches = Iterable[Any]  # of (inputs, labels), or of mappings with an entry labels or label, as DataLoaders give them


class InspectionError(ValueError):
    """A network or its data cannot be inspected, or a file is no report. The message says what is expected."""


@dataclass(frozen=True)
class Report:
    """What the units of a network know, site by site. K labels; a site of width d has d units.

    Attributes:
        class_names: K names.
        sites: name of a module → its width, in the order of the forward pass.
        kinds: the same → block, attention or hidden.
        class_means: split → site → (K, d) mean pooled features of the inputs of each label.
        weights: site → (K, d) of its readout.
        readout_accuracy: site → share of test inputs that its readout answers rightly, in [0, 1].
        accuracy: that of the network itself; NaN where its outputs are not the K labels.
        images: split → number of inputs.
    """

    class_names: list[str]
    sites: dict[str, int]
    kinds: dict[str, str]
    class_means: dict[str, dict[str, Float32[np.ndarray, "label _"]]]
    weights: dict[str, Float32[np.ndarray, "label _"]]
    readout_accuracy: dict[str, float]
    accuracy: float
    images: dict[str, int]

    num_heads = 0  # heads of networks that are not ours cannot be told apart

    def sites_of(self, kind: str) -> list[str]:
        """The sites of a kind, in the order of the forward pass."""
        return [site for site, known in self.kinds.items() if known == kind]

    def matrices(
        self, site: str, *, unit: Literal["node", "head"] = "node", split: Literal["train", "test"] = "test"
    ) -> Float[np.ndarray, "unit label output"]:
        """Performance matrices of every node or filter of a site.

        Raises:
            ValueError: unknown site, or heads, which no report has.
        """
        if site not in self.sites:
            raise ValueError(f"unknown site {site!r}; this report has {', '.join(self.sites)}")
        if unit != "node":
            raise ValueError("a report knows nodes and filters, no heads")
        means, weight = (
            group_units(torch.from_numpy(values), self.sites[site]) for values in (self.class_means[split][site], self.weights[site])
        )
        return unit_matrices(means, weight).numpy()

    def summary(self, theta: float = THETA) -> pd.DataFrame:
        """Averages over the units of each site, one row a site.

        Returns:
            Columns site, kind, units, accuracy (of the readout), labels and clusters per unit, cluster_size, noise per unit, snr, snr
            shuffled (the control: the outputs of every unit permuted), snr at equal density (every unit keeps as many of its largest
            elements as there are labels), so that sites of different sparsity can be compared.
        """
        rows = []
        for site, units in self.sites.items():
            matrices = self.matrices(site)
            averages = summarize(matrices, theta).averages()
            shuffled = summarize(shuffle_outputs(matrices, seed=0), theta)
            row: dict[str, Any] = {"site": site, "kind": self.kinds[site], "units": units, "accuracy": self.readout_accuracy[site]}
            row |= {name: averages[name] for name in ("labels", "clusters", "cluster_size", "noise", "snr")}
            row |= {"snr shuffled": shuffled.snr, "snr at equal density": snr_at_density(matrices, len(self.class_names))}
            rows.append(row)
        return pd.DataFrame(rows)

    def explore(self) -> widgets.VBox:
        """The explorer of chapter A2 for this network; display it as the last expression of a cell."""
        return explore(self)

    def to_csv(self, path: str | Path, theta: float = THETA) -> Path:
        """Write :meth:`summary` as CSV."""
        target = Path(path).expanduser()
        write_durably(target, self.summary(theta).to_csv(index=False).encode())
        return target

    def save(self, path: str | Path) -> Path:
        """Write the report as ``.npz`` without pickle; :func:`load` reads it."""
        target = Path(path).expanduser()
        plain: dict[str, Any] = {
            "format": FORMAT,
            "class_names": self.class_names,
            "sites": self.sites,
            "kinds": self.kinds,
            "images": self.images,
        }
        plain |= {"accuracy": None if np.isnan(self.accuracy) else self.accuracy, "readout_accuracy": self.readout_accuracy}
        arrays = {f"means_{split}/{site}": values for split, means in self.class_means.items() for site, values in means.items()}
        arrays |= {f"weight/{site}": values for site, values in self.weights.items()}
        partial = target.with_name(f".{target.name}.partial.npz")
        try:
            np.savez_compressed(partial, report=np.frombuffer(json.dumps(plain).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target


def load(path: str | Path) -> Report:
    """Read a report that :meth:`Report.save` wrote; raises InspectionError for any other file."""
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as file:
            plain = json.loads(bytes(file["report"]))
            if plain.pop("format") != FORMAT:
                raise ValueError("another format")
            splits = {split: {site: file[f"means_{split}/{site}"] for site in plain["sites"]} for split in ("train", "test")}
            weights = {site: file[f"weight/{site}"] for site in plain["sites"]}
    except (OSError, ValueError, KeyError) as error:
        raise InspectionError(f"{path} is no report that this version reads ({error}); Report.save writes them") from error
    accuracy = float("nan") if plain["accuracy"] is None else plain.pop("accuracy")
    plain.pop("accuracy", None)
    return Report(class_means=splits, weights=weights, accuracy=accuracy, **plain)


def inspect(
    model: nn.Module,
    *,
    train: Batches,
    test: Batches,
    sites: Literal["auto"] | Sequence[str] = "auto",
    class_names: Sequence[str] | None = None,
    epochs: int = 3,
    lr: float = 2e-3,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Measure what the single units of any network know.

    The network is frozen and in eval mode; on the features of every site a readout is trained by AdamW, cosine to zero,
    cross-entropy: sequence pooling and a linear layer without bias for tokens, the mean over places and a linear layer for maps. Class
    means of train and test inputs follow in one pass each. Inputs come as the loaders give them, prepared as the network expects them,
    and are never held together. Do the same with an untrained network of the same shape before you believe a number.

    Args:
        model: inputs to logits (N, K), or to something with them under ``logits``; left as it was.
        train, test: loaders with a length, of (inputs, labels) with labels (N,) in 0 … K − 1, or of mappings with ``labels`` or
            ``label`` and one other tensor, the inputs.
        sites: names of modules, or ``auto``, see :func:`snp_lib.models.hooked.readable`.
        class_names: K names; else the numbers of the labels that the network has outputs for.
        epochs: passes over ``train`` for the readouts.
        lr: of the readouts.
        device: ``auto``, ``cpu`` or ``cuda``; the model is moved there and back.
        seed: of the readouts' initial weights.
        progress: show progress bars.

    Raises:
        InspectionError: loaders without length or with other batches, labels out of range or without inputs.
        ValueError: sites that cannot be read, see :class:`snp_lib.models.hooked.Hooked`.
        Stopped: SIGTERM came; nothing is kept.
    """
    chosen, home = choose_device(device), next(model.parameters()).device
    try:
        with evaluating(model):
            model.to(chosen)
            return _inspect(model, train, test, None if sites == "auto" else list(sites), class_names, epochs, lr, chosen, seed, progress)
    finally:
        model.to(home)


def _inspect(
    model: nn.Module,
    train: Batches,
    test: Batches,
    sites: list[str] | None,
    class_names: Sequence[str] | None,
    epochs: int,
    lr: float,
    device: torch.device,
    seed: int,
    progress: bool,
) -> Report:
    steps, passes = _length(train, "train"), _length(test, "test")
    example = next(_pairs(train, "train", None))[0].to(device)
    network = Hooked(model, sites, example).eval()
    with torch.no_grad():
        logits, features = network(example, sites=list(network.sites))
    names = list(class_names) if class_names is not None else [str(label) for label in range(logits.shape[1])]
    labels = len(names)
    readouts: dict[str, Readout] = {}
    for site in network.sites:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{seed} {site}".encode()))
            readouts[site] = make_readout(features[site], labels, None if features[site].ndim == 3 else "mean").to(device)
    learning = Learning(network, readouts, ReadoutRecipe(epochs=epochs, batch_size=1, lr=lr), steps, bfloat16=False)
    bar = tqdm(total=epochs * steps, desc="readouts", unit="step", disable=not progress, leave=False)
    with StopRequests() as requests, bar:
        for _ in range(epochs):
            for inputs, wanted in _pairs(train, "train", labels):
                learning.step(inputs.to(device), wanted.to(device))
                bar.update()
                if requests.pending:
                    raise Stopped(requests.reason, "while the readouts were trained", "nothing is kept")
    for readout in readouts.values():
        readout.eval()
    measured = {}
    for split, batches, total in (("train", train, steps), ("test", test, passes)):
        pairs = _pairs(batches, split, labels)
        try:
            measured[split] = measure_batches(network, readouts, pairs, num_classes=labels, total=total, progress=progress)
        except ValueError as error:
            raise InspectionError(f"{split}: {error}") from error
    tested = measured["test"]
    answered = (tested.logits.argmax(1) == tested.labels).double().mean().item() if logits.shape[1] == labels else float("nan")
    return Report(
        class_names=names,
        sites=network.sites,
        kinds=network.kinds,
        class_means={split: {site: means.numpy() for site, means in each.class_means.items()} for split, each in measured.items()},
        weights={site: readout.linear.weight.detach().cpu().numpy() for site, readout in readouts.items()},
        readout_accuracy=dict(tested.readout_accuracy),
        accuracy=answered,
        images={split: len(each.labels) for split, each in measured.items()},
    )


def _length(batches: Batches, name: str) -> int:
    if not isinstance(batches, Sized) or not len(batches):
        raise InspectionError(f"{name} must have a length and at least one batch, as a DataLoader of a sized data set has; got {batches!r}")
    return len(batches)


def _pairs(batches: Batches, name: str, labels: int | None) -> Iterator[tuple[Tensor, Int64[Tensor, " n"]]]:
    """Inputs and labels of every batch, checked."""
    for batch in batches:
        inputs, wanted = _pair(batch, name)
        if wanted.ndim != 1 or len(wanted) != len(inputs) or wanted.is_floating_point():
            raise InspectionError(f"{name}: expected {len(inputs)} labels as whole numbers, got {wanted.dtype} {tuple(wanted.shape)}")
        if labels is not None and not 0 <= int(wanted.min()) <= int(wanted.max()) < labels:
            raise InspectionError(f"{name}: labels must lie in 0 … {labels - 1}, got {int(wanted.min())} … {int(wanted.max())}")
        yield inputs, wanted.long()


def _pair(batch: Any, name: str) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Mapping):
        label = next((key for key in ("labels", "label") if key in batch), None)
        others = [value for key, value in batch.items() if key != label and isinstance(value, Tensor)]
        batch = (others[0], batch[label]) if label is not None and len(others) == 1 else ()
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        raise InspectionError(f"{name}: expected batches (inputs, labels) of two tensors, or mappings with labels and one other tensor")
    return batch[0], batch[1]
