"""Batched augmentation against torchvision, image by image."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms.functional as reference
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from snp_lib.data.augment import Normalize, crop, flip, random_crop, random_flip
from snp_lib.training import Recipe
from snp_lib.training.augmentation import Augmentation


def pictures(n: int = 6, channels: int = 3, size: int = 9, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, channels, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(4, 11), st.integers(0, 5))
def test_crop_equals_torchvision(seed: int, channels: int, size: int, padding: int) -> None:
    images = pictures(5, channels, size, seed)
    top, left = torch.randint(0, 2 * padding + 1, (2, 5), generator=generator(seed))
    expected = [reference.crop(reference.pad(x, [padding]), int(t), int(s), size, size) for x, t, s in zip(images, top, left, strict=True)]
    assert torch.equal(crop(images, padding, top, left), torch.stack(expected))


def test_flip_equals_torchvision() -> None:
    images, which = pictures(), torch.tensor([True, False, True, True, False, False])
    expected = [reference.hflip(x) if chosen else x for x, chosen in zip(images, which, strict=True)]
    assert torch.equal(flip(images, which), torch.stack(expected))


@pytest.mark.parametrize("transform", [lambda x, g: random_crop(x, 3, g), random_flip])
def test_the_generator_alone_decides(transform: object) -> None:
    assert callable(transform)
    images, state = pictures(50), torch.get_rng_state()
    first = transform(images, generator(1))
    assert torch.equal(first, transform(images, generator(1)))
    assert not torch.equal(first, transform(images, generator(2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_shift_is_equally_likely_and_axes_are_independent() -> None:
    padding, n = 2, 10_000
    marked = torch.zeros(n, 1, 9, 9, dtype=torch.uint8)
    marked[:, :, 4, 4] = 255  # the mark moves with the picture
    places = random_crop(marked, padding, generator()).flatten(1).argmax(1)
    rows, columns = places // 9, places % 9
    counts = torch.bincount((rows - 2) * 5 + columns - 2, minlength=25)
    assert counts.sum() == n
    assert chisquare(counts.numpy()).pvalue > 0.001


def test_half_of_the_images_are_mirrored() -> None:
    marked = torch.zeros(10_000, 1, 2, 2, dtype=torch.uint8)
    marked[..., 0] = 1
    mirrored = int(random_flip(marked, generator())[:, 0, 0, 1].sum())
    assert chisquare([mirrored, 10_000 - mirrored]).pvalue > 0.001


def test_normalize_gives_zero_mean_and_unit_variance_per_channel() -> None:
    images = pictures(40) // torch.tensor([1, 2, 5], dtype=torch.uint8).view(1, 3, 1, 1)
    out = Normalize(images)(images)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_normalize_equals_the_textbook_formula() -> None:
    images, others = pictures(40), pictures(3, seed=1)
    values = images.double()
    mean, sd = values.mean((0, 2, 3), keepdim=True), values.std((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(Normalize(images)(others), ((others.double() - mean) / sd).float(), atol=1e-5, rtol=1e-5)


def test_a_channel_of_one_value_stays_finite() -> None:
    images = pictures()
    images[:, 1] = 77
    assert (Normalize(images)(images)[:, 1] == 0).all()


def test_the_recipe_says_which_augmentation_is_applied() -> None:
    images = pictures(50)
    normalize = Normalize(images)

    def augmented(**options: int | bool) -> Tensor:
        recipe = Recipe(epochs=1, batch_size=1, lr=0.0, weight_decay=0.0, **options)  # type: ignore[arg-type]
        return Augmentation(recipe, images, 10)(images, generator())

    assert torch.equal(augmented(crop_padding=0, flip=False), normalize(images))
    assert torch.equal(augmented(crop_padding=0, flip=True), normalize(random_flip(images, generator())))
    assert torch.equal(augmented(crop_padding=2, flip=False), normalize(random_crop(images, 2, generator())))
