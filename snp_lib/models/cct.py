"""Compact convolutional transformers (CCT), every L/PxC, with named sites.

Source: Hassani et al., "Escaping the big data paradigm with compact transformers", arXiv:2104.05704, and the authors'
released code (SHI-Labs/Compact-Transformers), whose published numbers come from ``block_order="released"``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from snp_lib.models.fronts import Form, Front
from snp_lib.models.sites import chosen_sites

BlockOrder = Literal["released", "prenorm"]
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
        for name in [
            "num_classes",
            "depth",
            "kernel_size",
            "num_convs",
            "embed_dim",
            "num_heads",
            "image_size",
            "in_channels",
            "conv_channels",
        ]:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
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
        for name in ("dropout", "attention_dropout", "stochastic_depth"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)!r}")
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


class Attention(nn.Module):
    """Multi-head self-attention, up to and without the output projection: tokens (N, T, d) to head outputs (N, T, d).

    Head h owns the channels h·d/H … (h+1)·d/H of the output.
    """

    def __init__(self, cfg: CCTConfig) -> None:
        super().__init__()
        self.num_heads = cfg.num_heads
        self.dropout = cfg.attention_dropout
        self.qkv = nn.Linear(cfg.embed_dim, 3 * cfg.embed_dim, bias=False)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)  # (N, H, T, d/H)
        heads = attend(q, k, v, dropout=self.dropout if self.training else 0.0)
        return heads.transpose(1, 2).reshape(n, t, d)


def attend(
    q: Float[Tensor, "n h t w"], k: Float[Tensor, "n h t w"], v: Float[Tensor, "n h t w"], *, dropout: float = 0.0
) -> Float[Tensor, "n h t w"]:
    """Scaled dot-product attention of every head, softmax(q·kᵀ/√w)·v, with dropout of the attention weights."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
        # torch's fused CPU kernel spends more than half of a bfloat16 training step in its backward pass
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
        return F.dropout(weights, dropout) @ v
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


class Encoder(nn.Module):
    """One transformer encoder. ``forward`` returns the features of its four sites; the last is its output.

    ``released``: the second residual starts from the normalised stream, as in the code behind the published numbers.
    ``prenorm``: both residuals start from the stream itself.
    """

    def __init__(self, cfg: CCTConfig, drop_path: float) -> None:
        super().__init__()
        self.released = cfg.block_order == "released"
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(cfg.embed_dim)
        self.attention = Attention(cfg)
        self.projection = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.norm2 = nn.LayerNorm(cfg.embed_dim)
        self.ff1 = nn.Linear(cfg.embed_dim, cfg.ff_dim)
        self.ff2 = nn.Linear(cfg.ff_dim, cfg.embed_dim)
        self.dropout = nn.Dropout(cfg.dropout)

    def residual(self, update: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """Stochastic depth: drop the update of whole images, scale the kept ones."""
        if not self.training or self.drop_path == 0:
            return update
        keep = 1 - self.drop_path
        return update * update.new_empty(update.shape[0], 1, 1).bernoulli_(keep).div_(keep)

    def forward(self, x: Float[Tensor, "n t d"]) -> dict[str, Tensor]:
        return self.after_attention(x, self.attention(self.norm1(x)))

    def after_attention(self, x: Float[Tensor, "n t d"], mha: Float[Tensor, "n t d"]) -> dict[str, Tensor]:
        """The rest of ``forward``, from the encoder's input and its head outputs, which may have been changed."""
        x = x + self.residual(self.dropout(self.projection(mha)))
        normed = self.norm2(x)
        ff_hidden = F.gelu(self.ff1(normed))
        ff = self.ff2(self.dropout(ff_hidden))
        x = (normed if self.released else x) + self.residual(self.dropout(ff))
        return {"mha": mha, "ff_hidden": ff_hidden, "ff": ff, "block": x}


class CCT(nn.Module):
    """Compact convolutional transformer: images (N, C, S, S) to logits (N, num_classes).

    ``model(x, sites=[…])`` returns ``(logits, features)``: a dictionary from site name to features (N, T, width).
    Sites of encoder b, counted from 1 (defined here): ``block{b}.mha``, the concatenated head outputs before the
    output projection; ``block{b}.ff_hidden``, after the GELU; ``block{b}.ff``, the output of the second linear layer;
    ``block{b}``, the residual stream after the encoder.
    """

    def __init__(self, cfg: CCTConfig) -> None:
        super().__init__()
        self.config = cfg
        layers: list[nn.Module] = []
        channels = [cfg.in_channels, *[cfg.conv_channels] * (cfg.num_convs - 1), cfg.embed_dim]
        for c_in, c_out in pairwise(channels):
            layers += [
                nn.Conv2d(c_in, c_out, cfg.kernel_size, cfg.stride, max(1, cfg.kernel_size // 2), bias=False),
                nn.ReLU(),
                nn.MaxPool2d(3, 2, 1),
            ]
        self.tokenizer = nn.Sequential(*layers)
        if cfg.positional_embedding == "learned":
            self.positions = nn.Parameter(torch.empty(1, cfg.num_tokens, cfg.embed_dim))
        elif cfg.positional_embedding == "sinusoidal":
            self.register_buffer("positions", sinusoidal_table(cfg.num_tokens, cfg.embed_dim), persistent=False)
        self.dropout = nn.Dropout(cfg.dropout)
        self.front = Front(cfg.front, cfg.front_layers, cfg.embed_dim, shortcut=cfg.front_shortcut) if cfg.front else None
        rates = [cfg.stochastic_depth * b / max(1, cfg.depth - 1) for b in range(cfg.depth)]
        self.encoders = nn.ModuleList(Encoder(cfg, rate) for rate in rates)
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
    def sites(self) -> dict[str, int]:
        """Site name to its number of channels, in the order of the forward pass."""
        width = self.config.embed_dim
        out: dict[str, int] = {}
        for b, encoder in enumerate(cast(Iterable[Encoder], self.encoders), start=1):
            hidden = encoder.ff1.out_features  # fewer than ff_dim where units were removed
            out |= {f"block{b}.mha": width, f"block{b}.ff_hidden": hidden, f"block{b}.ff": width, f"block{b}": width}
        return out

    def embed(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n t d"]:
        """Images to the tokens that the first encoder reads; raises ValueError for images of another size."""
        if x.shape[-1] != self.config.image_size or x.shape[-2] != self.config.image_size:
            raise ValueError(f"expected images of {self.config.image_size} pixels, got shape {tuple(x.shape)}")
        tokens = self.tokenizer(x).flatten(2).transpose(1, 2)  # (N, T, d)
        if self.config.positional_embedding != "none":
            tokens = tokens + self.positions
        dropped: Tensor = self.dropout(tokens)
        return self.front(dropped) if self.front is not None else dropped

    def before(self, x: Float[Tensor, "n c s s"], encoder: int) -> Float[Tensor, "n t d"]:
        """Images to the tokens that an encoder reads, counted from 1."""
        tokens = self.embed(x)
        for earlier in self.encoders[: encoder - 1]:
            tokens = earlier(tokens)["block"]
        return tokens

    def behind(self, tokens: Float[Tensor, "n t d"], encoder: int) -> Float[Tensor, "n k"]:
        """Tokens that an encoder reads to logits; ``behind(before(x, b), b)`` is ``forward(x)`` for every b."""
        for later in self.encoders[encoder - 1 :]:
            tokens = later(tokens)["block"]
        return self.classify(tokens)

    def classify(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n k"]:
        """Output of the last encoder to logits: norm, sequence pooling, classifier."""
        tokens = self.norm(tokens)
        logits: Tensor = self.classifier(sequence_pool(tokens, self.pool.weight, self.pool.bias))
        return logits

    @overload
    def forward(self, x: Tensor, sites: None = None) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, sites: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]: ...
    def forward(self, x: Float[Tensor, "n c s s"], sites: Sequence[str] | None = None) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        wanted = chosen_sites(sites, self.sites)
        features: dict[str, Tensor] = {}
        tokens = self.embed(x)
        for b, encoder in enumerate(self.encoders, start=1):
            out = encoder(tokens)
            tokens = out["block"]
            for kind, feature in out.items():
                name = f"block{b}" if kind == "block" else f"block{b}.{kind}"
                if name in wanted:
                    features[name] = feature
        logits = self.classify(tokens)
        return (logits, features) if sites is not None else logits


def sequence_pool(x: Float[Tensor, "n t d"], weight: Float[Tensor, "1 d"], bias: Float[Tensor, " 1"] | None = None) -> Float[Tensor, "n d"]:
    """Mean of the tokens weighted by the softmax, over tokens, of one linear score each (CCT, section 3.2)."""
    attention = F.linear(x, weight, bias).squeeze(-1).softmax(dim=1)  # (N, T)
    return torch.bmm(attention.unsqueeze(1), x).squeeze(1)


def sinusoidal_table(tokens: int, width: int) -> Float[Tensor, "1 t d"]:
    """Sines at even and cosines at odd channels, wavelengths from 2π to 10,000·2π (Vaswani et al. 2017, section 3.5)."""
    angle = torch.arange(tokens).unsqueeze(1) * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    table = torch.zeros(tokens, width)
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle.cos()[:, : width // 2]
    return table.unsqueeze(0)
