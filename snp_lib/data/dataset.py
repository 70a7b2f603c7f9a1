"""What a data set is: splits of images or tokens with labels, verified and hashed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor


class DataError(RuntimeError):
    """A data set is missing, damaged, or cannot be fetched or written. The message names the file and the way out."""


@dataclass(frozen=True)
class Split:
    """Inputs and their labels (N,) in 0 … K−1: images (N, C, S, S) as uint8, or tokens (N, T)."""

    inputs: UInt8[Tensor, "n c s s"] | Int64[Tensor, "n t"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels in order, so many at a time, the rest last."""
        for start in range(0, len(self), size):
            yield self.inputs[start : start + size], self.labels[start : start + size]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A verified data set. ``checksum`` is the SHA-256 of every tensor in it, as loaded.

    ``vocabulary`` says what each token stands for, where inputs are tokens; ``superclasses`` which group each label belongs to,
    where the data set has groups of labels.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    checksum: str
    validation: Split | None = None  # only where the data set has an official one
    vocabulary: tuple[str, ...] | None = None
    superclasses: tuple[str, ...] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def split(self, name: str) -> Split:
        """The split ``train``, ``test`` or ``validation``; raises ValueError for any other or absent one."""
        split = {"train": self.train, "test": self.test, "validation": self.validation}.get(name)
        if split is None:
            raise ValueError(f"{self.name} has no split {name!r}")
        return split


def make_dataset(
    name: str,
    class_names: list[str],
    train: Split,
    test: Split,
    validation: Split | None = None,
    *,
    vocabulary: tuple[str, ...] | None = None,
    superclasses: tuple[str, ...] | None = None,
) -> Dataset:
    """A data set of these splits, with its checksum."""
    digest = hashlib.sha256()
    for split in (train, test, validation):
        if split is not None:
            digest.update(f"{tuple(split.inputs.shape)}".encode())
            digest.update(split.inputs.numpy().data)
            digest.update(split.labels.numpy().data)
    return Dataset(
        name=name,
        train=train,
        test=test,
        validation=validation,
        class_names=tuple(class_names),
        checksum=digest.hexdigest(),
        vocabulary=vocabulary,
        superclasses=superclasses,
    )


def inputs_per_label(split: Split, num_classes: int) -> Int64[Tensor, " k"]:
    """Inputs of each label; raises ValueError where a label has none, so that no mean over them exists."""
    counts = torch.bincount(split.labels, minlength=num_classes)
    if (counts == 0).any():
        raise ValueError(f"label {int((counts == 0).nonzero()[0])} has no input in this split")
    return counts


def hygiene(dataset: Dataset) -> str:
    """What a reader should know of tokens, in words: unknown ones, inputs in both splits, the ceiling that equal inputs set."""
    train, test = dataset.train.inputs, dataset.test.inputs
    known = {inputs.tobytes() for inputs in train.numpy()}
    repeated = sum(inputs.tobytes() in known for inputs in test.numpy())
    unknown, full = float((test == 1).sum() / (test > 0).sum()), float((train[:, -1] > 0).double().mean())
    return (
        f"of the test split {unknown:.1%} are unknown and {repeated:,} inputs are in the training split too; equal inputs leave an "
        f"accuracy of at most {ceiling(dataset.test):.1%}; {full:.1%} of the training inputs fill every place"
    )


def ceiling(split: Split) -> float:
    """The largest accuracy that any function of the inputs could have on a split, in [0, 1]: equal inputs get one answer.

    Each distinct input counts for the label that it has most often there.
    """
    rows: dict[bytes, Counter[int]] = {}
    for inputs, label in zip(split.inputs.numpy(), split.labels.tolist(), strict=True):
        rows.setdefault(inputs.tobytes(), Counter())[label] += 1
    return sum(max(counts.values()) for counts in rows.values()) / len(split)
