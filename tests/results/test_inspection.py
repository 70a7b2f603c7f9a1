"""The report of anybody's network: the book's definitions, from loaders, checked against loops over single images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import snp_lib
from snp_lib.data import Dataset, Split
from snp_lib.machine import import_torchvision
from snp_lib.performance import find_clusters
from snp_lib.results.inspection import InspectionError, Report, load


def loader(split: Split, size: int = 32) -> DataLoader[Any]:
    return DataLoader(TensorDataset(split.inputs / 255, split.labels), size)


def vit(labels: int = 10) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = import_torchvision().models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=24, num_classes=labels
    )
    network.conv_proj = nn.Conv2d(1, 12, 4, 4)
    nn.init.normal_(network.heads.head.weight)
    return network


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return vit()


@pytest.fixture(scope="module")
def report(network: nn.Module, few_digits: Dataset) -> Report:
    return snp_lib.inspect(network, train=loader(few_digits.train), test=loader(few_digits.test), epochs=2, device="cpu", progress=False)


BLOCK = "encoder.layers.encoder_layer_1"


def test_class_means_and_matrices_are_those_of_a_loop_over_images(report: Report, network: nn.Module, few_digits: Dataset) -> None:
    """Blocks are read as a sum of tokens with weights that add up to one, so the mean of the pooled lies among the tokens' means."""
    widths = {
        BLOCK.replace("1", str(b)) + part: width for b in (0, 1) for part, width in ((".self_attention", 12), (".mlp.1", 24), ("", 12))
    }
    assert report.sites == widths
    assert report.images == {"train": len(few_digits.train), "test": len(few_digits.test)}
    for split in ("train", "test"):
        assert all(means.shape == (10, widths[site]) for site, means in report.class_means[split].items())
    matrices = report.matrices(BLOCK)
    for unit in range(12):
        for label in range(10):
            for output in range(10):
                expected = report.class_means["test"][BLOCK][label, unit] * report.weights[BLOCK][output, unit]
                assert matrices[unit, label, output] == pytest.approx(float(expected), rel=1e-6)
    right = [
        int(network.eval()(image[None] / 255).argmax()) == int(label)
        for image, label in zip(few_digits.test.inputs, few_digits.test.labels, strict=True)
    ]
    assert report.accuracy == pytest.approx(np.mean(right))


def test_maps_are_read_by_their_mean(few_digits: Dataset) -> None:
    convolutions = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 10))
    report = snp_lib.inspect(
        convolutions, train=loader(few_digits.train), test=loader(few_digits.test), epochs=1, device="cpu", progress=False
    )
    assert report.kinds == {"1": "hidden"}
    for label in range(10):
        images = few_digits.test.inputs[few_digits.test.labels == label]
        pooled = [convolutions[:2](image[None] / 255).mean((2, 3))[0].detach() for image in images]
        torch.testing.assert_close(torch.from_numpy(report.class_means["test"]["1"][label]), torch.stack(pooled).mean(0))


def test_the_readouts_learn(report: Report, network: nn.Module, few_digits: Dataset) -> None:
    longer = snp_lib.inspect(
        network, train=loader(few_digits.train), test=loader(few_digits.train), epochs=40, lr=2e-2, device="cpu", progress=False
    )
    assert longer.readout_accuracy[BLOCK] > 0.5 > max(0.2, report.readout_accuracy[BLOCK] - 0.2)


def test_how_inputs_are_batched_changes_nothing_but_rounding(network: nn.Module, few_digits: Dataset, report: Report) -> None:
    class Mappings:
        """As the data sets of a large hub come."""

        def __len__(self) -> int:
            return len(loader(few_digits.test, 7))

        def __iter__(self) -> Any:
            return ({"pixel_values": inputs, "labels": labels.int()} for inputs, labels in loader(few_digits.test, 7))

    again = snp_lib.inspect(network, train=loader(few_digits.train), test=Mappings(), epochs=2, device="cpu", progress=False)
    assert again.accuracy == report.accuracy
    for site, means in report.class_means["test"].items():
        np.testing.assert_allclose(again.class_means["test"][site], means, rtol=1e-4, atol=1e-6)


def test_summary_holds_the_book_s_statistics_and_its_controls(report: Report) -> None:
    table = report.summary(theta=0.4).set_index("site")
    assert list(table.index) == list(report.sites)
    matrices = report.matrices(BLOCK)
    thresholded = [unit / unit.max() > 0.4 for unit in matrices if unit.max() > 0]
    sizes = [len(cluster) for unit in thresholded for cluster in find_clusters(unit)]
    assert table.loc[BLOCK, "cluster_size"] == pytest.approx(np.mean(sizes))
    assert table.loc[BLOCK, "labels"] == pytest.approx(sum(int(unit.trace()) for unit in thresholded) / len(matrices))
    kept = [np.argsort(-unit.ravel(), kind="stable")[:10] for unit in matrices if unit.max() > 0]
    hits = sum(int((order % 11 == 0).sum()) for order in kept)
    assert table.loc[BLOCK, "snr at equal density"] == pytest.approx(9 * hits / (10 * len(kept) - hits))
    assert (table["snr shuffled"] < 2).all()


def test_what_is_written_is_what_is_read(report: Report, tmp_path: Path) -> None:
    again = load(report.save(tmp_path / "report.npz"))
    assert again.summary().equals(report.summary())
    assert (again.class_names, again.kinds, again.images, again.accuracy) == (
        report.class_names, report.kinds, report.images, report.accuracy,
    )  # fmt: skip
    written = pd.read_csv(report.to_csv(tmp_path / "report.csv"))
    pd.testing.assert_frame_equal(written, report.summary())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.npz"]


def test_another_file_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("text", encoding="utf-8")
    np.savez(tmp_path / "other.npz", report=np.zeros(3))
    for name in ("text.npz", "other.npz", "absent.npz"):
        with pytest.raises(InspectionError, match=rf"{name} is no report"):
            load(tmp_path / name)


def test_a_network_with_other_outputs_has_no_accuracy_of_its_own(few_digits: Dataset, tmp_path: Path) -> None:
    """Such as one trained on a thousand labels, whose units are asked about ten others."""
    names = [f"digit {label}" for label in range(10)]
    report = snp_lib.inspect(
        vit(25), train=loader(few_digits.train), test=loader(few_digits.test), class_names=names, epochs=1, device="cpu", progress=False
    )
    assert math.isnan(report.accuracy)
    assert math.isnan(load(report.save(tmp_path / "r.npz")).accuracy)
    assert report.class_names == names


def test_the_explorer_shows_a_report(report: Report) -> None:
    explorer = report.explore()
    site = next(child for child in explorer.children[0].children if isinstance(child, widgets.Dropdown))
    assert list(site.options) == list(report.sites)
    with pytest.raises(ValueError, match="no heads"):
        report.matrices(BLOCK, unit="head")
    with pytest.raises(ValueError, match="unknown site 'x'"):
        report.matrices("x")


def test_a_network_is_left_in_its_mode(network: nn.Module, few_digits: Dataset) -> None:
    network.train()
    snp_lib.inspect(network, train=loader(few_digits.train), test=loader(few_digits.test), epochs=1, device="cpu", progress=False)
    assert network.training


def pairs(inputs: Tensor, labels: Tensor) -> list[Any]:
    return [(inputs, labels)]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (iter([1]), "train must have a length and at least one batch"),
        ([], "train must have a length and at least one batch"),
        ([torch.zeros(3)], r"train: expected batches \(inputs, labels\)"),
        ([{"pixels": torch.zeros(3, 1, 8, 8)}], r"train: expected batches \(inputs, labels\)"),
        (pairs(torch.zeros(10, 1, 8, 8), torch.zeros(10)), "train: expected 10 labels as whole numbers, got torch.float32"),
        (pairs(torch.zeros(10, 1, 8, 8), torch.arange(9)), r"train: expected 10 labels as whole numbers, got torch.int64 \(9,\)"),
        (pairs(torch.zeros(10, 1, 8, 8), torch.arange(1, 11)), r"train: labels must lie in 0 … 9, got 1 … 10"),
        (pairs(torch.zeros(9, 1, 8, 8), torch.arange(9)), "train: label 9 has no input"),
    ],
)
def test_what_cannot_be_measured_is_named(batches: Any, message: str, network: nn.Module, few_digits: Dataset) -> None:
    with pytest.raises(InspectionError, match=message):
        snp_lib.inspect(network, train=batches, test=loader(few_digits.test), epochs=1, device="cpu", progress=False)
