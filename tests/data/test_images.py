"""Data sets: what they hold, and what happens when files are missing, damaged or cannot be written."""

from __future__ import annotations

import os
import shutil
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from shared import skip

from snp_lib import data
from snp_lib.data import DataError, Split

FOLDERS = {"cifar100": "cifar-100-python", "flowers102": "flowers-102"}


def real(name: str) -> Path:
    """The folder with the real data set; skips where there is none."""
    root = os.environ.get("SNP_TEST_DATA")
    if not root or not (Path(root) / FOLDERS[name]).is_dir():
        skip(name)
    return Path(root)


def test_digits_are_the_same_everywhere() -> None:
    digits = data.load("digits")
    assert digits.train.inputs.shape == (1347, 1, 8, 8)
    assert digits.test.inputs.shape == (450, 1, 8, 8)
    assert digits.train.inputs.dtype == torch.uint8
    assert (digits.train.inputs.min(), digits.train.inputs.max()) == (0, 255)
    assert digits.class_names == tuple("0123456789")
    assert digits.num_classes == 10
    assert torch.bincount(digits.test.labels).min() > 30
    assert digits.checksum == "9c870f8d9612b5458bc94ee8306b32f025117dc71c18b4aa518d2436f12d12e5"
    assert data.load("digits").checksum == digits.checksum


def test_digits_split_every_fourth_image_to_test() -> None:
    from sklearn.datasets import load_digits

    bunch, digits = load_digits(), data.load("digits")
    assert digits.test.labels.tolist() == bunch.target[::4].tolist()
    assert np.array_equal(digits.test.inputs[7, 0], np.round(bunch.images[28] * 255 / 16))


def test_size_enlarges_digits() -> None:
    small, large = data.load("digits"), data.load("digits", size=16)
    assert large.train.inputs.shape == (1347, 1, 16, 16)
    assert torch.equal(large.train.labels, small.train.labels)
    means = [d.train.inputs.float().mean((1, 2, 3)) for d in (small, large)]
    assert (means[0] - means[1]).abs().max() < 4  # grey levels: the same picture, only smoother
    assert large.checksum != small.checksum


def test_splits_by_name() -> None:
    digits = data.load("digits")
    assert digits.split("test") is digits.test
    assert len(digits.split("train")) == 1347
    for absent in ("validation", "val"):
        with pytest.raises(ValueError, match=f"digits has no split '{absent}'"):
            digits.split(absent)


@pytest.mark.parametrize(
    ("name", "size", "message"), [("mnist", None, "unknown data set"), ("digits", 0, "size"), ("cifar100", 64, "32 pixels")]
)
def test_wrong_names_and_sizes_are_refused(name: str, size: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load(name, size=size)


def test_a_split_of_disagreeing_lengths_is_refused() -> None:
    with pytest.raises(TypeError):
        Split(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))


def test_cifar100_is_the_official_one() -> None:
    cifar = data.load("cifar100", real("cifar100"), progress=False)
    assert cifar.train.inputs.shape == (50_000, 3, 32, 32)
    assert cifar.test.inputs.shape == (10_000, 3, 32, 32)
    assert torch.bincount(cifar.train.labels).tolist() == [500] * 100
    assert torch.bincount(cifar.test.labels).tolist() == [100] * 100
    assert cifar.class_names[:3] + cifar.class_names[-1:] == ("apple", "aquarium fish", "baby", "worm")
    assert cifar.checksum == "4ec76184412ef58723bcb458e1cec84a30cf0ba7aab1200cf1b630ae839d37eb"


def test_flowers102_has_the_official_split() -> None:
    flowers = data.load("flowers102", real("flowers102"), size=32, progress=False)
    assert flowers.validation is not None
    assert [len(s) for s in (flowers.train, flowers.validation, flowers.test)] == [1020, 1020, 6149]
    assert flowers.train.inputs.shape[1:] == (3, 32, 32)
    assert flowers.num_classes == len(set(flowers.class_names)) == 102
    for split, fewest in ((flowers.train, 10), (flowers.validation, 10), (flowers.test, 20)):
        assert torch.bincount(split.labels, minlength=102).min() == fewest


def test_training_and_validation_photographs_together() -> None:
    official, both = (data.load(name, real("flowers102"), size=16, progress=False) for name in ("flowers102", "flowers102-trainval"))
    assert official.validation is not None
    assert torch.equal(both.train.inputs[:1020], official.train.inputs)
    assert torch.equal(both.train.labels[1020:], official.validation.labels)
    assert torch.equal(both.test.inputs, official.test.inputs)
    assert torch.bincount(both.train.labels).tolist() == [20] * 102
    assert both.class_names == official.class_names
    assert both.checksum != official.checksum
    with pytest.raises(ValueError, match="flowers102-trainval has no split 'validation'"):
        both.split("validation")


@pytest.mark.parametrize("name", FOLDERS)
def test_without_a_network_nothing_is_left_behind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(DataError, match=f"{FOLDERS[name]}.*download failed.*no route to host.*SNP_DATA_DIR"):
        data.load(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_download_takes_its_place_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = real("cifar100")

    class Download(torchvision.datasets.CIFAR100):
        def download(self) -> None:
            assert not (tmp_path / self.base_folder).exists()
            shutil.copytree(source / self.base_folder, Path(self.root) / self.base_folder)
            (Path(self.root) / self.filename).touch()

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", Download)
    assert len(data.load("cifar100", tmp_path, progress=False).train) == 50_000
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-100-python"]


@pytest.mark.parametrize("damage", ["truncated", "flipped byte", "missing"])
def test_a_damaged_file_is_named_with_the_checksum_expected(damage: str, tmp_path: Path) -> None:
    source = real("cifar100")
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "meta"):
        (folder / name).symlink_to(source / "cifar-100-python" / name)
    content = bytearray((source / "cifar-100-python" / "test").read_bytes())
    if damage == "flipped byte":
        content[len(content) // 2] ^= 1
    if damage != "missing":
        (folder / "test").write_bytes(content[:-1] if damage == "truncated" else content)
    expected = "No such file" if damage == "missing" else "f0ef6b0ae62326f3e7ffdfab6717acfc"
    with pytest.raises(DataError, match=rf"cifar-100-python/test.*{expected}.*Delete the folder") as error:
        data.load("cifar100", tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot write to .*file/below.*SNP_DATA_DIR"):
        data.load("cifar100", tmp_path / "file" / "below")


def flowers_without_photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "flowers-102"
    folder.mkdir()
    for name in ("imagelabels.mat", "setid.mat"):
        shutil.copyfile(real("flowers102") / "flowers-102" / name, folder / name)
    return folder


def test_missing_photographs_are_data_errors(tmp_path: Path) -> None:
    flowers_without_photographs(tmp_path)
    with pytest.raises(DataError, match=r"no photographs in .*flowers-102/jpg"):
        data.load("flowers102", tmp_path, size=8, progress=False)


@pytest.mark.parametrize("damage", ["truncated", "not a picture", "missing"])
def test_a_damaged_photograph_is_named(damage: str, tmp_path: Path) -> None:
    photographs = flowers_without_photographs(tmp_path) / "jpg"
    photographs.mkdir()
    good, bad = tmp_path / "good.jpg", "image_06765.jpg"  # the first of the training list
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(good)
    content: dict[str, Any] = {"truncated": good.read_bytes()[:700], "not a picture": b"<html>404</html>"}
    for i in range(1, 8190):
        (photographs / f"image_{i:05d}.jpg").symlink_to(good)
    (photographs / bad).unlink()
    if damage in content:
        (photographs / bad).write_bytes(content[damage])
    with pytest.raises(DataError, match=rf"cannot read .*jpg/{bad}.*delete the folder .*flowers-102"):
        data.load("flowers102", tmp_path, size=8, progress=False)
