"""The VGG networks of paper C: their counts, and every layer against torch's own in the order of the paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from shared import unchecked
from torch import Tensor, nn

from snp_lib import experiments
from snp_lib.latency import count_macs
from snp_lib.models import create_model
from snp_lib.models.sites import split_site
from snp_lib.models.vgg import VGG, VGGConfig

SMALL: dict[str, Any] = {"num_classes": 7, "narrowing": 16, "hidden": 64}


def network(name: str = "vgg11", **options: Any) -> VGG:
    """In eval mode, with running statistics and biases that are not 0 and 1."""
    torch.manual_seed(0)
    model = create_model(name, **SMALL | options)
    assert isinstance(model, VGG)
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.add_(torch.rand_like(tensor), alpha=0.1)
    return model.eval()


def plain(model: VGG) -> tuple[nn.Sequential, list[int]]:
    """The network in the order that the paper names, and where its layers end: convolution, normalisation, ReLU, pool."""
    layers: list[nn.Module] = []
    ends = []
    for b, block in enumerate(model.blocks):
        convolution = block.get_submodule("conv")
        if b < len(model.config.pooled):
            layers += [convolution, block.get_submodule("norm"), nn.ReLU(), *([nn.MaxPool2d(2)] if model.config.pooled[b] else [])]
        else:
            linear = nn.Linear(convolution.weight[0].numel(), convolution.weight.shape[0])
            linear.weight, linear.bias = nn.Parameter(convolution.weight.flatten(1)), convolution.bias
            layers += [nn.Flatten(), linear]
        ends.append(len(layers))
    return nn.Sequential(*layers, nn.Flatten(), model.classifier), ends


@pytest.mark.parametrize(
    ("name", "parameters", "macs", "depth"), [("vgg11", 7_845_440, 285_089_792, 10), ("vgg16", 34_015_296, 332_480_512, 15)]
)
def test_counts_are_those_of_the_paper(name: str, parameters: int, macs: int, depth: int) -> None:
    model = create_model(name, num_classes=100)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert count_macs(model) == macs
    assert [split_site(site) for site in model.sites] == [(b, "block") for b in range(1, depth + 1)]


def test_a_quarter_of_the_filters() -> None:
    model = create_model("vgg11", num_classes=100, narrowing=4)
    assert list(model.sites.values()) == [16, 16, 32, 32, 64, 64, 64, 128, 128, 128]
    assert model.get_parameter("classifier.weight").shape == (100, 512)
    held = {name: model.get_parameter(name).numel() for name in list(create_model("vgg11", num_classes=100).layers)[-4:]}
    assert list(held) == ["blocks.7.conv.weight", "blocks.8.conv.weight", "blocks.9.conv.weight", "classifier.weight"]


def test_the_pruned_layers_hold_most_parameters_and_a_third_of_the_work() -> None:
    model = create_model("vgg11", num_classes=100)
    names = list(model.layers)[-4:]
    work = sum(model.layers[name].places * model.get_parameter(name).numel() for name in names)
    assert round(sum(model.get_parameter(name).numel() for name in names) / 7_845_440, 2) == 0.78
    assert round(work / 285_089_792, 2) == 0.33


@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
def test_every_site_is_what_the_paper_computes(name: str) -> None:
    model, x = network(name), torch.randn(3, 3, 32, 32)
    twin, ends = plain(model)
    with torch.no_grad():
        logits, found = model(x, sites=list(model.sites))
        torch.testing.assert_close(logits, twin(x), rtol=1e-3, atol=1e-3)  # nothing normalises the linear layers: values are large
        for site, end in zip(model.sites, ends, strict=True):
            expected: Tensor = twin[:end](x)
            torch.testing.assert_close(found[site], expected if expected.ndim == 4 else expected[..., None, None], rtol=1e-3, atol=1e-3)
            assert found[site].shape[1] == model.sites[site]


@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
def test_it_can_be_cut_in_front_of_every_layer(name: str) -> None:
    model, x = network(name), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for block in range(1, len(model.sites) + 2):
            assert torch.equal(model.behind(model.before(x, block), block), model(x))
    assert list(model.parameters_before(1)) == []
    assert set(model.parameters_before(len(model.sites) + 1)) == {name for name, _ in model.named_parameters()} - {"classifier.weight"}
    assert {name.rpartition(".")[2] for name in model.state_before(2)} >= {"running_mean", "running_var", "weight", "bias"}
    assert all(name.startswith("blocks.0.") for name in model.state_before(2))


def test_layers_join_the_units_of_their_sites() -> None:
    for model in (network("vgg11"), network("vgg16")):
        for name, layer in model.layers.items():
            outputs = model.sites[layer.outputs] if layer.outputs else 7
            assert model.get_parameter(name).numel() == outputs * model.sites[layer.inputs] * layer.parts, name
        assert set(model.matrices) == set(model.layers) - {"classifier.weight"}


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"layers": 13}, "layers must be one of 11, 16, got 13"),
        ({"narrowing": 0}, "narrowing must be a positive integer"),
        ({"narrowing": 65}, "narrowing 65 leaves no unit of 64"),
        ({"image_size": 8}, "the pools leave no pixel of a 8-pixel image"),
    ],
)
def test_shapes_that_make_no_network_are_refused(wrong: dict[str, Any], match: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=match):
        VGGConfig(**{"num_classes": 7, "layers": 11} | wrong)
    with pytest.raises(ValueError, match="expected images of 32 pixels"):
        network()(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("name", ["vgg11", "vgg16", "efficientnet-b0"])
def test_networks_of_paper_c_fit_their_experiments(name: str) -> None:
    for scale in experiments.CATALOGUE[name].cost:
        experiment = experiments.get(name, scale, 1)
        model = create_model(experiment.model, num_classes=10, **experiment.model_options)
        size, channels = experiment.dataset_size or 32, experiment.model_options.get("in_channels", 3)
        assert model.eval()(torch.zeros(2, channels, size, size)).shape == (2, 10)
        assert experiment.lean
        assert experiment.readout.pooling == "mean"
