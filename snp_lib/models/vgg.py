"""The VGG networks of paper C: 3×3 convolutions with batch normalisation, then linear layers with nothing between them.

Source: Tzach et al., "Advanced deep architecture pruning using single filter performance", arXiv:2501.12880, and its
released code (Shutshutnunte/AFCC); after Simonyan and Zisserman, arXiv:1409.1556, of whose VGG-11 this is not the same: it
is the first ten convolutions of VGG-16 with one linear layer.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from snp_lib.models.sites import Family, ImageNetwork, Layer, require_positive

CONVOLUTIONS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")
"""Filters of the convolutions of VGG-16, in order, and where a 2×2 max-pool stands behind one."""

DEPTHS = {11: (10, 0), 16: (13, 2)}
"""Layers with weights to the convolutions among them and the hidden linear layers; the last one is the classifier."""


@dataclass(frozen=True, kw_only=True)
class VGGConfig:
    """Shape of a VGG network. Widths in filters or nodes, ``image_size`` in pixels.

    Raises:
        ValueError: a size is not positive or leaves no pixel, or no VGG has so many layers.
    """

    num_classes: int
    layers: int  # with weights: 11 or 16
    narrowing: int = 1  # what every width is divided by
    hidden: int = 4096  # nodes of each hidden linear layer, before the narrowing
    image_size: int = 32
    in_channels: int = 3

    def __post_init__(self) -> None:
        require_positive(self, "num_classes", "narrowing", "hidden", "image_size", "in_channels")
        if self.layers not in DEPTHS:
            raise ValueError(f"layers must be one of {', '.join(map(str, DEPTHS))}, got {self.layers!r}")
        if any(width < self.narrowing for width in self.widths(1)):
            raise ValueError(f"narrowing {self.narrowing} leaves no unit of {min(self.widths(1))}")
        if not self.image_size >> sum(self.pooled):
            raise ValueError(f"the pools leave no pixel of a {self.image_size}-pixel image")

    @property
    def num_heads(self) -> int:
        """None: there is no attention."""
        return 0

    @property
    def pooled(self) -> list[bool]:
        """Whether a pool stands behind each convolution."""
        following = itertools.pairwise(CONVOLUTIONS)
        return [after == "pool" for width, after in following if width != "pool"][: DEPTHS[self.layers][0]]

    def widths(self, narrowing: int | None = None) -> list[int]:
        """Units of every layer before the classifier."""
        convolutions, linear = DEPTHS[self.layers]
        full = [width for width in CONVOLUTIONS if isinstance(width, int)][:convolutions] + [self.hidden] * linear
        return [width // (narrowing or self.narrowing) for width in full]


class VGG(ImageNetwork):
    """A VGG network of paper C: images (N, C, S, S) to logits (N, num_classes).

    Sites: ``block{b}``, the maps (N, filters, h, w) after the b-th convolution, its normalisation, its ReLU and, where it has
    one, its pool; behind the convolutions of VGG-16 the nodes (N, width, 1, 1) of its two hidden linear layers, which have no
    activation. A hidden linear layer is written as a convolution over the whole map, which is the same.
    """

    def __init__(self, cfg: VGGConfig) -> None:
        super().__init__()
        self.config = cfg
        self.blocks, channels, side = nn.ModuleList(), cfg.in_channels, cfg.image_size
        self.sides: list[int] = []  # of the map that each block computes, before its pool
        for b, width in enumerate(cfg.widths()):
            if b < len(cfg.pooled):
                self.sides.append(side)
                self.blocks.append(_convolution(channels, width, pool=cfg.pooled[b]))
                side //= 2 if cfg.pooled[b] else 1
            else:
                self.blocks.append(nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, width, side))))
                side = 1
                self.sides.append(side)
            channels = width
        self.parts_of_unit = side**2  # places of a unit that the classifier reads
        self.classifier = nn.Linear(channels * self.parts_of_unit, cfg.num_classes, bias=False)

    @property
    def sites(self) -> dict[str, int]:
        return {f"block{b}": conv.out_channels for b, conv in enumerate(self._convolutions(), start=1)}  # fewer where units were removed

    @property
    def layers(self) -> dict[str, Layer]:
        """Every layer whose inputs are units, all but the first convolution. Paper C prunes 8, 9, 10 and the classifier of VGG-11."""
        out = {
            f"blocks.{b - 1}.conv.weight": Layer(
                inputs=f"block{b - 1}", outputs=f"block{b}", block=b, places=self.sides[b - 1] ** 2, parts=math.prod(conv.kernel_size)
            )
            for b, conv in enumerate(self._convolutions(), start=1)
            if b > 1
        }
        last = Layer(inputs=f"block{len(self.blocks)}", outputs=None, block=None, places=1, parts=self.parts_of_unit)
        return out | {"classifier.weight": last}

    def _convolutions(self) -> list[Any]:
        return [block.get_submodule("conv") for block in self.blocks]  # or what stands in their place

    @property
    def matrices(self) -> dict[str, int]:
        """The convolutions behind the first, and the hidden linear layers."""
        return {name: 1 for name in self.layers if name != "classifier.weight"}

    def compute(self, x: Float[Tensor, "n c s s"], wanted: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        self.check(x)
        features: dict[str, Tensor] = {}
        for b, block in enumerate(self.blocks, start=1):
            x = block(x)
            if f"block{b}" in wanted:
                features[f"block{b}"] = x
        return self.classify(x), features

    def classify(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Maps of the last layer to logits, the places of a unit side by side."""
        logits: Tensor = self.classifier(maps.flatten(1))
        return logits

    def before(self, x: Float[Tensor, "n c s s"], block: int) -> Float[Tensor, "n d h w"]:
        self.check(x)
        for earlier in list(self.blocks)[: block - 1]:
            x = earlier(x)
        return x

    def behind(self, hidden: Float[Tensor, "n c h w"], block: int) -> Float[Tensor, "n k"]:
        for later in list(self.blocks)[block - 1 :]:
            hidden = later(hidden)
        return self.classify(hidden)

    def parameters_before(self, block: int) -> dict[str, Tensor]:
        names = tuple(f"blocks.{b}." for b in range(block - 1))
        return {name: parameter for name, parameter in self.named_parameters() if name.startswith(names)}


def _convolution(channels: int, filters: int, *, pool: bool) -> nn.Sequential:
    """3×3 convolution with bias, batch normalisation, ReLU and pool: the pool before the ReLU gives the same of fewer elements."""
    steps: list[tuple[str, nn.Module]] = [
        ("conv", nn.Conv2d(channels, filters, 3, padding=1)),
        ("norm", nn.BatchNorm2d(filters)),
        *([("pool", nn.MaxPool2d(2))] if pool else []),
        ("relu", nn.ReLU()),
    ]
    return nn.Sequential(OrderedDict(steps))


FAMILY = Family(pattern=re.compile(r"vgg(11|16)"), parts=("layers",), config=VGGConfig, network=VGG, hint="vgg11 (layers)")
