"""Residual units: one after the other they are the network, in every family; without one it is a network with that branch zeroed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snp_lib.models import create_model
from snp_lib.models.sites import Network, depth_of

SMALL: dict[str, Any] = {"num_classes": 7, "image_size": 16, "in_channels": 1}
NETWORKS: dict[str, dict[str, Any]] = {
    "cct_3_3x1": {"embed_dim": 24, "num_heads": 3},
    "cct_2_3x1": {"embed_dim": 24, "num_heads": 3, "block_order": "prenorm"},
    "vit_3_p4": {"embed_dim": 24, "num_heads": 3, "mlp_ratio": 2.0},
    "resnet12": {"stem_stride": 2},
}


@torch.no_grad()
def network(name: str) -> Network:
    torch.manual_seed(0)
    model = create_model(name, **SMALL, **NETWORKS[name])
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for buffer in (b for b in model.buffers() if b.is_floating_point()):
        buffer.add_(torch.rand_like(buffer))
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_one_after_the_other_they_are_the_network(name: str) -> None:
    model = network(name)
    x, last = model.example(3), depth_of(model.sites) + 1
    logits, features = model(x, sites=[f"block{b}" for b in range(1, last)])
    hidden = model.before(x, 1)
    for unit in model.residual_units:
        hidden = unit(hidden)
        if unit.kind != "attention":  # the last of its block
            torch.testing.assert_close(hidden, features[f"block{unit.block}"])
        if unit.block == 1 and unit.kind != "attention":
            torch.testing.assert_close(model.before(x, 2), hidden)
            torch.testing.assert_close(model.behind(hidden, 2), logits)
    torch.testing.assert_close(model.behind(hidden, last), logits)
    assert len({unit.name for unit in model.residual_units}) == len(model.residual_units)


LAST_LAYERS = {
    "cct_3_3x1": {"block2.attention": "encoders.1.projection", "block3.feed-forward": "encoders.2.ff2"},
    "vit_3_p4": {
        "block1.attention": "network.encoder.layers.encoder_layer_0.self_attention.out_proj",
        "block3.feed-forward": "network.encoder.layers.encoder_layer_2.mlp.3",
    },
    "resnet12": {"block3.convolution": "network.layer2.1.bn2", "block4.convolution": "network.layer3.0.bn2"},
}


@pytest.mark.parametrize(("name", "unit"), [(name, unit) for name, layers in LAST_LAYERS.items() for unit in layers])
@torch.no_grad()
def test_what_is_skipped_is_what_a_zeroed_last_layer_leaves(name: str, unit: str) -> None:
    model = network(name)
    x = model.example(3)
    hidden = model.before(x, 1)
    for each in model.residual_units:
        hidden = each.after(each.skip(hidden)) if each.name == unit else each(hidden)
    without = model.behind(hidden, depth_of(model.sites) + 1)
    assert (without - model(x)).abs().max() > 1e-5
    layer: nn.Module = model.get_submodule(LAST_LAYERS[name][unit])
    for parameter in layer.parameters():
        parameter.zero_()
    torch.testing.assert_close(without, model(x), atol=1e-6, rtol=1e-6)


def test_a_network_without_a_rule_has_none() -> None:
    class Plain(Network):
        def compute(self, x: Tensor, wanted: Any) -> tuple[Tensor, dict[str, Tensor]]:
            return x, {}

    assert Plain().residual_units == []
