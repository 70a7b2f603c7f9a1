"""Augmentation of whole batches on the device; every image draws its own parameters from the generator given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor

Images = UInt8[Tensor, "n c h w"] | Float[Tensor, "n c h w"]


def random_crop(images: Images, padding: int, generator: torch.Generator) -> Images:
    """Shift each image by −padding … padding pixels on both axes, filling with zeros (pad and crop, He et al. 2016)."""
    shifts = torch.randint(0, 2 * padding + 1, (2, len(images)), generator=generator, device=images.device)
    return crop(images, padding, shifts[0], shifts[1])


def crop(images: Images, padding: int, top: Int64[Tensor, " n"], left: Int64[Tensor, " n"]) -> Images:
    """Pad with zeros and cut the window that starts at (top, left), each image its own."""
    n, c, h, w = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = (top.unsqueeze(1) + torch.arange(h, device=images.device)).view(n, 1, h, 1)
    cols = (left.unsqueeze(1) + torch.arange(w, device=images.device)).view(n, 1, 1, w)
    batch = torch.arange(n, device=images.device).view(n, 1, 1, 1)
    channels = torch.arange(c, device=images.device).view(1, c, 1, 1)
    return padded[batch, channels, rows, cols]


def random_resized_crop(
    images: UInt8[Tensor, "n c h w"], scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> UInt8[Tensor, "n c h w"]:
    """Cut a box of random area and shape from each image and enlarge it to the image's size (Szegedy et al. 2015).

    Args:
        scale: range of the box's share of the image's area.
        ratio: range of the box's width over its height; its logarithm is uniform.
    """
    height, width = images.shape[-2:]
    boxes = random_boxes(len(images), height, width, scale, ratio, (height, width), generator)
    # where none fits: the largest box in the middle whose shape the range allows
    largest_h = round(width / ratio[0]) if width / height < ratio[0] else height
    largest_w = round(height * ratio[1]) if width / height > ratio[1] else width
    middle = ((height - largest_h) // 2, (width - largest_w) // 2, largest_h, largest_w)
    return resized_crop(images, *(torch.where(boxes.found, drawn, other) for drawn, other in zip(boxes[1:], middle, strict=True)))


class Boxes(NamedTuple):
    """One box per image in whole pixels; meaningless where none was ``found``."""

    found: Bool[Tensor, " n"]
    top: Int64[Tensor, " n"]
    left: Int64[Tensor, " n"]
    height: Int64[Tensor, " n"]
    width: Int64[Tensor, " n"]


def random_boxes(
    n: int,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    largest: tuple[int, int],
    generator: torch.Generator,
) -> Boxes:
    """The first of ten boxes drawn per image that fits, as in torchvision's resized crop and timm's random erasing.

    Args:
        area: range of the box's share of the image, uniform before the sides are rounded.
        ratio: range of width over height; its logarithm is uniform.
        largest: height and width beyond which a box does not fit.

    Raises:
        ValueError: a range that is empty or not positive, or an area above 1.
    """
    if not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"the share of the area must be a range within (0, 1], got {area}")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"the ratio must be a range of positive numbers, got {ratio}")
    # double precision: a uniform number times a side never rounds up to the side
    uniform = torch.rand(4, 10, n, generator=generator, device=generator.device, dtype=torch.float64)
    pixels = height * width * (area[0] + (area[1] - area[0]) * uniform[0])
    shape = (math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * uniform[1]).exp()
    h, w = (pixels / shape).sqrt().round().long(), (pixels * shape).sqrt().round().long()
    fits = (h >= 1) & (h <= largest[0]) & (w >= 1) & (w <= largest[1])
    top, left = (uniform[2] * (height - h + 1)).long(), (uniform[3] * (width - w + 1)).long()
    first = fits.byte().argmax(0, keepdim=True)
    return Boxes(fits.any(0), *(values.gather(0, first)[0] for values in (top, left, h, w)))


def resized_crop(
    images: UInt8[Tensor, "n c h w"],
    top: Int64[Tensor, " n"],
    left: Int64[Tensor, " n"],
    height: Int64[Tensor, " n"],
    width: Int64[Tensor, " n"],
) -> UInt8[Tensor, "n c h w"]:
    """Cut each image's own box and resize it to the image's size, bilinear.

    A box lies in its image, so it is only ever enlarged, where an antialias filter is the identity: none is needed.
    """
    rows = _sources(images.shape[2], top, height)
    columns = _sources(images.shape[3], left, width)
    n, h, w = len(images), images.shape[2], images.shape[3]
    grid = torch.stack([columns.view(n, 1, w).expand(n, h, w), rows.view(n, h, 1).expand(n, h, w)], -1)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False).round().to(torch.uint8)


def _sources(side: int, start: Int64[Tensor, " n"], length: Int64[Tensor, " n"]) -> Float[Tensor, "n side"]:
    """Where each of ``side`` output pixels is read along one axis, −1 to 1 over the image, never outside the box."""
    start, length = start.unsqueeze(1), length.unsqueeze(1)
    centres = torch.arange(side, device=start.device) + 0.5
    place = (centres * (length / side) - 0.5).clamp_min(0).minimum(length - 1) + start
    return (2 * place + 1) / side - 1


def random_flip(images: Images, generator: torch.Generator) -> Images:
    """Mirror each image left to right with probability one half."""
    return flip(images, torch.rand(len(images), generator=generator, device=images.device) < 0.5)


def flip(images: Images, which: Bool[Tensor, " n"]) -> Images:
    """Mirror the chosen images left to right."""
    return torch.where(which.view(-1, 1, 1, 1), images.flip(-1), images)


class Normalize:
    """uint8 images to float with zero mean and unit variance per channel, measured on the images given at construction."""

    def __init__(self, images: UInt8[Tensor, "n c h w"]) -> None:
        # exact integer sums per channel by counting grey levels: no float copy of the data set
        levels = torch.arange(256, dtype=torch.float64)
        counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.cpu().unbind(1)])
        share = counts.double() / counts.sum(1, keepdim=True)
        mean = share @ levels
        deviation = (share @ levels.square() - mean.square()).sqrt().clamp_min(1e-6)
        self._set(mean, deviation, images.device)

    @classmethod
    def fixed(cls, mean: Sequence[float], deviation: Sequence[float], device: torch.device) -> Normalize:
        """With the mean and standard deviation given, one per channel, in grey levels."""
        normalize = cls.__new__(cls)
        normalize._set(torch.tensor(mean, dtype=torch.float64), torch.tensor(deviation, dtype=torch.float64), device)
        return normalize

    def _set(self, mean: Float64[Tensor, " c"], deviation: Float64[Tensor, " c"], device: torch.device) -> None:
        self.mean = mean.float().view(1, -1, 1, 1).to(device)
        self.scale = deviation.reciprocal().float().view(1, -1, 1, 1).to(device)

    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return (images.float() - self.mean).mul_(self.scale).contiguous(memory_format=torch.channels_last)
