"""Heads made alike and exchanged: the parameters head by head, against slices by hand, and what the network computes with them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from snp_lib.models import create_model
from snp_lib.models.sites import HeadAxis, Network
from snp_lib.models.symmetry import by_head, exchange_heads, head_parameters, make_heads_alike

OPTIONS: dict[str, Any] = {"image_size": 16, "embed_dim": 24, "num_heads": 3, "num_classes": 7}
NAMES = ("cct_3_3x1", "vit_2_p4")


def network(name: str, seed: int = 0) -> Network:
    """Weights and biases far from their small initial values, so that every layer shows in the logits."""
    torch.manual_seed(seed)
    model = create_model(name, **OPTIONS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def images(n: int = 5) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def head_by_hand(model: Network, head: int) -> list[Tensor]:
    """Rows of queries, keys and values and columns of the projection of a head of the second encoder of a CCT, cut out one by one."""
    qkv, projection = model.get_parameter("encoders.1.attention.qkv.weight"), model.get_parameter("encoders.1.projection.weight")
    rows = [qkv[24 * part + 8 * head : 24 * part + 8 * (head + 1)] for part in range(3)]
    return [*rows, projection[:, 8 * head : 8 * (head + 1)]]


def test_a_view_is_what_slices_cut_out() -> None:
    model = network("cct_3_3x1")
    found = head_parameters(model)
    assert sorted({block for block, _ in found}) == [1, 2, 3]
    for head in range(3):
        for part, expected in zip(("query", "key", "value", "output"), head_by_hand(model, head), strict=True):
            assert torch.equal(found[2, part][head], expected.detach().flatten())


def test_what_is_written_into_a_view_is_written_into_the_parameter() -> None:
    parameter = torch.zeros(4, 12)
    by_head(parameter, HeadAxis(block=1, heads=3, axis=1, parts=("value", "output")))[1, 2] = 1.0
    assert parameter.nonzero()[:, 1].unique().tolist() == [10, 11]


@pytest.mark.parametrize("name", NAMES)
def test_all_differences_leave_every_bit_as_it_was(name: str) -> None:
    model = network(name)
    before = copy.deepcopy(model.state_dict())
    make_heads_alike(model, 1.0)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_share_of_the_differences_is_that_share() -> None:
    model = network("cct_3_3x1")
    first, third = ([part.detach().clone() for part in head_by_hand(model, head)] for head in (0, 2))
    make_heads_alike(model, 0.25)
    for start, end, found in zip(first, third, head_by_hand(model, 2), strict=True):
        torch.testing.assert_close(found.detach(), start + 0.25 * (end - start))
    assert all(torch.equal(start, found) for start, found in zip(first, head_by_hand(model, 0), strict=True))


def test_without_differences_all_heads_answer_alike_to_any_input() -> None:
    model = network("cct_3_3x1")
    different = model(images(), sites=["block3.mha"])[1]["block3.mha"].unflatten(2, (3, 8))
    assert (different - different[:, :, :1]).abs().max() > 0.1
    make_heads_alike(model, 0.0)
    outputs = model(images(), sites=[f"block{b}.mha" for b in (1, 2, 3)])[1]
    for features in outputs.values():
        heads = features.unflatten(2, (3, 8))
        torch.testing.assert_close(heads, heads[:, :, :1].expand_as(heads), atol=1e-6, rtol=1e-5)
    others = [name for name in model.state_dict() if "qkv" not in name and "projection.weight" not in name]
    assert all(torch.equal(model.state_dict()[name], network("cct_3_3x1").state_dict()[name]) for name in others)


@pytest.mark.parametrize("name", NAMES)
def test_heads_that_change_places_change_nothing(name: str) -> None:
    model = network(name)
    with torch.no_grad():
        expected, before = model(images()), copy.deepcopy(model.state_dict())
        exchange_heads(model, (2, 0, 1))
        torch.testing.assert_close(model(images()), expected, atol=1e-5, rtol=1e-5)
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_heads_that_change_places_take_their_outputs_along() -> None:
    model = network("cct_3_3x1")
    with torch.no_grad():
        before = model(images(), sites=["block2.mha"])[1]["block2.mha"].unflatten(2, (3, 8))
        exchange_heads(model, (2, 0, 1))
        after = model(images(), sites=["block2.mha"])[1]["block2.mha"].unflatten(2, (3, 8))
    torch.testing.assert_close(after, before[:, :, [2, 0, 1]], atol=1e-5, rtol=1e-5)


def test_what_has_no_meaning_is_refused() -> None:
    model = network("cct_3_3x1")
    for epsilon in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"epsilon must lie in \[0, 1\]"):
            make_heads_alike(model, epsilon)
    with pytest.raises(ValueError, match=r"expected an order of heads 0 to 2, got \[0, 0, 1\]"):
        exchange_heads(model, (0, 0, 1))
    with pytest.raises(ValueError, match="25 rows do not divide into 3 parts of 2 heads"):
        by_head(torch.zeros(25, 4), HeadAxis(block=1, heads=2, axis=0, parts=("query", "key", "value")))
    with pytest.raises(ValueError, match="Extracted has no heads"):
        make_heads_alike(create_model("resnet8", num_classes=7), 0.0)
