"""AlterNet: a pre-activation residual network whose stages end with attention in place of convolutions.

Source: Park and Kim, "How do vision transformers work?", arXiv:2202.06709, section 4, and their released ``models/alternet.py``, with
the windows of 4 × 4 that images of 32 pixels need (theirs of 7 × 7 do not divide their maps). Bottlenecks after He et al., "Identity
mappings in deep residual networks", arXiv:1603.05027. With attentions (0, 1, 1, 2) and a hundred labels it has 33,012,840 parameters,
17 % more than without any, and 1,504 million multiply-accumulates in convolutions and classifier, 10 % more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from snp_lib.models.sites import Family, ImageNetwork, ResidualUnit, UnitKind, require_positive, require_shares, unchanged

EXPANSION = 4  # channels of the stream over those inside a bottleneck


@dataclass(frozen=True, kw_only=True)
class AlterNetConfig:
    """Shape of an AlterNet. Widths in channels, sizes in pixels, rates in [0, 1).

    A stage of n blocks with m attentions begins with n − 2m convolutions, then come m times a convolution and an attention.

    Raises:
        ValueError: a size is not positive, a stage has more attentions than half its blocks, or windows do not divide its maps.
    """

    num_classes: int
    attentions: int  # m of every stage, a digit each: 112 is none in the first stage, then 1, 1 and 2
    blocks: int = 3464  # n of every stage, a digit each
    width: int = 64  # inside the bottlenecks of the first stage; every further stage has twice that of the one before
    heads: int = 3  # of an attention in the first stage; every further stage has twice as many
    head_width: int = 64
    window: int = 4  # side of the square windows within which positions attend to each other
    stochastic_depth: float = 0.0  # drop rate of the last block; grows linearly from 0 at the first
    image_size: int = 32
    in_channels: int = 3

    def __post_init__(self) -> None:
        require_positive(self, "num_classes", "blocks", "width", "heads", "head_width", "window", "image_size", "in_channels")
        require_shares(self, "stochastic_depth")
        if len(str(self.blocks)) != 4 or "0" in str(self.blocks):
            raise ValueError(f"blocks has a digit from 1 to 9 for each of four stages, got {self.blocks}")
        if not 0 <= self.attentions < 10_000:
            raise ValueError(f"attentions has a digit for each of four stages, got {self.attentions}")
        for stage, (blocks, attentions, side) in enumerate(self.stages, start=1):
            if 2 * attentions > blocks:
                raise ValueError(f"stage {stage} has {blocks} blocks, so at most {blocks // 2} attentions, got {attentions}")
            if attentions and side % self.window:
                raise ValueError(f"stage {stage} has maps of {side} × {side}, which windows of {self.window} × {self.window} do not divide")

    @property
    def num_heads(self) -> int:
        """Zero, since every stage has another number of them and none is measured."""
        return 0

    @property
    def stages(self) -> list[tuple[int, int, int]]:
        """Blocks, attentions and side of the maps of every stage."""
        blocks, attentions = map(int, str(self.blocks)), map(int, f"{self.attentions:04d}")
        return [(n, m, -(-self.image_size // 2**stage)) for stage, (n, m) in enumerate(zip(blocks, attentions, strict=True))]


class Residual(nn.Module):
    """A block: maps (N, C, h, w) to maps, ``skip(x) + branch(x)``, with stochastic depth."""

    kind: UnitKind

    def __init__(self, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path

    def skip(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """What the block adds to."""
        return unchanged(x)

    def branch(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """What the block adds."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        update = self.branch(x)
        if self.training and self.drop_path:
            keep = 1 - self.drop_path
            update = update * update.new_empty(len(update), 1, 1, 1).bernoulli_(keep).div_(keep)
        return self.skip(x) + update


class Bottleneck(Residual):
    """Convolutions of 1 × 1, 3 × 3 and 1 × 1, each behind batch normalisation and ReLU; a shortcut of 1 × 1 where shapes change."""

    kind = "convolution"

    def __init__(self, channels: int, width: int, stride: int, drop_path: float) -> None:
        super().__init__(drop_path)
        out = EXPANSION * width
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, width, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm3, self.conv3 = nn.BatchNorm2d(width), nn.Conv2d(width, out, 1, bias=False)
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if stride > 1 or channels != out else None

    def skip(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        return x if self.shortcut is None else self.shortcut(F.relu(self.norm1(x)))

    def branch(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        x = self.conv1(F.relu(self.norm1(x)))
        x = self.conv2(F.relu(self.norm2(x)))
        added: Tensor = self.conv3(F.relu(self.norm3(x)))
        return added


class WindowAttention(Residual):
    """Self-attention within windows of a map, on a quarter of its channels, with a bias for every relative position, shared by heads."""

    kind = "attention"
    positions: Int64[Tensor, "t t"]

    def __init__(self, channels: int, heads: int, head_width: int, window: int, drop_path: float) -> None:
        super().__init__(drop_path)
        inner, attended = channels // EXPANSION, heads * head_width
        self.heads, self.window = heads, window
        self.norm1, self.squeeze = nn.BatchNorm2d(channels), nn.Conv2d(channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.qkv = nn.Conv2d(inner, 3 * attended, 1, bias=False)
        self.relative_bias = nn.Parameter(0.02 * torch.randn((2 * window - 1) ** 2))
        self.projection = nn.Conv2d(attended, channels, 1)
        self.register_buffer("positions", relative_positions(window), persistent=False)

    def branch(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        (n, _, h, w), side = x.shape, self.window
        qkv = self.qkv(self.norm2(self.squeeze(F.gelu(self.norm1(x)))))
        parts = qkv.view(n, 3, self.heads, -1, h // side, side, w // side, side)
        q, k, v = parts.permute(1, 0, 4, 6, 2, 5, 7, 3).flatten(5, 6).flatten(1, 3)  # (N · windows, heads, places, head width)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=self.relative_bias[self.positions].to(q.dtype))
        maps = attended.unflatten(0, (n, h // side, w // side)).unflatten(4, (side, side)).permute(0, 3, 6, 1, 4, 2, 5)
        added: Tensor = self.projection(maps.reshape(n, -1, h, w))
        return added


def relative_positions(window: int) -> Int64[Tensor, "t t"]:
    """For any two places of a window, row by row, the number of their relative position, from 0 to (2 window − 1)² − 1."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1)
    apart = places[:, None] - places + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


class AlterNet(ImageNetwork):
    """Residual stages with attention at their ends: images (N, C, S, S) to logits (N, num_classes).

    Sites, with maps (N, filters, h, w): ``stem``, the first convolution, and ``block{b}``, the stream after the b-th block.
    """

    def __init__(self, cfg: AlterNetConfig) -> None:
        super().__init__()
        self.config = cfg
        self.stem = nn.Conv2d(cfg.in_channels, cfg.width, 3, 1, 1, bias=False)
        self.blocks, channels = nn.ModuleList(), cfg.width
        total = sum(n for n, _, _ in cfg.stages)
        for stage, (n, m, _) in enumerate(cfg.stages):
            width, heads = cfg.width * 2**stage, cfg.heads * 2**stage
            for number in range(n):
                drop_path = cfg.stochastic_depth * len(self.blocks) / max(1, total - 1)
                if number >= n - 2 * m and (n - number) % 2:  # the last of every pair at the end
                    self.blocks.append(WindowAttention(channels, heads, cfg.head_width, cfg.window, drop_path))
                else:
                    stride = 2 if stage and not number else 1
                    self.blocks.append(Bottleneck(channels, width, stride, drop_path))
                channels = EXPANSION * width
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, cfg.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def sites(self) -> dict[str, int]:
        widths = [self.config.width * EXPANSION * 2**stage for stage, (n, _, _) in enumerate(self.config.stages) for _ in range(n)]
        return {"stem": self.config.width} | {f"block{b}": width for b, width in enumerate(widths, start=1)}

    @property
    def matrices(self) -> dict[str, int]:
        """Every convolution of the blocks, queries, keys and values apart."""
        weights = [name for name, p in self.named_parameters() if name.startswith("blocks.") and p.ndim == 4]
        return {name: 3 if name.endswith(".qkv.weight") else 1 for name in weights}

    @property
    def residual_units(self) -> list[ResidualUnit]:
        """Every block."""
        blocks = cast(list[Residual], list(self.blocks))
        return [ResidualUnit(block=b, kind=each.kind, skip=each.skip, branch=each.branch) for b, each in enumerate(blocks, start=1)]

    def compute(self, x: Float[Tensor, "n c s s"], wanted: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        self.check(x)
        features = {"stem": self.stem(x)}
        hidden = features["stem"]
        for b, block in enumerate(self.blocks, start=1):
            features[f"block{b}"] = hidden = block(hidden)
        return self.classify(hidden), {site: features[site] for site in wanted}

    def classify(self, hidden: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """The stream after the last block to logits: normalisation, ReLU, mean over positions, classifier."""
        logits: Tensor = self.classifier(F.relu(self.norm(hidden)).mean((2, 3)))
        return logits

    def before(self, x: Float[Tensor, "n c s s"], block: int) -> Tensor:
        self.check(x)
        hidden: Tensor = self.stem(x)
        for earlier in self.blocks[: block - 1]:
            hidden = earlier(hidden)
        return hidden

    def behind(self, hidden: Tensor, block: int) -> Float[Tensor, "n k"]:
        for later in self.blocks[block - 1 :]:
            hidden = later(hidden)
        return self.classify(hidden)


FAMILY = Family(
    pattern=re.compile(r"alternet_(\d{4})"),
    parts=("attentions",),
    config=AlterNetConfig,
    network=AlterNet,
    hint="alternet_0112 (attentions of each stage)",
)
