"""Networks of torchvision: logits and sites against the plain modules with forward hooks, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from shared import unchecked
from torch import Tensor, nn
from torchvision.models.efficientnet import efficientnet_b0
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vision_transformer import VisionTransformer

from snp_lib import experiments
from snp_lib.latency import count_macs
from snp_lib.models import create_model
from snp_lib.models.efficientnet import EfficientNetConfig
from snp_lib.models.from_torchvision import Extracted, ResNetConfig, ViTConfig

VIT: dict[str, Any] = {"image_size": 16, "embed_dim": 24, "num_heads": 3, "mlp_ratio": 2.0, "num_classes": 7}


def lively(model: nn.Module) -> nn.Module:
    """Weights far from their small initial values, so that every layer shows; running statistics that are not 0 and 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for buffer in (b for b in model.buffers() if b.is_floating_point()):
            buffer.add_(torch.rand_like(buffer))
    return model.eval()


def images(size: int = 16, channels: int = 3, n: int = 4) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def hooked(plain: nn.Module, modules: dict[str, nn.Module], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of a plain pass and what the named modules return in it."""
    found: dict[str, Tensor] = {}

    def keep(site: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, out: Any) -> None:
            found[site] = (out[0] if isinstance(out, tuple) else out).clone()

        return hook

    handles = [module.register_forward_hook(keep(site)) for site, module in modules.items()]
    with torch.no_grad():
        logits = plain(x)
    for handle in handles:
        handle.remove()
    return logits, found


def assert_same(model: Extracted, plain: nn.Module, modules: dict[str, nn.Module], x: Tensor) -> None:
    plain.load_state_dict(model.network.state_dict())  # every name, and no other
    expected, features = hooked(plain.eval(), modules, x)
    with torch.no_grad():
        logits, found = model(x, sites=list(model.sites))
        assert torch.equal(model(x), logits)
    torch.testing.assert_close(logits, expected)
    assert list(found) == list(model.sites) == list(modules)
    for site, values in features.items():
        torch.testing.assert_close(found[site], values)
        assert found[site].shape[-1 if values.ndim == 3 else 1] == model.sites[site]


def test_a_vit_is_that_of_torchvision_and_its_sites_are_what_the_modules_return() -> None:
    model = lively(create_model("vit_3_p4", **VIT))
    plain = VisionTransformer(image_size=16, patch_size=4, num_layers=3, num_heads=3, hidden_dim=24, mlp_dim=48, num_classes=7)
    modules: dict[str, nn.Module] = {}
    for b, layer in enumerate(plain.encoder.layers, start=1):
        modules |= {f"block{b}.attention": layer.self_attention, f"block{b}.ff_hidden": layer.mlp[1]}
        modules |= {f"block{b}.ff": layer.mlp[3], f"block{b}": layer}
    assert_same(model, plain, modules, images())
    assert model.sites["block2.ff_hidden"] == 48
    assert model(images(), sites=["block1"])[1]["block1"].shape == (4, 17, 24)  # the class token and 4 × 4 patches


@pytest.mark.parametrize(("layers", "stages", "blocks"), [(8, [1, 1, 1], 3), (12, [1, 2, 2], 5), (18, [2, 2, 2, 2], 8)])
def test_a_resnet_is_that_of_torchvision_and_its_sites_are_its_blocks(layers: int, stages: list[int], blocks: int) -> None:
    model = lively(create_model(f"resnet{layers}", num_classes=7, image_size=16, stem_stride=2))
    plain = ResNet(BasicBlock, [*stages, 1][:4], num_classes=7)
    plain.conv1, plain.maxpool = nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.Identity()
    if len(stages) == 3:
        plain.layer4, plain.fc = nn.Identity(), nn.Linear(256, 7)
    modules: dict[str, nn.Module] = {"stem": plain.relu}
    inner = [block for stage in (plain.layer1, plain.layer2, plain.layer3, plain.layer4) for block in stage.children()]
    modules |= {f"block{b}": block for b, block in enumerate(inner, start=1)}
    assert len(inner) == blocks
    assert_same(model, plain, modules, images())


def test_an_efficientnet_is_that_of_torchvision_with_two_strides_taken_away() -> None:
    model = lively(create_model("efficientnet_b0", num_classes=7))
    plain = efficientnet_b0(num_classes=7)
    plain.features[0][0] = nn.Conv2d(3, 32, 3, 1, 1, bias=False)
    assert plain.features[2][0].block[1][0].stride == (2, 2)
    plain.features[2][0].block[1][0].stride = (1, 1)
    modules: dict[str, nn.Module] = {"stem": plain.features[0]}
    blocks = [block for stage in plain.features[1:8] for block in stage]
    for b, block in enumerate(blocks, start=1):
        widening = {f"block{b}.expansion": block.block[0]} if len(block.block) == 4 else {}
        modules |= widening | {f"block{b}.depthwise": block.block[len(widening)], f"block{b}": block}
    assert len(blocks) == 16
    assert_same(model, plain, modules, images(32, n=2))


def test_counts_of_efficientnet_b0() -> None:
    model = create_model("efficientnet_b0", num_classes=100).eval()
    assert sum(p.numel() for p in model.parameters()) == 4_135_648  # as torchvision's
    assert count_macs(model) == 116_282_368
    assert model(images(32, n=1), sites=["block16"])[1]["block16"].shape == (1, 320, 4, 4)
    depthwise = {name for name, p in model.named_parameters() if p.ndim == 4 and p.shape[1] == 1}
    assert (len(depthwise), sum(model.get_parameter(name).numel() for name in depthwise)) == (16, 182_016)
    assert depthwise.isdisjoint(model.matrices)
    pointwise = [name for name in model.matrices if ".fc" not in name and name != "network.features.8.0.weight"]
    assert sum(model.get_parameter(name).numel() for name in pointwise) + 320 * 1280 == 3_146_112


def test_a_pass_keeps_what_is_asked_for_and_nothing_else() -> None:
    model = create_model("vit_3_p4", **VIT).eval()
    _, found = model(images(), sites=["block2.ff", "block1.attention"])
    assert list(found) == ["block1.attention", "block2.ff"]
    assert model(images(), sites=[])[1] == {}
    with pytest.raises(ValueError, match=r"unknown site 'block1\.mha'; this model has block1\.attention"):
        model(images(), sites=["block1.mha"])


def test_attention_as_two_products_is_the_fused_one() -> None:
    model = lively(create_model("vit_3_p4", **VIT)).train()
    x = images()
    with torch.autocast("cpu", torch.bfloat16):
        products = model(x)  # a training step in bfloat16 writes the products out
        with torch.no_grad():
            fused = model(x)
    assert products.requires_grad
    torch.testing.assert_close(products, fused, atol=0.05, rtol=0.05)
    products.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["vit_3_p4", "resnet8"])
def test_other_channels_and_the_same_seed(name: str) -> None:
    def made(seed: int) -> Extracted:
        torch.manual_seed(seed)
        return create_model(name, num_classes=7, image_size=16, in_channels=1).eval()  # type: ignore[return-value]

    x = images(channels=1)
    assert torch.equal(made(0)(x), made(0)(x))
    first, other = (model(x, sites=list(model.sites))[1] for model in (made(0), made(1)))
    assert not torch.equal(next(iter(first.values())), next(iter(other.values())))


@pytest.mark.parametrize(
    ("config", "wrong", "match"),
    [
        (ViTConfig, {"depth": 3, "patch_size": 5}, "patch_size must divide image_size"),
        (ViTConfig, {"depth": 0, "patch_size": 4}, "depth must be a positive integer"),
        (ViTConfig, {"depth": 3, "patch_size": 4, "num_heads": 5}, "num_heads must divide embed_dim"),
        (ViTConfig, {"depth": 3, "patch_size": 4, "mlp_ratio": 0.0}, "leaves no hidden unit"),
        (ViTConfig, {"depth": 3, "patch_size": 4, "dropout": 1.0}, "dropout must lie in"),
        (ResNetConfig, {"layers": 50}, "layers must be one of 8, 10, 12, 14, 18, 20, 34, got 50"),
        (ResNetConfig, {"layers": 18, "stem_stride": 0}, "stem_stride must be a positive integer"),
        (EfficientNetConfig, {"variant": 1}, "of the EfficientNets there is B0, not B1"),
        (EfficientNetConfig, {"depth_share": 0.0}, r"depth_share must lie in \(0, 1\]"),
    ],
)
def test_shapes_that_make_no_network_are_refused(config: Any, wrong: dict[str, Any], match: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=match):
        config(num_classes=7, **wrong)
    with pytest.raises(ValueError, match="expected images of 16 pixels"):
        create_model("vit_3_p4", **VIT)(images(size=32))


@pytest.mark.parametrize("name", ["vit", "resnet"])
@pytest.mark.parametrize("scale", experiments.SCALES)
def test_networks_elsewhere_fit_their_experiments(name: str, scale: Any) -> None:
    experiment = experiments.get(name, scale, 1)
    model = create_model(experiment.model, num_classes=10, **experiment.model_options)
    assert isinstance(model, Extracted)
    size = experiment.dataset_size or {"cifar100": 32}[experiment.dataset]
    channels = experiment.model_options.get("in_channels", 3)
    assert model.eval()(images(size, channels, n=2)).shape == (2, 10)
    assert not any(site.endswith(".mha") for site in model.sites)  # heads stay inside torchvision's attention
    assert experiment.readout.pooling == (None if name == "vit" else "mean")
