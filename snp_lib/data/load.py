"""One loader for every data set: real images as uint8 tensors, verified, never half there."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from torch import Tensor
from tqdm.auto import tqdm

from snp_lib.paths import data_dir


class DataError(RuntimeError):
    """A data set is missing, damaged, or cannot be fetched or written. The message names the file and the way out."""


@dataclass(frozen=True)
class Split:
    """Images (N, C, S, S) as uint8 and their labels (N,) in 0 … K−1."""

    images: UInt8[Tensor, "n c s s"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A verified data set. ``checksum`` is the SHA-256 of every tensor in it, as loaded."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    checksum: str
    validation: Split | None = None  # only where the data set has an official one

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def split(self, name: str) -> Split:
        """The split ``train``, ``test`` or ``validation``; raises ValueError for any other or absent one."""
        split = {"train": self.train, "test": self.test, "validation": self.validation}.get(name)
        if split is None:
            raise ValueError(f"{self.name} has no split {name!r}")
        return split


def load(name: str, root: str | Path | None = None, *, size: int | None = None, progress: bool = True) -> Dataset:
    """Load a data set by name, downloading it when it is missing.

    Args:
        name: ``digits`` (bundled with scikit-learn, no network), ``cifar100``, ``flowers102``, or ``flowers102-trainval``,
            which trains on the official training and validation images together.
        root: folder in torchvision's layout; else ``SNP_DATA_DIR``, else ``data/cache/``. Unused by ``digits``.
        size: side of the square images in pixels. Default 8 (digits), 32 (CIFAR-100), 224 (Flowers-102).
        progress: show a progress bar while decoding.

    Returns:
        The data set, with the official split where there is one (Flowers-102 has 1,020 train, 1,020 validation, 6,149
        test); for digits every fourth image is a test image (defined here).

    Raises:
        ValueError: unknown name, or a size that this data set cannot have.
        DataError: no network, a damaged file, a folder that cannot be written; nothing half-written is left.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; there are {', '.join(DATASETS)}")
    if size is not None and size < 1:
        raise ValueError(f"size must be positive, got {size}")
    root = Path(root).expanduser() if root is not None else data_dir()
    return DATASETS[name](root, size, progress)


def _digits(root: Path, size: int | None, progress: bool) -> Dataset:
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().mul(255 / 16).unsqueeze(1)  # (N, 1, 8, 8), ink 0…16 to 0…255
    if size not in (None, 8):
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    pixels = images.round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(bunch.target).long()
    test = torch.arange(len(labels)) % 4 == 0
    return _dataset("digits", [str(c) for c in bunch.target_names], Split(pixels[~test], labels[~test]), Split(pixels[test], labels[test]))


def _cifar100(root: Path, size: int | None, progress: bool) -> Dataset:
    if size not in (None, 32):
        raise ValueError(f"cifar100 images have 32 pixels, not {size}")
    source = torchvision.datasets.CIFAR100
    files = {source.base_folder + "/" + file: md5 for file, md5 in source.train_list + source.test_list}
    files[source.base_folder + "/" + source.meta["filename"]] = source.meta["md5"]
    _provide("cifar100", root, source.base_folder, lambda folder: source(folder, download=True))
    _verify("cifar100", root, source.base_folder, files)

    def split(train: bool) -> Split:
        part = source(root, train=train)  # unpickles only the bytes whose MD5 was just verified
        return Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))

    names = [name.replace("_", " ") for name in source(root, train=False).classes]
    return _dataset("cifar100", names, split(True), split(False))


def _flowers102(root: Path, size: int | None, progress: bool) -> Dataset:
    source = torchvision.datasets.Flowers102
    folder = "flowers-102"
    files = {f"{folder}/{file}": md5 for file, md5 in (source._file_dict["label"], source._file_dict["setid"])}
    _provide("flowers102", root, folder, lambda target: source(target, download=True))
    _verify("flowers102", root, folder, files)

    def split(name: str) -> Split:
        try:
            part = source(root, split=name)
        except RuntimeError as error:  # the lists are verified, so the photographs are what is missing
            raise DataError(
                f"flowers102: no photographs in {root / folder / 'jpg'}. Delete the folder {root / folder} and load again "
                "to download it anew."
            ) from error
        pixels = torch.empty(len(part), 3, size or 224, size or 224, dtype=torch.uint8)
        paths = tqdm(part._image_files, desc=f"flowers102 {name}", disable=not progress, leave=False)
        for i, path in enumerate(paths):
            pixels[i] = _read_image(path, size or 224)
        return Split(pixels, torch.tensor(part._labels))

    return _dataset("flowers102", list(source.classes), split("train"), split("test"), split("val"))


def _flowers102_trainval(root: Path, size: int | None, progress: bool) -> Dataset:
    official = _flowers102(root, size, progress)
    assert official.validation is not None
    parts = (official.train, official.validation)
    both = Split(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))
    return _dataset("flowers102-trainval", list(official.class_names), both, official.test)


def _read_image(path: Path, size: int) -> UInt8[Tensor, "3 s s"]:
    """Centre crop to the shorter side, then resize (bicubic, antialiased)."""
    try:
        with Image.open(path) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except OSError as error:
        raise DataError(
            f"flowers102: cannot read {path} ({error}). Expected a complete JPEG; delete the folder {path.parent.parent} "
            "and load again to download it anew."
        ) from error
    return torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)


def _provide(name: str, root: Path, folder: str, download: Callable[[Path], object]) -> None:
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


def _verify(name: str, root: Path, folder: str, files: dict[str, str]) -> None:
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


def _dataset(name: str, class_names: list[str], train: Split, test: Split, validation: Split | None = None) -> Dataset:
    digest = hashlib.sha256()
    for split in (train, test, validation):
        if split is not None:
            digest.update(f"{tuple(split.images.shape)}".encode())
            digest.update(split.images.numpy().data)
            digest.update(split.labels.numpy().data)
    return Dataset(
        name=name,
        train=train,
        test=test,
        validation=validation,
        class_names=tuple(class_names),
        checksum=digest.hexdigest(),
    )


DATASETS: dict[str, Callable[[Path, int | None, bool], Dataset]] = {
    "digits": _digits,
    "cifar100": _cifar100,
    "flowers102": _flowers102,
    "flowers102-trainval": _flowers102_trainval,
}

LABELS = {"digits": 10, "cifar100": 100, "flowers102": 102, "flowers102-trainval": 102}
"""Number of labels of each data set, known without loading it."""
