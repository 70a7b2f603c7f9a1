"""AlterNet: the published sizes, attention written out window by window, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from shared import unchecked
from torch import Tensor

from snp_lib.models import create_model
from snp_lib.models.alternet import AlterNet, AlterNetConfig, WindowAttention, relative_positions

SMALL: dict[str, Any] = {"num_classes": 7, "blocks": 1124, "width": 4, "heads": 1, "head_width": 2, "window": 2, "image_size": 16}


@pytest.mark.parametrize(
    ("attentions", "parameters"),
    [("0000", 28_160_164), ("0001", 30_258_389), ("0002", 32_356_614), ("0012", 32_881_463), ("0112", 33_012_840), ("0132", 34_062_538)],
)
def test_parameters_are_those_of_the_released_code(attentions: str, parameters: int) -> None:
    with torch.device("meta"):
        model = create_model(f"alternet_{attentions}", num_classes=100)
    assert sum(p.numel() for p in model.parameters()) == parameters


def macs(model: AlterNet) -> int:
    """Multiply-accumulates of convolutions and linear layers of one image, from the shapes of what they return.

    Of whole maps: a count of code that puts its windows in the batch sees one window of each attention, and finds 1,355 million.
    """
    total = 0

    def hook(module: torch.nn.Module, _inputs: Any, out: Tensor) -> None:
        nonlocal total
        total += module.weight[0].numel() * out[0].numel()  # type: ignore[operator, union-attr]

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    model(torch.empty(1, 3, 32, 32, device="meta"))
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(("attentions", "millions"), [("0000", 1369), ("0001", 1403), ("0012", 1470), ("0112", 1504)])
def test_multiply_accumulates_of_whole_maps(attentions: str, millions: int) -> None:
    with torch.device("meta"):
        model = create_model(f"alternet_{attentions}", num_classes=100).eval()
    assert round(macs(model) / 1e6) == millions  # type: ignore[arg-type]


def small(attentions: str = "0012") -> AlterNet:
    torch.manual_seed(0)
    model = create_model(f"alternet_{attentions}", **SMALL)
    assert isinstance(model, AlterNet)
    return model.eval()


def test_attentions_stand_at_the_ends_of_stages_behind_convolutions() -> None:
    kinds = [unit.kind[0] for unit in small("0012").residual_units]
    assert "".join(kinds) == "c" + "c" + "ca" + "caca"
    kinds = [unit.kind[0] for unit in create_model("alternet_0112", num_classes=2).residual_units]
    assert "".join(kinds) == "ccc" + "ccca" + "ccccca"[:4] + "ca" + "caca"


@torch.no_grad()
def test_attention_against_loops_over_windows_heads_and_places() -> None:
    torch.manual_seed(0)
    block = WindowAttention(8, heads=3, head_width=2, window=2, drop_path=0.0).eval()
    block.relative_bias.copy_(torch.randn(9))
    x = torch.randn(2, 8, 4, 6)
    inner = block.norm2(block.squeeze(torch.nn.functional.gelu(block.norm1(x))))
    q, k, v = block.qkv(inner).view(2, 3, 3, 2, 4, 6).unbind(1)  # (N, heads, head width, h, w)
    out = torch.zeros(2, 6, 4, 6)
    for image in range(2):
        for head in range(3):
            for y in range(4):
                for z in range(6):
                    window = [(y // 2 * 2 + i, z // 2 * 2 + j) for i in (0, 1) for j in (0, 1)]
                    scores = torch.stack(
                        [
                            q[image, head, :, y, z] @ k[image, head, :, i, j] / 2**0.5 + block.relative_bias[(y - i + 1) * 3 + z - j + 1]
                            for i, j in window
                        ]
                    ).softmax(0)
                    out[image, 2 * head : 2 * head + 2, y, z] = sum(
                        s * v[image, head, :, i, j] for s, (i, j) in zip(scores, window, strict=True)
                    )
    torch.testing.assert_close(block(x), x + block.projection(out))


def test_relative_positions_of_a_window() -> None:
    assert relative_positions(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


@torch.no_grad()
def test_sites_cuts_and_units() -> None:
    model = small()
    x = torch.randn(3, 3, 16, 16)
    logits, features = model(x, sites=list(model.sites))
    assert {site: maps.shape[1] for site, maps in features.items()} == model.sites
    assert [features[f"block{b}"].shape[-1] for b in (1, 2, 3, 8)] == [16, 8, 4, 2]
    for block in range(1, 10):
        torch.testing.assert_close(model.behind(model.before(x, block), block), logits)
    hidden = model.before(x, 1)
    for unit in model.residual_units:
        hidden = unit(hidden)
        torch.testing.assert_close(hidden, features[f"block{unit.block}"])
    torch.testing.assert_close(model.behind(hidden, 9), logits)


def test_a_dropped_update_leaves_the_stream_and_a_kept_one_is_scaled() -> None:
    torch.manual_seed(0)
    block = WindowAttention(8, heads=1, head_width=2, window=2, drop_path=0.5)
    x = torch.randn(64, 8, 2, 2)
    update = block.train()(x) - x
    dropped = (update == 0).flatten(1).all(1)
    assert 10 < int(dropped.sum()) < 54
    rates = [float(unit.drop_path) for unit in create_model("alternet_0012", **SMALL, stochastic_depth=0.7).blocks]  # type: ignore[union-attr, arg-type]
    assert rates == pytest.approx([0.1 * b for b in range(8)])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"attentions": 2000}, "stage 1 has 3 blocks, so at most 1 attentions, got 2"),
        ({"attentions": 10000}, "attentions has a digit for each of four stages"),
        ({"blocks": 346}, "blocks has a digit from 1 to 9"),
        ({"blocks": 3064}, "blocks has a digit from 1 to 9"),
        ({"window": 7}, r"stage 2 has maps of 16 × 16, which windows of 7 × 7 do not divide"),
        ({"stochastic_depth": 1.0}, "stochastic_depth must lie in"),
        ({"width": 0}, "width must be a positive integer"),
    ],
)
def test_shapes_that_make_no_network_are_refused(wrong: dict[str, Any], match: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=match):
        AlterNetConfig(**({"num_classes": 2, "attentions": 112} | wrong))
