"""Networks of torchvision, sized for small images, their sites read by torchvision's feature extraction: ViT, ResNet, EfficientNet.

Sources: Dosovitskiy et al., "An image is worth 16x16 words", arXiv:2010.11929; He et al., "Deep residual learning for
image recognition", arXiv:1512.03385, with the stem and, for three stages, the plan of its section 4.2 for 32-pixel
images; Tan and Le, "EfficientNet", arXiv:1905.11946, table 1, with strides of our own. Layers, initial values and
forward pass are torchvision's. Only what is read, and under which name, is ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from snp_lib.machine import import_torchvision
from snp_lib.models.sites import (
    Family,
    HeadAxis,
    ImageNetwork,
    ResidualUnit,
    require_positive,
    require_shares,
    unchanged,
)

STAGES = {8: (1, 1, 1), 12: (1, 2, 2), 14: (2, 2, 2), 20: (3, 3, 3), 10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Layers of a ResNet to the residual blocks of its stages, of 64, 128, 256 and 512 filters; 12 is ours, the others are usual."""

Nodes = dict[str, tuple[str, int]]  # site → name of its node in torchvision's graph, channels


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Shape of a plain vision transformer. Widths in channels, sizes in pixels, rates in [0, 1).

    Raises:
        ValueError: a size is not positive, or one does not divide another.
    """

    num_classes: int
    depth: int  # transformer encoders
    patch_size: int
    embed_dim: int = 192  # with the two below: ViT-Ti
    num_heads: int = 3
    mlp_ratio: float = 4.0  # width of the hidden feed-forward layer over embed_dim
    image_size: int = 32
    in_channels: int = 3
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "num_classes", "depth", "patch_size", "embed_dim", "num_heads", "image_size", "in_channels")
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size must divide image_size: patches of {self.patch_size} pixels, images of {self.image_size}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads must divide embed_dim: {self.num_heads} heads, width {self.embed_dim}")
        if self.ff_dim < 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves no hidden unit at width {self.embed_dim}")
        require_shares(self, "dropout", "attention_dropout")

    @property
    def ff_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Shape of a ResNet of basic blocks behind a 3×3 convolution without pooling. Sizes in pixels.

    Raises:
        ValueError: a size is not positive, or no ResNet has so many layers.
    """

    num_classes: int
    layers: int  # with weights: 10, 18, 34 of four stages; 8, 12, 14, 20 of three
    stem_stride: int = 1
    image_size: int = 32
    in_channels: int = 3

    def __post_init__(self) -> None:
        require_positive(self, "num_classes", "stem_stride", "image_size", "in_channels")
        if self.layers not in STAGES:
            raise ValueError(f"layers must be one of {', '.join(map(str, sorted(STAGES)))}, got {self.layers!r}")

    @property
    def num_heads(self) -> int:
        """None: there is no attention."""
        return 0


class Extracted(ImageNetwork):
    """A network of torchvision: images (N, C, S, S) to logits (N, num_classes), and the features at named sites.

    ``model(x, sites=[…])`` returns ``(logits, features)``: a dictionary from site name to features. Every forward pass
    is the graph that torchvision's ``create_feature_extractor`` makes, which returns logits and all sites at once.

    Sites of encoder b of a ViT, counted from 1, with features (N, 1 + T, width), class token first: ``block{b}.attention``,
    what ``nn.MultiheadAttention`` returns, after its output projection (the head outputs before it, ``mha`` of a CCT,
    stay inside that module); ``block{b}.ff_hidden``, after the GELU; ``block{b}.ff``, the output of the second linear
    layer; ``block{b}``, the residual stream after the encoder. The class token is kept among the tokens: in the last encoder
    it is the only one that the logits depend on.

    Sites of a ResNet, with maps (N, filters, h, w): ``stem``, after the ReLU of the first convolution, and ``block{b}``, after
    the b-th residual block and its ReLU.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.config = cfg
        network, head, nodes = self.built(cfg)
        self.network = import_torchvision().models.feature_extraction.create_feature_extractor(
            network, {node: site for site, (node, _) in nodes.items()} | {head: "logits"}
        )
        self._channels = {site: channels for site, (_, channels) in nodes.items()}

    def built(self, cfg: Any) -> tuple[nn.Module, str, Nodes]:
        """The network, the name of the node of its logits, and its sites."""
        return _vit(cfg) if isinstance(cfg, ViTConfig) else _resnet(cfg)

    @property
    def sites(self) -> dict[str, int]:
        return dict(self._channels)

    @property
    def matrices(self) -> dict[str, int]:
        """All of the encoders of a ViT, queries, keys and values apart; of a ResNet every convolution of its residual blocks."""
        blocks, ndim = ("network.encoder.layers.", 2) if isinstance(self.config, ViTConfig) else ("network.layer", 4)
        weights = [name for name, p in self.named_parameters() if name.startswith(blocks) and p.ndim == ndim]
        return {name: 3 if name.endswith(".in_proj_weight") else 1 for name in weights}

    @property
    def head_axes(self) -> dict[str, HeadAxis]:
        """Rows of queries, keys and values of every encoder of a ViT, and the columns of the projection that read a head."""
        if not isinstance(self.config, ViTConfig):
            return {}
        inner, outer = (0, ("query", "key", "value")), (1, ("output",))
        kinds: dict[str, tuple[int, tuple[str, ...]]] = {"in_proj_weight": inner, "in_proj_bias": inner, "out_proj.weight": outer}
        return {
            f"network.encoder.layers.encoder_layer_{b - 1}.self_attention.{kind}": HeadAxis(
                block=b, heads=self.config.num_heads, axis=axis, parts=parts
            )
            for b in range(1, self.config.depth + 1)
            for kind, (axis, parts) in kinds.items()
        }

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches of a ViT, which stand behind the class token."""
        if not isinstance(self.config, ViTConfig):
            return super().grid
        side = self.config.image_size // self.config.patch_size
        return side, side

    @property
    def residual_units(self) -> list[ResidualUnit]:
        """Attention and feed-forward layers of every encoder of a ViT; the convolutions of every block of a ResNet."""
        if isinstance(self.config, ViTConfig):
            layers = [self.network.get_submodule(f"encoder.layers.encoder_layer_{b}") for b in range(self.config.depth)]
            return [unit for b, layer in enumerate(layers, start=1) for unit in _encoder_units(layer, b)]
        blocks = [
            block for stage in range(len(STAGES[self.config.layers])) for block in getattr(self.network, f"layer{stage + 1}").children()
        ]
        return [_convolution_unit(block, b) for b, block in enumerate(blocks, start=1)]

    def before(self, x: Float[Tensor, "n c s s"], block: int) -> Tensor:
        self.check(x)
        network = self.network
        if isinstance(self.config, ViTConfig):
            tokens = network.conv_proj(x).flatten(2).transpose(1, 2)
            hidden = torch.cat([network.class_token.expand(len(x), -1, -1), tokens], 1) + network.encoder.pos_embedding
        else:
            hidden = F.relu(network.bn1(network.conv1(x)))
        return self._through(hidden, 1, block)

    def behind(self, hidden: Tensor, block: int) -> Float[Tensor, "n k"]:
        hidden, network = self._through(hidden, block, None), self.network
        pooled = network.encoder.ln(hidden)[:, 0] if isinstance(self.config, ViTConfig) else hidden.mean((2, 3))
        logits: Tensor = (network.heads.head if isinstance(self.config, ViTConfig) else network.fc)(pooled)
        return logits

    def _through(self, hidden: Tensor, first: int, end: int | None) -> Tensor:
        """Through the blocks from ``first`` up to, but not, ``end``."""
        for unit in self.residual_units:
            if first <= unit.block and (end is None or unit.block < end):
                hidden = unit(hidden)
        return hidden

    def compute(self, x: Float[Tensor, "n c s s"], wanted: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        self.check(x)
        outputs: dict[str, Tensor] = self.network(x)
        return outputs["logits"], {site: outputs[site] for site in wanted}


def _vit(cfg: ViTConfig) -> tuple[nn.Module, str, Nodes]:
    """The network, the name of the node of its logits, and its sites."""
    network = import_torchvision().models.VisionTransformer(
        image_size=cfg.image_size,
        patch_size=cfg.patch_size,
        num_layers=cfg.depth,
        num_heads=cfg.num_heads,
        hidden_dim=cfg.embed_dim,
        mlp_dim=cfg.ff_dim,
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        num_classes=cfg.num_classes,
    )
    if cfg.in_channels != 3:
        network.conv_proj = nn.Conv2d(cfg.in_channels, cfg.embed_dim, cfg.patch_size, cfg.patch_size)
        nn.init.trunc_normal_(network.conv_proj.weight, std=network.conv_proj.weight[0].numel() ** -0.5)  # as torchvision does
        nn.init.zeros_(network.conv_proj.bias)
    nodes: Nodes = {}
    for b, layer in enumerate(network.encoder.layers, start=1):
        layer.mlp = nn.Sequential(*layer.mlp)  # the same layers and names; torchvision's tracer never looks into its own MLP
        layer.self_attention.register_forward_pre_hook(_in_two_products, with_kwargs=True)
        node, width = f"encoder.layers.encoder_layer_{b - 1}", cfg.embed_dim
        nodes |= {f"block{b}.attention": (f"{node}.getitem", width), f"block{b}.ff_hidden": (f"{node}.mlp.1", cfg.ff_dim)}
        nodes |= {f"block{b}.ff": (f"{node}.mlp.3", width), f"block{b}": (node, width)}
    return network, "heads", nodes


def _encoder_units(layer: Any, block: int) -> list[ResidualUnit]:
    """The two additions of an encoder of torchvision's ViT, without dropout."""

    def attention(hidden: Tensor) -> Tensor:
        normed = layer.ln_1(hidden)
        added: Tensor = layer.self_attention(normed, normed, normed, need_weights=False)[0]
        return added

    return [
        ResidualUnit(block=block, kind="attention", branch=attention),
        ResidualUnit(block=block, kind="feed-forward", branch=lambda hidden: _in_turn(layer.mlp, layer.ln_2(hidden))),
    ]


def _convolution_unit(block: Any, number: int) -> ResidualUnit:
    """The addition of a basic block of torchvision's ResNet; where shapes change, it adds to a convolution of what it reads."""

    def branch(hidden: Tensor) -> Tensor:
        added: Tensor = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(hidden)))))
        return added

    skip = partial(_in_turn, block.downsample) if hasattr(block, "downsample") else unchanged
    return ResidualUnit(block=number, kind="convolution", branch=branch, skip=skip, after=F.relu)


def _in_turn(layers: nn.Module, hidden: Tensor) -> Tensor:
    """Through layers that stood in a sequence, of which torchvision's graph keeps the layers alone."""
    for layer in layers.children():
        hidden = layer(hidden)
    return hidden


def _in_two_products(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Make ``nn.MultiheadAttention`` write attention as two products, by asking for its weights, which nobody reads.

    Only where that pays, as :func:`snp_lib.models.encoder.attend` does: torch's fused CPU kernel spends most of a bfloat16
    training step in its backward pass.
    """
    query = args[0]
    if query.requires_grad and query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return args, kwargs | {"need_weights": True}
    return None


def _resnet(cfg: ResNetConfig) -> tuple[nn.Module, str, Nodes]:
    """The network, the name of the node of its logits, and its sites."""
    stages = STAGES[cfg.layers]
    resnet = import_torchvision().models.resnet
    network = resnet.ResNet(resnet.BasicBlock, [*stages, 1][:4], num_classes=cfg.num_classes)
    network.conv1 = nn.Conv2d(cfg.in_channels, 64, 3, cfg.stem_stride, 1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    network.maxpool = nn.Identity()
    if len(stages) == 3:
        network.layer4 = nn.Identity()
        network.fc = nn.Linear(256, cfg.num_classes)
    nodes: Nodes = {"stem": ("relu", 64)}
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            nodes[f"block{len(nodes)}"] = (f"layer{stage + 1}.{block}", 64 * 2**stage)
    return network, "fc", nodes


VIT = Family(
    pattern=re.compile(r"vit_([1-9]\d*)_p([1-9]\d*)"),
    parts=("depth", "patch_size"),
    config=ViTConfig,
    network=Extracted,
    hint="vit_12_p2 (encoders, patch)",
)
RESNET = Family(
    pattern=re.compile(r"resnet([1-9]\d*)"), parts=("layers",), config=ResNetConfig, network=Extracted, hint="resnet18 (layers)"
)
