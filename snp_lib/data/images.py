"""The image data sets: digits, CIFAR-100, Flowers-102."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor
from tqdm.auto import tqdm

from snp_lib.data.dataset import DataError, Dataset, Split, make_dataset
from snp_lib.data.files import provide, verify
from snp_lib.machine import import_torchvision


def digits(root: Path, size: int | None, progress: bool) -> Dataset:
    """The 1,797 handwritten digits of scikit-learn, every fourth of them a test image (defined here)."""
    from sklearn.datasets import load_digits  # takes seconds to import

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().mul(255 / 16).unsqueeze(1)  # (N, 1, 8, 8), ink 0…16 to 0…255
    if size not in (None, 8):
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    pixels = images.round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(bunch.target).long()
    test = torch.arange(len(labels)) % 4 == 0
    names = [str(c) for c in bunch.target_names]
    return make_dataset("digits", names, Split(pixels[~test], labels[~test]), Split(pixels[test], labels[test]))


def cifar100(root: Path, size: int | None, progress: bool) -> Dataset:
    """CIFAR-100 with its fine labels (Krizhevsky 2009)."""
    if size not in (None, 32):
        raise ValueError(f"cifar100 images have 32 pixels, not {size}")
    source = import_torchvision().datasets.CIFAR100
    files = {source.base_folder + "/" + file: md5 for file, md5 in source.train_list + source.test_list}
    files[source.base_folder + "/" + source.meta["filename"]] = source.meta["md5"]
    provide("cifar100", root, source.base_folder, lambda folder: source(folder, download=True))
    verify("cifar100", root, source.base_folder, files)

    def split(train: bool) -> Split:
        part = source(root, train=train)  # unpickles only the bytes whose MD5 was just verified
        return Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))

    names = [name.replace("_", " ") for name in source(root, train=False).classes]
    return make_dataset("cifar100", names, split(True), split(False))


def flowers102(root: Path, size: int | None, progress: bool) -> Dataset:
    """Flowers-102 on its official split (Nilsback and Zisserman 2008)."""
    source = import_torchvision().datasets.Flowers102
    folder = "flowers-102"
    files = {f"{folder}/{file}": md5 for file, md5 in (source._file_dict["label"], source._file_dict["setid"])}
    provide("flowers102", root, folder, lambda target: source(target, download=True))
    verify("flowers102", root, folder, files)

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

    return make_dataset("flowers102", list(source.classes), split("train"), split("test"), split("val"))


def flowers102_trainval(root: Path, size: int | None, progress: bool) -> Dataset:
    """The same with training and validation images together to train on."""
    official = flowers102(root, size, progress)
    assert official.validation is not None
    parts = (official.train, official.validation)
    both = Split(torch.cat([part.inputs for part in parts]), torch.cat([part.labels for part in parts]))
    return make_dataset("flowers102-trainval", list(official.class_names), both, official.test)


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
