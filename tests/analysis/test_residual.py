"""What units add, seen from outside: hooks on whole passes; positions shuffled; variance and accuracy without a unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import SHAPES, lively
from torch import Tensor

from snp_lib.analysis.lesion import correct_when_lesioned, lesioned_logits
from snp_lib.analysis.residual import additions, as_maps, at_other_positions, of_additions
from snp_lib.analysis.variance import spatial_variance
from snp_lib.data import Dataset
from snp_lib.data.augment.crops import Normalize
from snp_lib.models.sites import Network


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(dataset: Dataset) -> Tensor:
    return Normalize(dataset.train.inputs)(dataset.test.inputs)


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_the_output_of_a_block_is_its_site_and_the_skip_what_it_adds_to(name: str, few_digits: Dataset) -> None:
    model, images = lively(name), images_of(few_digits)[:5]
    features = model(images, sites=list(model.sites))[1]
    found = list(additions(model, images, generator()))
    assert [each.unit.name for each in found] == [unit.name for unit in model.residual_units]
    for each in found:
        assert each.skip.shape == each.output.shape == each.shuffled.shape
        block = each.unit.block
        if each.unit.kind != "attention":
            torch.testing.assert_close(each.output, as_maps(features[f"block{block}"], model))
        if each.unit.kind == "feed-forward":
            torch.testing.assert_close(each.output - each.skip, as_maps(features[f"block{block}.ff"], model))
    if name != "resnet8":
        torch.testing.assert_close(found[2].skip, as_maps(features["block1"], model))


def test_tokens_stand_row_by_row_without_the_class_token() -> None:
    model = lively("vit_2_p2")
    tokens = torch.arange(17.0)[None, :, None].expand(1, 17, 12)  # the class token is 0
    maps = as_maps(tokens, model)
    assert maps.shape == (1, 12, 4, 4)
    assert maps[0, 5].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]


def test_shuffled_positions_keep_every_vector_and_move_nearly_all() -> None:
    maps = torch.randn(3, 4, 5, 5, generator=generator())
    moved = at_other_positions(maps, generator(1))
    for before, after in zip(maps, moved, strict=True):
        vectors = [sorted(map(tuple, each.flatten(1).T.tolist())) for each in (before, after)]
        assert vectors[0] == vectors[1]
    assert (maps != moved).float().mean() > 0.8
    order = [moved[i].flatten(1)[0].argsort().tolist() for i in range(2)]
    assert order[0] != order[1]  # every image has its own


def test_the_measure_of_each_image_comes_whatever_the_batch(few_digits: Dataset) -> None:
    model, prepare = lively("cct_2_3x1").train(), Normalize(few_digits.train.inputs)
    small, large = (of_additions(model, few_digits.test, prepare, spatial_variance, batch_size=size) for size in (30, 100))
    assert model.training
    for one, other in zip(small, large, strict=True):
        assert (one.unit, one.side, one.skip.shape) == (other.unit, 4, (100, 1))
        torch.testing.assert_close(one.skip, other.skip)
        torch.testing.assert_close(one.output, other.output)


def test_variance_of_a_map() -> None:
    maps = torch.randn(3, 4, 5, 6, generator=generator())
    expected = [np.mean([np.var(channel, ddof=1) for channel in image]) for image in maps.numpy()]
    np.testing.assert_allclose(spatial_variance(maps)[:, 0], expected, rtol=1e-5)
    assert spatial_variance(torch.full((2, 3, 4, 4), 7.0)).tolist() == [[0], [0]]


def zeroed(model: Network, unit: str) -> None:
    """Make a unit of the compact transformer add nothing."""
    encoder = model.get_submodule(f"encoders.{int(unit[5]) - 1}")
    for parameter in (encoder.projection if "attention" in unit else encoder.ff2).parameters():
        parameter.detach().zero_()


@pytest.mark.parametrize("order", ["released", "prenorm"])
@torch.no_grad()
def test_logits_without_a_unit_are_those_of_a_network_that_adds_nothing_there(order: str, few_digits: Dataset) -> None:
    images = images_of(few_digits)
    model = lively("cct_2_3x1", block_order=order)
    intact, *lesioned = lesioned_logits(model, images)
    torch.testing.assert_close(intact, model(images))
    for unit, logits in zip(model.residual_units, lesioned, strict=True):
        assert (logits - intact).abs().max() > 1e-2
        other = lively("cct_2_3x1", block_order=order)
        zeroed(other, unit.name)
        torch.testing.assert_close(logits, other(images))


@pytest.mark.parametrize("name", SHAPES)
def test_correct_images_whatever_the_batch_and_the_mode(name: str, few_digits: Dataset) -> None:
    model, prepare = lively(name).train(), Normalize(few_digits.train.inputs)
    found = correct_when_lesioned(model, few_digits.test, prepare, batch_size=33)
    assert model.training
    logits = lesioned_logits(model.eval(), images_of(few_digits))
    assert np.array_equal(found, (logits.argmax(2) == few_digits.test.labels).numpy())
    assert found.shape == (1 + len(model.residual_units), 100)


def test_a_unit_that_adds_nothing_is_not_missed(few_digits: Dataset) -> None:
    model, prepare = lively("cct_2_3x1"), Normalize(few_digits.train.inputs)
    zeroed(model, "block2.attention")
    intact, *lesioned = correct_when_lesioned(model, few_digits.test, prepare)
    number = [unit.name for unit in model.residual_units].index("block2.attention")
    assert np.array_equal(lesioned[number], intact)
    assert not all(np.array_equal(each, intact) for each in lesioned)


def test_a_network_without_units_is_refused(few_digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prepare = lively("cct_2_3x1"), Normalize(few_digits.train.inputs)
    monkeypatch.setattr(type(model), "residual_units", [])
    with pytest.raises(ValueError, match="CCT says of no residual unit what it adds"):
        of_additions(model, few_digits.test, prepare, spatial_variance)
    with pytest.raises(ValueError, match="CCT says of no residual unit what it adds"):
        lesioned_logits(model, images_of(few_digits))
