"""Readouts of padded inputs against a loop over the inputs, each alone and without padding."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from snp_lib import data
from snp_lib.analysis.ablation import _head_means
from snp_lib.data.dataset import Split
from snp_lib.models import Network, create_model
from snp_lib.performance.class_means import measure
from snp_lib.performance.macroscopic import moments
from snp_lib.performance.readout import Pooling, Readout, ReadoutRecipe, TokenReadout, make_readout, train_readouts
from snp_lib.performance.silencing import SilencedFirst
from snp_lib.training import Recipe

TOKENS = Recipe(epochs=1, batch_size=32, lr=1e-3, weight_decay=0.0, crop_padding=0, flip=False)
POOLINGS = (None, *get_args(Pooling))


def padded(width: int = 12) -> tuple[Tensor, Tensor]:
    """Features of ten inputs of one to seven tokens, zero behind their ends, and the mask."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1, 7, 3, 5, 2, 7, 4, 1, 6, 3])
    mask = torch.arange(7) < lengths[:, None]
    return torch.randn(10, 7, width, generator=generator) * mask.unsqueeze(2), mask


def lively(readout: Readout) -> Readout:
    torch.manual_seed(1)
    for parameter in readout.parameters():
        torch.nn.init.normal_(parameter)
    return readout


@torch.no_grad()
def test_tokens_that_are_not_there_weigh_nothing() -> None:
    features, mask = padded()
    for pooling in (None, "mean"):
        readout = lively(make_readout(features, 5, pooling))
        for pool in (readout, *([SilencedFirst(readout, 4)] if isinstance(readout, TokenReadout) else [])):
            alone = torch.cat([pool.pool(one[None, there]) for one, there in zip(features, mask, strict=True)])
            torch.testing.assert_close(pool.pool(features, mask), alone)
            assert not torch.allclose(pool.pool(features), alone)  # without the mask padding would count
    flat = lively(make_readout(features, 5, "flat"))
    assert torch.equal(flat.pool(features, mask), flat.pool(features))  # zeros add nothing


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return create_model("text_2", num_classes=10, vocabulary=122, length=32, embed_dim=16).eval()


@pytest.fixture(scope="module")
def names() -> data.Dataset:
    full = data.load("cldr-10")
    first = [torch.cat([(split.labels == label).nonzero()[:12, 0] for label in range(10)]) for split in (full.train, full.test)]
    train, test = (Split(split.inputs[rows], split.labels[rows]) for split, rows in zip((full.train, full.test), first, strict=True))
    return data.Dataset(name="few", train=train, test=test, class_names=full.class_names, checksum="")


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_class_means_are_those_of_single_texts(pooling: Pooling | None, network: Network, names: data.Dataset) -> None:
    recipe = ReadoutRecipe(epochs=1, batch_size=32, pooling=pooling)
    with torch.enable_grad():
        readouts = train_readouts(network, names, ["block1.mha", "block2"], recipe, TOKENS, seed=0, progress=False)
    measured = measure(network, readouts, names.test, lambda x: x, num_classes=10, batch_size=50)
    together = moments(network, readouts, names.test, lambda x: x, num_classes=10)
    for site, readout in readouts.items():
        pooled, right = [], 0
        for text, label in zip(names.test.inputs, names.test.labels, strict=True):
            tokens = text[None] if pooling == "flat" else text[None, text > 0]  # a flat readout has a place for every token
            pooled.append(readout.pool(network(tokens, sites=[site])[1][site]))
            right += int(readout.linear(pooled[-1]).argmax() == label)
        means = torch.stack([torch.cat(pooled)[names.test.labels == label].mean(0) for label in range(10)])
        torch.testing.assert_close(measured.class_means[site], means, atol=1e-5, rtol=1e-4)
        assert measured.readout_accuracy[site] == right / len(names.test)
        torch.testing.assert_close(torch.from_numpy(together[site][0].means).float(), means, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_mean_of_a_head_is_over_tokens_that_are_there(network: Network, names: data.Dataset) -> None:
    means = _head_means(network, names.test, lambda x: x, ["block2.mha"], 50)["block2.mha"]
    alone = torch.cat([network(text[None, text > 0], sites=["block2.mha"])[1]["block2.mha"][0] for text in names.test.inputs])
    torch.testing.assert_close(means, alone.mean(0), atol=1e-5, rtol=1e-4)
