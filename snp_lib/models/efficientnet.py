"""EfficientNet-B0 of torchvision, its strides changed for small images, its sites read by torchvision's feature extraction.

Source: Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", arXiv:1905.11946. Layers, initial
values and forward pass are torchvision's; the strides are ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from snp_lib.machine import import_torchvision
from snp_lib.models.from_torchvision import Extracted, Nodes
from snp_lib.models.sites import Family, ImageNetwork, ResidualUnit, require_positive, require_shares

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


class EfficientNet(Extracted):
    """EfficientNet-B0: images (N, C, S, S) to logits (N, num_classes).

    Sites, all maps: ``stem``; of block b ``block{b}.expansion``, the 1×1 convolution that widens (of all blocks but
    the first), and ``block{b}.depthwise``, each after its activation, and ``block{b}``, the 1×1 projection, which has none, with the
    shortcut where there is one. A depthwise filter reads one filter alone, so that connections are a choice in the 1×1 convolutions only.
    """

    config: EfficientNetConfig

    def built(self, cfg: EfficientNetConfig) -> tuple[nn.Module, str, Nodes]:
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
            output = f"{node}.add" if block.use_res_connect else f"{node}.block.{last}"
            nodes[f"block{number}"] = (output, block.block[last][0].out_channels)
        return network, "classifier.1", nodes

    @property
    def matrices(self) -> dict[str, int]:
        """The convolutions of its blocks and the last one, but for depthwise ones."""
        weights = [name for name, p in self.named_parameters() if name.startswith("network.features.") and p.ndim == 4 and p.shape[1] > 1]
        return {name: 1 for name in weights if not name.startswith("network.features.0.")}

    @property
    def residual_units(self) -> list[ResidualUnit]:
        """None: what a block adds to stands at its narrow ends, and where shapes change it adds to nothing."""
        return []

    def before(self, x: Tensor, block: int) -> Tensor:
        return ImageNetwork.before(self, x, block)

    def behind(self, hidden: Tensor, block: int) -> Tensor:
        return ImageNetwork.behind(self, hidden, block)


FAMILY = Family(
    pattern=re.compile(r"efficientnet_b(0)"),
    parts=("variant",),
    config=EfficientNetConfig,
    network=EfficientNet,
    hint="efficientnet_b0",
)
