"""Batched operations against torchvision's, image by image, and what a policy's layer leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision.transforms.functional as reference
from hypothesis import given, strategies as st
from torch import Tensor
from torchvision.transforms import InterpolationMode

from snp_lib.data.augment.operations import INDEX, OPERATIONS, Interpolation, apply

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
RANGES = {
    "rotate": (-180.0, 180.0),
    **dict.fromkeys(("shear_x", "shear_y"), (-0.9, 0.9)),
    **dict.fromkeys(("translate_x", "translate_y"), (-12.0, 12.0)),
    "posterize": (1, 8),
    "solarize": (0.0, 255.0),
    "solarize_add": (0, 200),
    **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), (0.0, 2.5)),
}
FILL = (11.0, 128.0, 250.0)


def pictures(n: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth pictures with saturated and flat regions, one of a single level: what the edge cases need."""
    coarse = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(seed)) * 400 - 70
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").clamp(0, 255).to(torch.uint8)
    smooth[0] = 77
    return smooth


def one_by_one(image: Tensor, name: str, strength: float, fill: tuple[float, ...], interpolation: Interpolation) -> Tensor:
    """The naive twin: one image, one call of torchvision."""
    warp = {"interpolation": InterpolationMode(interpolation), "fill": list(fill)}
    affine = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **warp}
    slant = math.degrees(math.atan(strength))
    enhance = {
        "brightness": reference.adjust_brightness,
        "contrast": reference.adjust_contrast,
        "color": reference.adjust_saturation,
        "sharpness": reference.adjust_sharpness,
    }
    match name:
        case "identity":
            return image
        case "rotate":
            return reference.rotate(image, strength, **warp)
        case "shear_x":
            return reference.affine(image, **{**affine, "shear": [slant, 0.0], "center": [0, 0]})
        case "shear_y":
            return reference.affine(image, **{**affine, "shear": [0.0, slant], "center": [0, 0]})
        case "translate_x":
            return reference.affine(image, **{**affine, "translate": [strength, 0]})
        case "translate_y":
            return reference.affine(image, **{**affine, "translate": [0, strength]})
        case "autocontrast" | "equalize" | "invert":
            return getattr(reference, name)(image)
        case "posterize":
            return reference.posterize(image, int(strength)) if strength else torch.zeros_like(image)  # torchvision refuses 0 bits
        case "solarize":
            return reference.solarize(image, strength) if strength <= 255 else image  # torchvision refuses 256
        case "solarize_add":
            return torch.where(image < 128, (image.int() + int(strength)).clamp(0, 255).to(torch.uint8), image)
        case _:
            return enhance[name](image, strength)


def all_one_by_one(images: Tensor, operation: Tensor, strength: Tensor, fill: tuple[float, ...], interpolation: Interpolation) -> Tensor:
    names = [OPERATIONS[index] for index in operation]
    rows = zip(images, names, strength.tolist(), strict=True)
    return torch.stack([one_by_one(image, name, amount, fill, interpolation) for image, name, amount in rows])


def strengths(name: str, n: int, seed: int) -> Tensor:
    low, high = RANGES.get(name, (0.0, 1.0))
    if isinstance(low, int):
        return torch.randint(low, int(high) + 1, (n,), generator=torch.Generator().manual_seed(seed)).double()
    return low + (high - low) * torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CASES = [(name, how) for name in OPERATIONS for how in (("nearest", "bilinear") if name in GEOMETRIC else ("nearest",))]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "interpolation"), CASES)
def test_each_operation_equals_torchvision(name: str, interpolation: Interpolation, channels: int) -> None:
    n, fill = 60, FILL[:channels]
    images, strength = pictures(n, channels, 32, 32), strengths(name, n, seed=1)
    operation = torch.full((n,), INDEX[name])
    expected = all_one_by_one(images, operation, strength, fill, interpolation)
    result = apply(images, operation, strength, fill=fill, interpolation=interpolation)
    if name in GEOMETRIC:  # the matrix product may round a place to read from differently on another processor
        assert ((result.int() - expected.int()).abs() > 1).double().mean() < 1e-4
        assert (result != expected).double().mean() < 1e-3
    else:
        assert torch.equal(result, expected)
    if name != "identity" and (name, channels) != ("color", 1):
        assert not torch.equal(result, images)


@given(st.integers(0, 10_000), st.sampled_from([1, 3]), st.integers(2, 13), st.integers(2, 13))
def test_a_mixed_batch_of_any_size_equals_torchvision(seed: int, channels: int, height: int, width: int) -> None:
    images = pictures(len(OPERATIONS), channels, height, width, seed)
    operation = torch.randperm(len(OPERATIONS), generator=torch.Generator().manual_seed(seed))
    strength = torch.cat([strengths(OPERATIONS[index], 1, seed) for index in operation])
    fill = FILL[:channels]
    expected = all_one_by_one(images, operation, strength, fill, "bilinear")
    result = apply(images, operation, strength, fill=fill, interpolation="bilinear")
    wrong = (result.int() - expected.int()).abs().amax((1, 2, 3))
    geometric = torch.isin(operation, torch.tensor([INDEX[name] for name in GEOMETRIC]))
    assert (wrong <= geometric.int()).all(), [OPERATIONS[index] for index in operation[wrong > 0]]


@pytest.mark.parametrize(("name", "strength", "level"), [("posterize", 0.0, 0), ("posterize", 8.0, 77), ("solarize", 256.0, 77)])
def test_the_ends_of_the_scale_that_torchvision_refuses(name: str, strength: float, level: int) -> None:
    image = torch.full((1, 3, 4, 4), 77, dtype=torch.uint8)
    assert (apply(image, torch.tensor([INDEX[name]]), torch.tensor([strength], dtype=torch.float64)) == level).all()


def test_noise_equals_torchvision_too() -> None:
    n = len(OPERATIONS) * 8
    images = torch.randint(0, 256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    operation = torch.arange(n) % len(OPERATIONS)
    strength = torch.stack([strengths(OPERATIONS[i % len(OPERATIONS)], 1, seed=i)[0] for i in range(n)])
    expected = all_one_by_one(images, operation, strength, (0.0,), "bilinear")
    assert (apply(images, operation, strength, interpolation="bilinear").int() - expected.int()).abs().max() <= 1


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    images = pictures(len(OPERATIONS), 3, 9, 11)
    operation = torch.arange(len(OPERATIONS))
    strength = torch.cat([strengths(name, 1, seed=2) for name in OPERATIONS])
    together = apply(images, operation, strength)
    for i in range(len(images)):
        assert torch.equal(apply(images[i : i + 1], operation[i : i + 1], strength[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [(2, {}, "1 or 3 channels"), (3, {"fill": (1.0, 2.0)}, "1 or 3 grey levels")],
)
def test_errors_name_the_value(channels: int, options: dict[str, tuple[float, ...]], message: str) -> None:
    images = torch.zeros(1, channels, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        apply(images, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.float64), **options)  # type: ignore[arg-type]
