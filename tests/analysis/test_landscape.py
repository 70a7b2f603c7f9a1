"""The loss around weights: at the weights it is the evaluated loss, steps are what they say, directions have the norms of Li et al."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import SHAPES, lively

from snp_lib.analysis.landscape import direction, losses, plane, radial, weights_of_layers
from snp_lib.data import Dataset
from snp_lib.data.augment.crops import Normalize


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", SHAPES)
def test_every_filter_of_a_direction_has_the_norm_of_its_own(name: str) -> None:
    model = lively(name)
    along, weights = direction(model, generator()), weights_of_layers(model)
    assert list(along) == list(weights)
    for key, weight in weights.items():
        for row, drawn in zip(weight, along[key], strict=True):
            assert float(drawn.norm()) == pytest.approx(float(row.norm()), rel=1e-4)
    released = direction(model, generator(), "released")
    for key, weight in weights.items():
        torch.testing.assert_close(released[key].norm(dim=0), weight.norm(dim=0))
        assert weight.shape[0] < 2 or not torch.allclose(released[key], along[key])


def test_biases_norms_and_embeddings_stay() -> None:
    names = set(weights_of_layers(lively("vit_2_p2")))
    assert "network.encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in names
    assert not [name for name in names if "bias" in name or "ln" in name or "pos" in name or "class_token" in name]
    assert set(weights_of_layers(lively("cct_2_3x1"))) == {
        "tokenizer.0.weight",
        *(f"encoders.{b}.{part}.weight" for b in (0, 1) for part in ("attention.qkv", "projection", "ff1", "ff2")),
        "pool.weight",
        "classifier.weight",
    }


@pytest.mark.parametrize("name", SHAPES)
def test_losses_against_networks_whose_weights_were_moved(name: str, few_digits: Dataset) -> None:
    model = lively(name).train()
    before = copy.deepcopy(model.state_dict())
    images, labels = Normalize(few_digits.train.inputs)(few_digits.test.inputs), few_digits.test.labels
    soft = F.one_hot(labels, 10).float().mul(0.9).add(0.01)
    directions = [direction(model, generator(seed)) for seed in (0, 1)]
    steps = np.array([[0.0, 0.0], [0.5, 0.0], [-0.3, 0.7]])
    nll, norms = losses(model, images, soft, directions, steps, batch_size=33)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    for point, (first, second) in enumerate(steps):
        moved = copy.deepcopy(model).eval()
        with torch.no_grad():
            for key, parameter in moved.named_parameters():
                if key in directions[0]:
                    parameter += first * directions[0][key] + second * directions[1][key]
            expected = F.cross_entropy(moved(images), soft)
        assert nll[point] == pytest.approx(float(expected), rel=1e-5)
        assert norms[point] == pytest.approx(sum(float(p.detach().norm()) for p in moved.parameters()), rel=1e-6)
    assert len(set(nll)) == 3


def test_steps() -> None:
    assert radial(2, (0.5, 1.0)).tolist() == [[0.5, 0], [1, 0], [0, 0.5], [0, 1]]
    grid = plane(3)
    assert grid[:3].tolist() == [[-1, -1], [0, -1], [1, -1]]  # the first runs fastest, as in the released files
    assert grid[4].tolist() == [0, 0]
    assert len(grid) == 9
