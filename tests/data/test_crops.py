"""Batched augmentation against torchvision, image by image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision.transforms.functional as reference
from hypothesis import given, strategies as st
from scipy.stats import chisquare, ks_2samp
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from snp_lib.data.augment.crops import Normalize, crop, flip, random_boxes, random_crop, random_flip, random_resized_crop, resized_crop
from snp_lib.training.preparation import ImagePreparation
from snp_lib.training.recipe import Recipe


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


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(2, 13), st.integers(2, 13))
def test_resized_crop_equals_torchvision(seed: int, channels: int, height: int, width: int) -> None:
    n, draws = 6, generator(seed)
    images = pictures(n, channels, 13, seed)[..., :height, :width]
    h, w = torch.randint(1, height + 1, (n,), generator=draws), torch.randint(1, width + 1, (n,), generator=draws)
    top, left = ((torch.rand(n, generator=draws) * (room + 1)).long() for room in (height - h, width - w))
    boxes = torch.stack([top, left, h, w], 1).tolist()
    expected = torch.stack([reference.resized_crop(x, *box, [height, width]) for x, box in zip(images, boxes, strict=True)])
    difference = (resized_crop(images, top, left, h, w).int() - expected.int()).abs()
    assert difference.max() <= 1  # a level halfway between two, frequent in boxes of few pixels, may round either way
    whole = (torch.zeros_like(h), torch.zeros_like(h), torch.full_like(h, height), torch.full_like(h, width))
    assert torch.equal(resized_crop(images, *whole), images)


def test_resized_crop_at_the_size_of_cifar_equals_torchvision_but_for_halves() -> None:
    images = pictures(100, 3, 32)
    _, *boxes = random_boxes(100, 32, 32, (0.8, 1.0), (3 / 4, 4 / 3), (32, 32), generator())
    rows = zip(images, torch.stack(boxes, 1).tolist(), strict=True)
    expected = torch.stack([reference.resized_crop(x, *box, [32, 32]) for x, box in rows])
    difference = (resized_crop(images, *boxes).int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).double().mean() < 0.005


def test_resized_boxes_have_torchvisions_distribution() -> None:
    n, scale, ratio = 4000, (0.3, 1.0), (3 / 4, 4 / 3)
    found, *ours = random_boxes(n, 20, 28, scale, ratio, (20, 28), generator())
    assert found.double().mean() > 0.99
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        one = torch.zeros(1, 20, 28)
        theirs = torch.tensor([RandomResizedCrop.get_params(one, list(scale), list(ratio)) for _ in range(n)])
    for mine, other in zip(ours, theirs.unbind(1), strict=True):
        assert (mine >= 0).all()
        assert ks_2samp(mine[found].numpy(), other.numpy()).pvalue > 0.001
    assert (ours[0] + ours[2] <= 20).all()
    assert (ours[1] + ours[3] <= 28).all()


@pytest.mark.parametrize("size", [(5, 20), (20, 5), (9, 9)])
def test_where_no_box_fits_the_largest_in_the_middle_is_taken(size: tuple[int, int]) -> None:
    images = pictures(3, 3, 20)[..., : size[0], : size[1]]
    fixed = RandomResizedCrop.get_params(images[0], [1.0, 1.0], [0.9, 0.9])  # a whole image of this shape never fits
    expected = torch.stack([reference.resized_crop(x, *fixed, list(size)) for x in images])
    difference = random_resized_crop(images, (1.0, 1.0), (0.9, 0.9), generator()).int() - expected.int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize(("scale", "ratio"), [((0.0, 1.0), (1.0, 1.0)), ((0.5, 1.2), (1.0, 1.0)), ((0.5, 1.0), (2.0, 1.0))])
def test_resized_crop_refuses_empty_ranges(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="range"):
        random_resized_crop(pictures(), scale, ratio, generator())


@pytest.mark.parametrize(
    "transform",
    [lambda x, g: random_crop(x, 3, g), random_flip, lambda x, g: random_resized_crop(x, (0.5, 1.0), (0.75, 4 / 3), g)],
)
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
        return ImagePreparation(recipe, images, 10).augmented(images, generator())

    assert torch.equal(augmented(crop_padding=0, flip=False), normalize(images))
    assert torch.equal(augmented(crop_padding=0, flip=True), normalize(random_flip(images, generator())))
    assert torch.equal(augmented(crop_padding=2, flip=False), normalize(random_crop(images, 2, generator())))


def test_shifts_filled_with_grey_are_zero_once_scaled_and_else_the_same() -> None:
    """The released code of paper C: scale to [−1, 1], shift with zeros, then flip."""
    images = pictures(8, 3, 32)
    recipe = Recipe(epochs=1, batch_size=8, lr=0.1, weight_decay=0.0, normalization="unit", crop_fill="grey")
    found = ImagePreparation(recipe, images, 10).augmented(images, generator(3))
    draws = generator(3)
    shifts, flips = torch.randint(0, 9, (2, 8), generator=draws), torch.rand(8, generator=draws) < 0.5
    for n, (image, out) in enumerate(zip(images, found, strict=True)):
        grey = reference.pad(image.float() / 127.5 - 1, [4])
        moved = grey[:, shifts[0, n] : shifts[0, n] + 32, shifts[1, n] : shifts[1, n] + 32]
        torch.testing.assert_close(out, moved.flip(-1) if flips[n] else moved)
    black = ImagePreparation(replace(recipe, crop_fill=None), images, 10).augmented(images, generator(3))
    assert torch.equal(black[found != 0], found[found != 0])
    assert (black[found == 0] == -1).all()
    assert found.is_contiguous(memory_format=torch.channels_last)
