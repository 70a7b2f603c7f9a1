"""Networks of torchvision, sized for small images, their sites read by torchvision's feature extraction: ViT, ResNet, EfficientNet.

Sources: Dosovitskiy et al., "An image is worth 16x16 words", arXiv:2010.11929; He et al., "Deep residual learning for
image recognition", arXiv:1512.03385, with the stem and, for three stages, the plan of its section 4.2 for 32-pixel
images; Tan and Le, "EfficientNet", arXiv:1905.11946, table 1, with strides of our own. Layers, initial values and
forward pass are torchvision's. Only what is read, and under which name, is ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snp_lib.machine import import_torchvision
from snp_lib.models.sites import Family, HeadAxis, ImageNetwork, require_positive, require_shares

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


# expansion, kernel, stride, filters read, filters written, blocks of each stage (EfficientNet, table 1); the stem and the first stage
# that halves the map have stride 1 here, as at the published strides the last three stages see one pixel of a 32-pixel image
STAGES_B0 = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 1, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """Shape of an EfficientNet-B0. Sizes in pixels, rates and shares in [0, 1].

    Raises:
        ValueError: a size is not positive, or a rate or share out of range.
    """

    num_classes: int
    variant: int = 0
    narrowing: int = 1  # what the filters are divided by, then rounded to multiples of 8
    depth_share: float = 1.0  # of the blocks of each stage, at least one
    image_size: int = 32
    in_channels: int = 3
    dropout: float = 0.2
    stochastic_depth: float = 0.2  # drop rate behind the last block; grows linearly from 0

    def __post_init__(self) -> None:
        require_positive(self, "num_classes", "narrowing", "image_size", "in_channels")
        require_shares(self, "dropout", "stochastic_depth")
        if self.variant != 0:
            raise ValueError(f"of the EfficientNets there is B0, not B{self.variant}")
        if not 0 < self.depth_share <= 1:
            raise ValueError(f"depth_share must lie in (0, 1], got {self.depth_share}")

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

    Sites of an EfficientNet, all maps: ``stem``; of block b ``block{b}.expansion``, the 1×1 convolution that widens (of all blocks but
    the first), and ``block{b}.depthwise``, each after its activation, and ``block{b}``, the 1×1 projection, which has none, with the
    shortcut where there is one. A depthwise filter reads one filter alone, so that connections are a choice in the 1×1 convolutions only.
    """

    def __init__(self, cfg: ViTConfig | ResNetConfig | EfficientNetConfig) -> None:
        super().__init__()
        self.config = cfg
        builders: dict[type, Callable[[Any], tuple[nn.Module, str, Nodes]]]
        builders = {ViTConfig: _vit, ResNetConfig: _resnet, EfficientNetConfig: _efficientnet}
        network, head, nodes = builders[type(cfg)](cfg)
        self.network = import_torchvision().models.feature_extraction.create_feature_extractor(
            network, {node: site for site, (node, _) in nodes.items()} | {head: "logits"}
        )
        self._channels = {site: channels for site, (_, channels) in nodes.items()}

    @property
    def sites(self) -> dict[str, int]:
        return dict(self._channels)

    @property
    def matrices(self) -> dict[str, int]:
        """Of a ViT all of the encoders, queries, keys and values apart; of the others the convolutions of blocks but depthwise ones."""
        blocks, ndim = ("network.encoder.layers.", 2) if isinstance(self.config, ViTConfig) else (("network.layer", "network.features"), 4)
        weights = [name for name, p in self.named_parameters() if name.startswith(blocks) and p.ndim == ndim and p.shape[1] > 1]
        weights = [name for name in weights if not name.startswith("network.features.0.")]
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


def _efficientnet(cfg: EfficientNetConfig) -> tuple[nn.Module, str, Nodes]:
    """The network, the name of the node of its logits, and its sites."""
    efficientnet = import_torchvision().models.efficientnet
    stages = [efficientnet.MBConvConfig(*stage, width_mult=1 / cfg.narrowing, depth_mult=cfg.depth_share) for stage in STAGES_B0]
    network = efficientnet.EfficientNet(
        stages, cfg.dropout, cfg.stochastic_depth, num_classes=cfg.num_classes, last_channel=1280 // cfg.narrowing
    )
    stem = network.features[0][0]
    network.features[0][0] = nn.Conv2d(cfg.in_channels, stem.out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(network.features[0][0].weight, mode="fan_out")  # as torchvision does
    nodes: Nodes = {"stem": ("features.0", stem.out_channels)}
    inner = [(f"features.{s}.{b}", block) for s, stage in enumerate(network.features[1:-1], start=1) for b, block in enumerate(stage)]
    for number, (node, block) in enumerate(inner, start=1):
        kinds = ["expansion"] * (len(block.block) == 4) + ["depthwise", "", ""]  # then the squeeze and excitation, and the projection
        for place, (kind, layer) in enumerate(zip(kinds, block.block, strict=True)):
            if kind:
                nodes[f"block{number}.{kind}"] = (f"{node}.block.{place}", layer[0].out_channels)
        last = len(block.block) - 1
        nodes[f"block{number}"] = (f"{node}.add" if block.use_res_connect else f"{node}.block.{last}", block.block[last][0].out_channels)
    return network, "classifier.1", nodes


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
EFFICIENTNET = Family(
    pattern=re.compile(r"efficientnet_b(0)"),
    parts=("variant",),
    config=EfficientNetConfig,
    network=Extracted,
    hint="efficientnet_b0",
)
