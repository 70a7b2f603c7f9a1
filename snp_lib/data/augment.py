"""Augmentation of whole batches on the device; every image draws its own parameters from the generator given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor


def random_crop(images: UInt8[Tensor, "n c h w"], padding: int, generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
    """Shift each image by −padding … padding pixels on both axes, filling with zeros (pad and crop, He et al. 2016)."""
    shifts = torch.randint(0, 2 * padding + 1, (2, len(images)), generator=generator, device=images.device)
    return crop(images, padding, shifts[0], shifts[1])


def crop(images: UInt8[Tensor, "n c h w"], padding: int, top: Int64[Tensor, " n"], left: Int64[Tensor, " n"]) -> UInt8[Tensor, "n c h w"]:
    """Pad with zeros and cut the window that starts at (top, left), each image its own."""
    n, c, h, w = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = (top.unsqueeze(1) + torch.arange(h, device=images.device)).view(n, 1, h, 1)
    cols = (left.unsqueeze(1) + torch.arange(w, device=images.device)).view(n, 1, 1, w)
    batch = torch.arange(n, device=images.device).view(n, 1, 1, 1)
    channels = torch.arange(c, device=images.device).view(1, c, 1, 1)
    return padded[batch, channels, rows, cols]


def random_flip(images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
    """Mirror each image left to right with probability one half."""
    return flip(images, torch.rand(len(images), generator=generator, device=images.device) < 0.5)


def flip(images: UInt8[Tensor, "n c h w"], which: Bool[Tensor, " n"]) -> UInt8[Tensor, "n c h w"]:
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
