"""Compact convolutional transformers (CCT), every L/PxC, with named sites.

Source: Hassani et al., "Escaping the big data paradigm with compact transformers", arXiv:2104.05704, and the authors'
released code (SHI-Labs/Compact-Transformers), whose published numbers come from ``block_order="released"``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from snp_lib.models.encoder import BlockOrder, Encoder, Transformer, normalized, sequence_pool
from snp_lib.models.fronts import Form, Front
from snp_lib.models.sites import Family, ImageNetwork, require_positive, require_shares

PositionalEmbedding = Literal["learned", "sinusoidal", "none"]


@dataclass(frozen=True, kw_only=True)
class CCTConfig:
    """Shape of a compact convolutional transformer. Widths in channels, ``image_size`` in pixels, rates in [0, 1).

    Raises:
        ValueError: a size is not positive, the heads do not divide the width, or a choice is unknown.
    """

    num_classes: int
    depth: int  # L: transformer encoders
    kernel_size: int  # P: side of every tokeniser convolution
    num_convs: int  # C: tokeniser convolutions, each followed by ReLU and a stride-2 max-pool
    embed_dim: int
    num_heads: int
    mlp_ratio: float  # width of the hidden feed-forward layer over embed_dim
    image_size: int = 32
    in_channels: int = 3
    conv_stride: int | None = None  # None: the released rule, max(1, P // 2 - 1)
    conv_channels: int = 64  # between tokeniser convolutions; unused when num_convs is 1
    block_order: BlockOrder = "released"
    positional_embedding: PositionalEmbedding = "learned"
    dropout: float = 0.0
    attention_dropout: float = 0.1
    stochastic_depth: float = 0.1  # drop rate of the last encoder; grows linearly from 0 at the first
    front: Form | None = None  # convolutions between the positions and the first encoder, see snp_lib.models.fronts
    front_layers: int = 1
    front_shortcut: bool = False  # around each of its layers

    def __post_init__(self) -> None:
        sizes = ("num_classes", "depth", "kernel_size", "num_convs", "embed_dim", "num_heads", "image_size", "in_channels", "conv_channels")
        require_positive(self, *sizes)
        if self.conv_stride is not None and self.conv_stride < 1:
            raise ValueError(f"conv_stride must be a positive integer or None, got {self.conv_stride!r}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads must divide embed_dim: {self.num_heads} heads, width {self.embed_dim}")
        if self.ff_dim < 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves no hidden unit at width {self.embed_dim}")
        if self.block_order not in ("released", "prenorm"):
            raise ValueError(f'block_order must be "released" or "prenorm", got {self.block_order!r}')
        if self.positional_embedding not in ("learned", "sinusoidal", "none"):
            raise ValueError(f'positional_embedding must be "learned", "sinusoidal" or "none", got {self.positional_embedding!r}')
        require_shares(self, "dropout", "attention_dropout", "stochastic_depth")
        if self.grid_size < 1:
            raise ValueError(f"the tokeniser leaves no token of a {self.image_size}-pixel image")

    @property
    def ff_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def stride(self) -> int:
        return self.conv_stride or max(1, self.kernel_size // 2 - 1)

    @property
    def grid_size(self) -> int:
        """Side of the square token grid."""
        side, padding = self.image_size, max(1, self.kernel_size // 2)
        for _ in range(self.num_convs):
            side = (side + 2 * padding - self.kernel_size) // self.stride + 1
            side = (side + 2 - 3) // 2 + 1
        return side

    @property
    def num_tokens(self) -> int:
        return self.grid_size**2


class CCT(Transformer, ImageNetwork):
    """Compact convolutional transformer: images (N, C, S, S) to logits (N, num_classes)."""

    embedding = ("tokenizer.", "positions", "front.")

    def __init__(self, cfg: CCTConfig) -> None:
        super().__init__()
        self.config = cfg
        layers: list[nn.Module] = []
        channels = [cfg.in_channels, *[cfg.conv_channels] * (cfg.num_convs - 1), cfg.embed_dim]
        for c_in, c_out in pairwise(channels):
            layers += [
                nn.Conv2d(c_in, c_out, cfg.kernel_size, cfg.stride, max(1, cfg.kernel_size // 2), bias=False),
                nn.MaxPool2d(3, 2, 1),  # before the ReLU it gives the same, on four times fewer elements afterwards
                nn.ReLU(),
            ]
        self.tokenizer = nn.Sequential(*layers)
        if cfg.positional_embedding == "learned":
            self.positions = nn.Parameter(torch.empty(1, cfg.num_tokens, cfg.embed_dim))
        elif cfg.positional_embedding == "sinusoidal":
            self.register_buffer("positions", sinusoidal_table(cfg.num_tokens, cfg.embed_dim), persistent=False)
        self.dropout = nn.Dropout(cfg.dropout)
        self.front = Front(cfg.front, cfg.front_layers, cfg.embed_dim, shortcut=cfg.front_shortcut) if cfg.front else None
        rates = [cfg.stochastic_depth * b / max(1, cfg.depth - 1) for b in range(cfg.depth)]
        self.encoders = nn.ModuleList(
            Encoder(
                cfg.embed_dim,
                cfg.num_heads,
                cfg.ff_dim,
                block_order=cfg.block_order,
                dropout=cfg.dropout,
                attention_dropout=cfg.attention_dropout,
                drop_path=rate,
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(cfg.embed_dim)
        self.pool = nn.Linear(cfg.embed_dim, 1)
        self.classifier = nn.Linear(cfg.embed_dim, cfg.num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values of the released code: truncated normal 0.02 for linear layers, 0.2 for positions, He for convolutions."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        if self.config.positional_embedding == "learned":
            nn.init.trunc_normal_(self.positions, std=0.2)

    @property
    def num_tokens(self) -> int:
        tokens: int = self.config.num_tokens
        return tokens

    @property
    def grid(self) -> tuple[int, int]:
        return self.config.grid_size, self.config.grid_size

    def embed(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n t d"]:
        """Images to the tokens that the first encoder reads; raises ValueError for images of another size."""
        self.check(x)
        lowered = x.dtype == torch.bfloat16
        maps = self.tokenizer[1:](as_product(x, cast(nn.Conv2d, self.tokenizer[0]))) if lowered else self.tokenizer(x)
        tokens = maps.flatten(2).transpose(1, 2)  # (N, T, d)
        if self.config.positional_embedding != "none":
            tokens = (tokens + self.positions).to(x.dtype)
        dropped: Tensor = self.dropout(tokens)
        return self.front(dropped) if self.front is not None else dropped

    def classify(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n k"]:
        """Output of the last encoder to logits: norm, sequence pooling, classifier."""
        tokens = normalized(tokens, self.norm)
        logits: Tensor = self.classifier(sequence_pool(tokens, self.pool.weight, self.pool.bias))
        return logits


def as_product(x: Float[Tensor, "n c s s"], convolution: nn.Conv2d) -> Float[Tensor, "n d h w"]:
    """A square convolution without bias as one product of patches and weights: GPU libraries are slow at three channels."""
    kernel, stride, around = convolution.kernel_size[0], convolution.stride[0], int(convolution.padding[0])
    side = (x.shape[-1] + 2 * around - kernel) // stride + 1
    patches = F.unfold(x, kernel, padding=around, stride=stride).mT  # (N, places, C · k · k)
    weight = convolution.weight.flatten(1)
    padding = (0, -weight.shape[1] % 8)  # to whole units of the hardware
    maps: Tensor = F.linear(F.pad(patches, padding), F.pad(weight, padding)).mT.unflatten(2, (side, side))
    return maps


def sinusoidal_table(tokens: int, width: int) -> Float[Tensor, "1 t d"]:
    """Sines at even and cosines at odd channels, wavelengths from 2π to 10,000·2π (Vaswani et al. 2017, section 3.5)."""
    angle = torch.arange(tokens).unsqueeze(1) * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    table = torch.zeros(tokens, width)
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle.cos()[:, : width // 2]
    return table.unsqueeze(0)


# L → (width, heads, mlp_ratio), section 4 of the CCT paper and the released code
SIZES = {2: (128, 2, 1.0), 4: (128, 2, 1.0), 6: (256, 4, 2.0), 7: (256, 4, 2.0), 14: (384, 6, 3.0)}


def _published(given: Mapping[str, int]) -> dict[str, Any]:
    embed_dim, num_heads, mlp_ratio = SIZES.get(given["depth"], SIZES[7])
    sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "mlp_ratio": mlp_ratio}
    return sizes | {"image_size": 32 if given["kernel_size"] == 3 else 224}


FAMILY = Family(
    pattern=re.compile(r"cct_([1-9]\d*)_([1-9]\d*)x([1-9]\d*)"),
    parts=("depth", "kernel_size", "num_convs"),
    config=CCTConfig,
    network=CCT,
    hint="cct_7_3x1 (encoders, kernel x convolutions)",
    defaults=_published,
)
