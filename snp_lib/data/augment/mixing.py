"""Mixing and erasing normalised images: mixup, CutMix and random erasing, each image with its own draw."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from snp_lib.data.augment.crops import random_boxes


def mix(
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    num_classes: int,
    generator: torch.Generator,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    switch_prob: float = 0.5,
    smoothing: float = 0.0,
) -> tuple[Float[Tensor, "n c h w"], Float32[Tensor, "n classes"]]:
    """Mix each image with its partner in the reversed batch, by mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019).

    As timm's ``Mixup`` in its mode "elem": every image draws its own method and its own λ. timm's default, one draw
    for the whole batch, has the same distribution per image.

    Args:
        mixup_alpha: λ ~ Beta(α, α) is the image's own weight; 0 leaves mixup out.
        cutmix_alpha: 1 − λ ~ Beta(α, α) is the share of the box before it is clipped; 0 leaves CutMix out.
        switch_prob: probability of CutMix, where both are on.
        smoothing: share of each label's weight spread evenly over all classes.

    Returns:
        The mixed images, and labels whose rows sum to one, in which the image's label has the weight of its own pixels.

    Raises:
        ValueError: both α are zero, or a number out of range.
    """
    if mixup_alpha < 0 or cutmix_alpha < 0 or mixup_alpha + cutmix_alpha == 0:
        raise ValueError(f"mixup_alpha and cutmix_alpha must not be negative, and one must be positive, got {mixup_alpha}, {cutmix_alpha}")
    for name, share in (("switch_prob", switch_prob), ("smoothing", smoothing)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {share}")
    cutmix_prob = switch_prob if mixup_alpha and cutmix_alpha else float(mixup_alpha == 0)
    n, _, h, w = images.shape
    cut = torch.rand(n, generator=generator, device=images.device) < cutmix_prob
    # an α that is off is never chosen; any positive number keeps its draw defined
    alpha = cut.double() * ((cutmix_alpha or 1.0) - (mixup_alpha or 1.0)) + (mixup_alpha or 1.0)
    own = symmetric_beta(alpha, generator)
    box = random_box(own, h, w, generator)
    own = torch.where(cut, 1 - box.double().mean((1, 2)), own).float()
    # weight of the own pixels, at every place: λ for mixup, 0 or 1 for CutMix
    weight = torch.where(cut.view(n, 1, 1, 1), (~box).float().unsqueeze(1), own.view(n, 1, 1, 1)).to(images.dtype)
    targets = smoothed(labels, num_classes, smoothing)
    own = own.unsqueeze(1)
    return images * weight + images.flip(0) * (1 - weight), targets * own + targets.flip(0) * (1 - own)


def smoothed(labels: Int64[Tensor, " n"], num_classes: int, smoothing: float) -> Float32[Tensor, "n classes"]:
    """Labels as shares of all classes, of which ``smoothing`` is spread evenly."""
    off = smoothing / num_classes
    return torch.full((len(labels), num_classes), off, device=labels.device).scatter_(1, labels.unsqueeze(1), 1 - smoothing + off)


def symmetric_beta(alpha: Float64[Tensor, " n"], generator: torch.Generator) -> Float64[Tensor, " n"]:
    """One draw from Beta(α, α) for each α > 0: the share of the first of two gamma variates.

    torch's gamma sampler is exact and takes a generator on the CPU and on CUDA; its public distributions take none.
    """
    gamma: Tensor = torch._standard_gamma(alpha.expand(2, -1).contiguous(), generator=generator)
    return gamma[0] / gamma.sum(0)


def random_box(own: Float64[Tensor, " n"], height: int, width: int, generator: torch.Generator) -> Bool[Tensor, "n height width"]:
    """Pixels of a box with the image's shape and 1 − λ of its area, its middle anywhere in the image, clipped at the border.

    As in timm the halves of the box are whole pixels, so its sides are even.
    """
    side = (1 - own).clamp_min(0).sqrt()
    intervals = []
    for length in (height, width):
        middle = torch.randint(0, length, own.shape, generator=generator, device=own.device)
        half = (side * length).long() // 2
        intervals.append(_interval(middle - half, middle + half, length))
    return intervals[0].unsqueeze(2) & intervals[1].unsqueeze(1)


def random_erasing(
    images: Float[Tensor, "n c h w"],
    generator: torch.Generator,
    *,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Float[Tensor, "n c h w"]:
    """Replace one box in some images by normal noise, its own for each pixel and channel (Zhong et al. 2020).

    As timm's ``RandomErasing`` in its mode "pixel": the box is the first of ten drawn that is smaller than the image on
    both sides; where none is, nothing is erased.

    Args:
        images: normalised, so that the noise has their mean and variance.
        area: range of the box's share of the image.
        aspect: range of the box's height over its width; its logarithm is uniform.

    Raises:
        ValueError: a number out of range.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}")
    if not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"aspect must be a range of positive numbers, got {aspect}")
    n, _, height, width = images.shape
    # timm's aspect is height over width; its boxes are smaller than the image on both sides
    ratio = (1 / aspect[1], 1 / aspect[0])
    found, top, left, h, w = random_boxes(n, height, width, area, ratio, (height - 1, width - 1), generator)
    erased = found & (torch.rand(n, generator=generator, device=images.device) < probability)
    inside = _interval(top, top + h, height).unsqueeze(2) & _interval(left, left + w, width).unsqueeze(1)
    # drawn contiguous: filling another layout takes ten times as long on the CPU
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return images.where(~(erased.view(n, 1, 1, 1) & inside.unsqueeze(1)), noise)


def _interval(start: Int64[Tensor, " n"], stop: Int64[Tensor, " n"], length: int) -> Bool[Tensor, "n length"]:
    """Places from start up to, not including, stop."""
    places = torch.arange(length, device=start.device)
    return (places >= start.unsqueeze(1)) & (places < stop.unsqueeze(1))
