"""Performance matrices against the literal loop: silence all other units, run the readout, average per label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from shared import unchecked
from torch import Tensor

from snp_lib.data import Dataset, Split
from snp_lib.data.augment.crops import Normalize
from snp_lib.models import create_model
from snp_lib.models.cct import CCT
from snp_lib.models.sites import split_site
from snp_lib.performance import group_units, unit_matrices
from snp_lib.performance.class_means import measure
from snp_lib.performance.readout import (
    FlatReadout,
    MeanReadout,
    Pooling,
    Readout,
    ReadoutRecipe,
    TokenReadout,
    make_readout,
    train_readouts,
)
from snp_lib.training.recipe import Recipe

SITES = ["block1.mha", "block1.ff_hidden", "block2.ff", "block2"]
RECIPE = Recipe(epochs=1, batch_size=32, lr=1e-3, weight_decay=0.0, crop_padding=1)


@pytest.fixture(scope="module")
def network() -> CCT:
    torch.manual_seed(0)
    model = create_model("cct_2_3x1", num_classes=10, in_channels=1, image_size=8, embed_dim=12, num_heads=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)  # images differ more than at initialisation
    return model.eval()


def trained(model: CCT, dataset: Dataset, sites: list[str], seed: int = 0, pooling: Pooling | None = None) -> dict[str, Readout]:
    recipe = ReadoutRecipe(epochs=2, batch_size=32, pooling=pooling)
    return train_readouts(model, dataset, sites, recipe, RECIPE, seed=seed, progress=False)


@pytest.fixture(scope="module")
def readouts(network: CCT, few_digits: Dataset) -> dict[str, Readout]:
    return trained(network, few_digits, SITES)


@torch.no_grad()
def literal_matrices(readout: Readout, features: Tensor, labels: Tensor, units: int) -> Tensor:
    """One unit at a time: the readout's linear layer on pooled features of which all other units are zero."""
    pooled = readout.pool(features)
    parts = pooled.shape[1] // units
    matrices = []
    for unit in range(units):
        alone = torch.zeros_like(pooled)
        alone[:, unit * parts : (unit + 1) * parts] = pooled[:, unit * parts : (unit + 1) * parts]
        fields = readout.linear(alone)
        matrices.append(torch.stack([fields[labels == label].mean(0) for label in labels.unique()]))
    return torch.stack(matrices)


@torch.no_grad()
def features_of(model: CCT, dataset: Dataset, site: str) -> Tensor:
    return model(Normalize(dataset.train.inputs)(dataset.test.inputs), sites=[site])[1][site]


def fast_matrices(readout: Readout, class_means: Tensor, units: int) -> Tensor:
    return unit_matrices(group_units(class_means, units), group_units(readout.linear.weight.detach(), units))


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    difference = (found - expected).abs().max() / expected.abs().max()
    assert difference < 1e-5, f"relative difference {difference:.1e}"


@pytest.mark.parametrize(("site", "units"), [*((site, None) for site in SITES), ("block1.mha", 3)])
def test_matrices_of_nodes_and_heads_equal_the_literal_loop(
    site: str, units: int | None, network: CCT, readouts: dict[str, Readout], few_digits: Dataset
) -> None:
    measured = measure(network, readouts, few_digits.test, Normalize(few_digits.train.inputs), num_classes=10, batch_size=33)
    units = units or network.sites[site]
    expected = literal_matrices(readouts[site], features_of(network, few_digits, site), few_digits.test.labels, units)
    assert expected.shape == (units, 10, 10)
    assert_equal(fast_matrices(readouts[site], measured.class_means[site], units), expected)


def test_matrices_of_filters_equal_the_literal_loop() -> None:
    torch.manual_seed(0)
    maps, labels = torch.randn(60, 5, 3, 4), torch.arange(60) % 7  # five filters of 3 × 4 places, seven labels
    readout = make_readout(maps, num_classes=7)
    assert isinstance(readout, FlatReadout)
    means = torch.stack([readout.pool(maps)[labels == label].mean(0) for label in range(7)])
    assert_equal(fast_matrices(readout, means, units=5), literal_matrices(readout, maps, labels, units=5))


def test_a_head_is_the_sum_of_its_nodes_and_all_units_add_up_to_the_logits(
    network: CCT, readouts: dict[str, Readout], few_digits: Dataset
) -> None:
    readout, site = readouts["block1.mha"], "block1.mha"
    measured = measure(network, readouts, few_digits.test, Normalize(few_digits.train.inputs), num_classes=10)
    nodes, heads = (fast_matrices(readout, measured.class_means[site], units) for units in (12, 3))
    assert_equal(heads, nodes.view(3, 4, 10, 10).sum(1))
    with torch.no_grad():
        logits = readout(features_of(network, few_digits, site))
    expected = torch.stack([logits[few_digits.test.labels == label].mean(0) for label in range(10)])
    assert_equal(nodes.sum(0), expected)


@torch.no_grad()
def silenced_in_the_features(readout: Readout, features: Tensor, labels: Tensor, units: int) -> Tensor:
    """One unit at a time: the whole readout on features (N, T, d) of which the channels of all other units are zero."""
    matrices = []
    for channels in torch.arange(features.shape[2]).chunk(units):
        alone = torch.zeros_like(features)
        alone[:, :, channels] = features[:, :, channels]
        fields = readout(alone)
        matrices.append(torch.stack([fields[labels == label].mean(0) for label in labels.unique()]))
    return torch.stack(matrices)


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize(("site", "units"), [("block1.ff_hidden", None), ("block2", None), ("block1.mha", 3)])
def test_under_other_poolings_a_unit_is_still_its_channels(
    site: str, units: int | None, pooling: Pooling, network: CCT, few_digits: Dataset
) -> None:
    """Both are linear in the features, so that silencing before and after the pooling are one."""
    readout, units = trained(network, few_digits, [site], pooling=pooling)[site], units or network.sites[site]
    measured = measure(network, {site: readout}, few_digits.test, Normalize(few_digits.train.inputs), num_classes=10, batch_size=33)
    features, labels = features_of(network, few_digits, site), few_digits.test.labels
    found = fast_matrices(readout, measured.class_means[site], units)
    assert_equal(found, silenced_in_the_features(readout, features, labels, units))
    assert_equal(found, literal_matrices(readout, features, labels, units))
    with torch.no_grad():
        logits = readout(features)
    assert_equal(found.sum(0), torch.stack([logits[labels == label].mean(0) for label in range(10)]))


@pytest.mark.parametrize("pooling", [None, *get_args(Pooling)])
def test_the_fields_of_all_units_add_up_to_the_logits_of_every_image(pooling: Pooling | None) -> None:
    torch.manual_seed(0)
    tokens, maps = torch.randn(4, 9, 6), torch.randn(4, 6, 3, 3)
    for features in (tokens, maps):
        readout = make_readout(features, 5, pooling)
        pooled, weight = (group_units(x, 6) for x in (readout.pool(features), readout.linear.weight))
        fields = torch.einsum("nup,kup->nuk", pooled, weight)
        torch.testing.assert_close(fields.sum(1), readout(features))


def test_tokens_and_maps_are_pooled_alike() -> None:
    torch.manual_seed(0)
    maps = torch.randn(4, 6, 3, 5)
    tokens = maps.flatten(2).transpose(1, 2)
    for pooling in get_args(Pooling):
        readout = make_readout(maps, 5, pooling)
        torch.testing.assert_close(readout(tokens), readout(maps))


def test_the_mean_is_sequence_pooling_with_equal_scores() -> None:
    torch.manual_seed(0)
    tokens, mean, sequence = torch.randn(4, 9, 6), MeanReadout(6, 3), TokenReadout(6, 3)
    sequence.linear.weight.data = mean.linear.weight.data
    assert not torch.allclose(mean(tokens), sequence(tokens), atol=1e-6)
    torch.nn.init.zeros_(sequence.score.weight)
    torch.testing.assert_close(mean(tokens), sequence(tokens))


def test_flattened_readouts_train_in_bfloat16_as_in_float32(network: CCT, few_digits: Dataset) -> None:
    recipe, normalize = ReadoutRecipe(epochs=20, batch_size=32, pooling="flat"), Normalize(few_digits.train.inputs)
    found = {}
    for precision in ("float32", "bfloat16"):
        augmentation = replace(RECIPE, precision=precision)
        readouts = train_readouts(network, few_digits, ["block2"], recipe, augmentation, seed=0, progress=False)
        assert readouts["block2"].linear.weight.dtype == torch.float32
        found[precision] = measure(network, readouts, few_digits.test, normalize, num_classes=10).readout_accuracy["block2"]
    assert found["float32"] > 0.5  # chance is 0.1
    assert abs(found["float32"] - found["bfloat16"]) <= 0.05


def test_one_pass_measures_what_all_images_at_once_give(network: CCT, readouts: dict[str, Readout], few_digits: Dataset) -> None:
    normalize = Normalize(few_digits.train.inputs)
    measured = measure(network, readouts, few_digits.test, normalize, num_classes=10, batch_size=7)
    labels = few_digits.test.labels
    with torch.no_grad():
        logits, features = network(normalize(few_digits.test.inputs), sites=SITES)
        torch.testing.assert_close(measured.logits, logits, atol=1e-6, rtol=1e-5)
        for site, readout in readouts.items():
            pooled = readout.pool(features[site]).double()
            means = torch.stack([pooled[labels == label].mean(0) for label in range(10)]).float()
            torch.testing.assert_close(measured.class_means[site], means, atol=1e-6, rtol=1e-5)
            hits = (readout(features[site]).argmax(1) == labels).sum().item()
            assert measured.readout_accuracy[site] == hits / len(labels)


def test_training_readouts_together_equals_training_each_alone(network: CCT, readouts: dict[str, Readout], few_digits: Dataset) -> None:
    for site in SITES:
        alone = trained(network, few_digits, [site])[site]
        for name, tensor in alone.state_dict().items():
            assert torch.equal(tensor, readouts[site].state_dict()[name]), (site, name)


def test_readouts_of_other_sites_and_seeds_start_elsewhere(network: CCT, readouts: dict[str, Readout], few_digits: Dataset) -> None:
    other_seed = trained(network, few_digits, ["block2"], seed=1)["block2"]
    assert not torch.equal(other_seed.linear.weight, readouts["block2"].linear.weight)
    assert not torch.equal(readouts["block2"].linear.weight, readouts["block2.ff"].linear.weight)


def test_training_readouts_learns_and_leaves_the_network_and_the_global_generator_alone(network: CCT, few_digits: Dataset) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    recipe, normalize = ReadoutRecipe(epochs=40, batch_size=32, lr=2e-2), Normalize(few_digits.train.inputs)
    readouts = train_readouts(network, few_digits, ["block2"], recipe, RECIPE, seed=0, progress=False)
    assert measure(network, readouts, few_digits.test, normalize, num_classes=10).readout_accuracy["block2"] > 0.2  # chance is 0.1
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_pooling_is_a_mean_of_tokens_weighted_by_a_softmax() -> None:
    readout, x = TokenReadout(6, 3), torch.randn(2, 5, 6)
    scores = x @ readout.score.weight[0]
    expected = (scores.exp() / scores.exp().sum(1, keepdim=True)).unsqueeze(-1).mul(x).sum(1)
    torch.testing.assert_close(readout.pool(x), expected)
    torch.testing.assert_close(readout(x), expected @ readout.linear.weight.T)


def test_a_label_without_images_has_no_mean(network: CCT, readouts: dict[str, Readout], few_digits: Dataset) -> None:
    seen = few_digits.test.labels != 4
    split = Split(few_digits.test.inputs[seen], few_digits.test.labels[seen])
    with pytest.raises(ValueError, match="label 4 has no input"):
        measure(network, readouts, split, Normalize(few_digits.train.inputs), num_classes=10)


def test_wrong_calls_are_refused_by_name(network: CCT, few_digits: Dataset) -> None:
    with pytest.raises(ValueError, match="at least one site"):
        trained(network, few_digits, [])
    with pytest.raises(ValueError, match="unknown site 'block7'"):
        trained(network, few_digits, ["block7"])
    few = replace(few_digits, train=Split(few_digits.train.inputs[:20], few_digits.train.labels[:20]))
    with pytest.raises(ValueError, match="batch_size 32 exceeds the 20 training inputs"):
        trained(network, few, ["block1"])
    with pytest.raises(ValueError, match=r"tokens .* or maps"):
        make_readout(torch.ones(2, 3), 10)
    with pytest.raises(ValueError, match="do not divide into 5 units"):
        group_units(torch.ones(2, 12), 5)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"weight_decay": -1.0}, {"pooling": "max"}, {"kinds": ()}]
)
def test_readout_recipes_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with unchecked(), pytest.raises(ValueError, match=next(iter(wrong))):
        ReadoutRecipe(**({"epochs": 1, "batch_size": 1} | wrong))


def test_site_names_are_taken_apart() -> None:
    assert split_site("block3.ff_hidden") == (3, "ff_hidden")
    assert split_site("block12") == (12, "block")
    assert split_site("stem") == (0, "block")


def test_a_recipe_may_read_some_kinds_of_sites_alone(network: CCT) -> None:
    few = ReadoutRecipe(epochs=1, batch_size=1, kinds=("block", "mha"))
    assert few.chosen(network.sites) == [site for site in network.sites if site.count(".") == 0 or site.endswith(".mha")]
    assert ReadoutRecipe(epochs=1, batch_size=1).chosen(network.sites) == list(network.sites)
    with pytest.raises(ValueError, match="no site of kind 'stem'; there are mha, ff_hidden, ff, block"):
        replace(few, kinds=("stem",)).chosen(network.sites)


def test_means_and_weights_of_other_units_do_not_multiply() -> None:
    with unchecked(), pytest.raises(ValueError, match="must agree in units and parts"):
        unit_matrices(torch.ones(10, 4, 2), torch.ones(10, 3, 2))
