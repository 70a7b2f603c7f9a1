"""Anybody's network through hooks: which modules are read, as what, and that nothing of it is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vit_pytorch import SimpleViT

from snp_lib.machine import import_torchvision
from snp_lib.models.hooked import Hooked, readable
from tests.shared import installed

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def torchvision_vit() -> nn.Module:
    vit: nn.Module = import_torchvision().models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=7
    )
    return vit


def simple_vit() -> nn.Module:
    vit: nn.Module = SimpleViT(image_size=64, patch_size=16, num_classes=7, dim=32, depth=2, heads=2, mlp_dim=64)
    return vit


class Nested(nn.Module):
    """A network as the largest hub has them: blocks return tuples, the network a mapping."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.act, self.out = nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return x + self.out(self.act(self.dense(x))), None

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 16, 16)
        self.layers = nn.ModuleList(self.Layer() for _ in range(2))
        self.head = nn.Linear(8, 7)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        x = self.patches(pixels).flatten(2).mT
        for layer in self.layers:
            x, _ = layer(x)
        return {"loss": x.mean(), "logits": self.head(x.mean(1))}


@pytest.mark.parametrize(
    ("build", "kinds"),
    [
        (
            torchvision_vit,
            {
                f"encoder.layers.encoder_layer_{b}{part}": kind
                for b in (0, 1)
                for part, kind in ((".self_attention", "attention"), (".mlp.1", "hidden"), ("", "block"))
            },
        ),
        (
            simple_vit,
            {
                f"transformer.layers.{b}.{part}": kind
                for b in (0, 1)
                for part, kind in (("0", "attention"), ("1.net.2", "hidden"), ("1", "block"))
            },
        ),
        (Nested, {"layers.0.act": "hidden", "layers.0": "block", "layers.1.act": "hidden", "layers.1": "block"}),
        (lambda: import_torchvision().models.resnet18(num_classes=7), {f"layer{s}.{b}": "block" for s in (1, 2, 3, 4) for b in (0, 1)}),
        (
            lambda: import_torchvision().models.vgg11(num_classes=7).features.append(nn.Flatten()).append(nn.LazyLinear(7)),
            {str(index): "hidden" for index in (1, 4, 7, 9, 12, 14, 17, 19)},
        ),
    ],
    ids=["ViT", "SimpleViT", "tuples", "ResNet", "VGG"],
)
def test_modules_are_chosen_in_the_order_of_the_forward_pass(build: Callable[[], nn.Module], kinds: dict[str, str]) -> None:
    network = Hooked(build(), None, IMAGES)
    assert list(network.kinds.items()) == list(kinds.items())
    logits, features = network(IMAGES, sites=list(kinds))
    assert logits.shape == (2, 7)
    assert {site: maps.shape[-1 if maps.ndim == 3 else 1] for site, maps in features.items()} == network.sites


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "resnet26"])
def test_networks_of_timm(name: str) -> None:
    network = Hooked(installed("timm").create_model(name, num_classes=7), None, torch.rand(1, 3, 224, 224))
    blocks = {"vit_tiny_patch16_224": 12, "swin_tiny_patch4_window7_224": 12, "convnext_atto": 12, "resnet26": 8}
    assert len([site for site, kind in network.kinds.items() if kind == "block"]) == blocks[name]


def test_a_vit_of_transformers() -> None:
    transformers = installed("transformers")
    shape = {"image_size": 64, "patch_size": 16, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 7}
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**shape))
    network = Hooked(vit, None, IMAGES)
    assert list(network.kinds.values()) == ["attention", "hidden", "block"] * 2
    assert network(IMAGES).shape == (2, 7)


def test_maps_whose_channels_come_last_are_turned() -> None:
    swin = import_torchvision().models.SwinTransformer(
        patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=7
    )
    network = Hooked(swin, None, IMAGES).eval()
    assert network.sites == {"features.1.0": 24, "features.1.1": 24, "features.3.0": 48, "features.3.1": 48}
    _, features = network(IMAGES, sites=["features.3.1"])
    assert features["features.3.1"].shape == (2, 48, 8, 8)
    torch.testing.assert_close(features["features.3.1"].movedim(1, 3), swin.features(IMAGES))


def test_what_is_read_is_what_torchvision_extracts() -> None:
    resnet = import_torchvision().models.resnet18(num_classes=7).eval()
    extract = import_torchvision().models.feature_extraction.create_feature_extractor(resnet, ["layer1.1", "layer4.0"])
    network = Hooked(resnet, ["layer4.0", "layer1.1"], IMAGES).eval()
    logits, features = network(IMAGES, sites=["layer1.1", "layer4.0"])
    for site, expected in extract(IMAGES).items():
        assert torch.equal(features[site], expected)
    assert torch.equal(logits, resnet(IMAGES))


def test_a_network_is_left_as_it_was() -> None:
    vit = torchvision_vit().train()
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    Hooked(vit, None, IMAGES)(IMAGES, sites=["encoder.layers.encoder_layer_0"])
    assert vit.training
    assert not any(module._forward_hooks for module in vit.modules())
    assert all(torch.equal(before[name], value) for name, value in vit.state_dict().items())


def test_numbers_without_tokens_are_one_token() -> None:
    network = Hooked(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 9), nn.ReLU(), nn.Linear(9, 7)), ["2"], IMAGES)
    _, features = network(IMAGES, sites=["2"])
    assert features["2"].shape == (2, 1, 9)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.idle, self.shape, self.head = nn.ReLU(), nn.ReLU(), nn.Flatten(0), nn.Linear(64, 7)

    def forward(self, x: Tensor) -> Tensor:
        self.shape(x)
        logits: Tensor = self.head(self.act(self.act(x)).mean((1, 2)))
        return logits


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (["nowhere"], r"no module 'nowhere'; print\(model\)"),
        (["act"], "'act' runs 2 times"),
        (["idle"], "'idle' does not run"),
        (["shape"], r"'shape' returns shape \(24576,\); readable are"),
        (None, "no module returns tokens"),
    ],
)
def test_what_cannot_be_read_is_named(sites: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hooked(Twice(), sites, IMAGES)


@pytest.mark.parametrize("output", [torch.zeros(2), "text", {"answer": 1}])
def test_a_network_without_logits_says_what_it_returned(output: Any) -> None:
    class Odd(Nested):
        def forward(self, pixels: Tensor) -> Any:
            super().forward(pixels)
            return output

    with pytest.raises(ValueError, match=r"must return logits \(N, K\)"):
        Hooked(Odd(), None, IMAGES)(IMAGES)


def test_readable_names_what_auto_reads() -> None:
    assert list(readable(torchvision_vit(), IMAGES)) == list(Hooked(torchvision_vit(), None, IMAGES).sites)
