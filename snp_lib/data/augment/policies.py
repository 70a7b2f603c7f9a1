"""Augmentation policies: which operations a batch of images gets, and how strong.

A policy draws everything random at once (:class:`Layers`) and then applies it, so what happened to a batch can be
repeated, inspected, and compared with torchvision image by image.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor

from snp_lib.data.augment.operations import INDEX, OPERATIONS, Interpolation, apply as apply_operation
from snp_lib.machine import import_torchvision


class Layers(NamedTuple):
    """What a policy drew for n images, one row per layer.

    ``operation`` indexes ``OPERATIONS``, 0 where none is applied. ``strength`` has the units of
    ``UNITS``, but translations are shares of the image's side, so that a draw fits any size.
    """

    operation: Int64[Tensor, "layers n"]
    strength: Float64[Tensor, "layers n"]


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """RandAugment (Cubuk et al. 2020) as timm draws it; the defaults are its ``rand-m9-n2-mstd0.5-inc1``.

    Every layer picks one of 15 operations uniformly and applies it with probability one half, at a magnitude from
    N(magnitude, magnitude_std) clipped to [0, 10]. Operations and rounding are torchvision's where timm calls Pillow;
    the geometric ones are bilinear, where timm picks bilinear or bicubic by lot.

    Attributes:
        increasing: severity of every operation grows with the magnitude; else timm's first mapping, in which posterize
            and solarize weaken and the four enhancements go from 0.1 to 1.9.
        fill: grey level outside the image, one or one per channel; timm takes the data set's mean, rounded.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    increasing: bool = True
    fill: tuple[float, ...] = (128.0,)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.num_ops < 1:
            raise ValueError(f"num_ops must be at least 1, got {self.num_ops}")
        if not 0 <= self.magnitude <= 10:
            raise ValueError(f"magnitude must lie in [0, 10], got {self.magnitude}")
        if self.magnitude_std < 0:
            raise ValueError(f"magnitude_std must not be negative, got {self.magnitude_std}")

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        return self.apply(images, self.draw(len(images), generator, images.device))

    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> Layers:
        """Everything random for n images."""
        shape = (self.num_ops, n)
        operation = torch.randint(1, len(OPERATIONS), shape, generator=generator, device=device)
        applied = torch.rand(shape, generator=generator, device=device) < 0.5
        normal = torch.randn(shape, generator=generator, device=device, dtype=torch.float64)
        sign = torch.randint(0, 2, shape, generator=generator, device=device) * 2 - 1
        share = (self.magnitude + self.magnitude_std * normal).clamp(0, 10) / 10
        return Layers(torch.where(applied, operation, INDEX["identity"]), self.strength(operation, share, sign))

    def strength(
        self, operation: Int64[Tensor, "layers n"], share: Float64[Tensor, "layers n"], sign: Int64[Tensor, "layers n"]
    ) -> Float64[Tensor, "layers n"]:
        """Strength of each operation at ``share`` of the largest magnitude (timm's mapping), ``sign`` −1 or 1."""
        zero = torch.zeros_like(share)
        if self.increasing:
            posterize, solarize = 4 - (share * 4).floor(), 256 - (share * 256).floor()
            enhance = (1 + sign * share * 0.9).clamp_min(0.1)
        else:
            posterize, solarize = (share * 4).floor(), (share * 256).floor()
            enhance = share * 1.8 + 0.1
        shear, translate = sign * share * 0.3, sign * share * 0.45
        strengths = {
            "rotate": sign * share * 30,
            **dict.fromkeys(("shear_x", "shear_y"), shear),
            **dict.fromkeys(("translate_x", "translate_y"), translate),
            "posterize": posterize,
            "solarize": solarize,
            "solarize_add": (share * 110).floor(),
            **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), enhance),
        }
        return torch.stack([strengths.get(name, zero) for name in OPERATIONS]).gather(0, operation.unsqueeze(0))[0]

    def apply(self, images: UInt8[Tensor, "n c h w"], layers: Layers) -> UInt8[Tensor, "n c h w"]:
        """Apply what was drawn, layer after layer; nothing here is random."""
        return _apply(images, layers, self.fill, self.interpolation, whole_pixels=False)


@dataclass(frozen=True, kw_only=True)
class AutoAugment:
    """AutoAugment with its CIFAR-10 policy (Cubuk et al. 2019): 25 pairs of operations, as torchvision draws and applies them.

    Table, magnitudes, signs, nearest neighbour and black outside are torchvision's; translations are whole pixels.
    """

    fill: tuple[float, ...] = (0.0,)
    interpolation: Interpolation = "nearest"

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        return self.apply(images, self.draw(len(images), generator, images.device))

    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> Layers:
        """Everything random for n images: the pair, which of its two operations are applied, and their signs."""
        pair = torch.randint(0, len(_policy_table(device).operation), (n,), generator=generator, device=device)
        chance = torch.rand(2, n, generator=generator, device=device)
        positive = torch.randint(0, 2, (2, n), generator=generator, device=device).bool()
        return self.layers(pair, chance, positive)

    def layers(self, pair: Int64[Tensor, " n"], chance: Float32[Tensor, "2 n"], positive: Bool[Tensor, "2 n"]) -> Layers:
        """Operations of pair ``pair``: each is applied where ``chance`` is below its probability, with its sign."""
        table = _policy_table(pair.device)
        operation = torch.where(chance < table.probability[pair].T, table.operation[pair].T, INDEX["identity"])
        return Layers(operation, torch.where(positive, table.positive[pair].T, table.negative[pair].T))

    def apply(self, images: UInt8[Tensor, "n c h w"], layers: Layers) -> UInt8[Tensor, "n c h w"]:
        """Apply what was drawn, layer after layer; nothing here is random."""
        return _apply(images, layers, self.fill, self.interpolation, whole_pixels=True)


class _PolicyTable(NamedTuple):
    """One row per pair, one column per layer; the strength for either sign, translations as shares of the side."""

    operation: Int64[Tensor, "pairs 2"]
    probability: Float64[Tensor, "pairs 2"]
    positive: Float64[Tensor, "pairs 2"]
    negative: Float64[Tensor, "pairs 2"]


@functools.cache
def _policy_table(device: torch.device) -> _PolicyTable:
    """torchvision's CIFAR-10 policy as tensors, once per device."""
    transforms = import_torchvision().transforms
    policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)
    space = policy._augmentation_space(10, (1, 1))
    rows: list[list[tuple[int, float, float, float]]] = []
    for pair in policy.policies:
        rows.append([])
        for title, probability, level in pair:
            name = re.sub(r"(?<=[a-z])(?=[XY])", "_", title).lower()
            magnitudes, signed = space[title]
            amount = 0.0 if level is None else float(magnitudes[level])
            base = 1.0 if name in ("brightness", "contrast", "color", "sharpness") else 0.0
            rows[-1].append((INDEX[name], probability, base + amount, base - amount if signed else base + amount))
    columns = torch.tensor(rows, dtype=torch.float64, device=device).unbind(2)
    return _PolicyTable(columns[0].long(), *columns[1:])


def _apply(
    images: UInt8[Tensor, "n c h w"], layers: Layers, fill: tuple[float, ...], interpolation: Interpolation, *, whole_pixels: bool
) -> UInt8[Tensor, "n c h w"]:
    height, width = images.shape[-2:]
    for operation, strength in zip(layers.operation.unbind(), layers.strength.unbind(), strict=True):
        across, down = operation == INDEX["translate_x"], operation == INDEX["translate_y"]
        pixels = strength * torch.where(across, width, height)
        if whole_pixels:
            pixels = pixels.trunc()
        images = apply_operation(images, operation, torch.where(across | down, pixels, strength), fill=fill, interpolation=interpolation)
    return images
