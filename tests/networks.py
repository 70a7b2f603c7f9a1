"""Small networks with residual units, weights far from their small initial values, for the tests of what measures them."""

from __future__ import annotations

from typing import Any

import torch

from snp_lib.models import create_model
from snp_lib.models.sites import Network

SHAPES: dict[str, dict[str, Any]] = {
    "cct_2_3x1": {"embed_dim": 12, "num_heads": 3},
    "vit_2_p2": {"embed_dim": 12, "num_heads": 3, "mlp_ratio": 2.0},
    "resnet8": {},
}
"""One of each family, by name, for images of the digits."""


@torch.no_grad()
def lively(name: str, **options: Any) -> Network:
    """One of them, in eval mode; its batch statistics are neither 0 nor 1."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, image_size=8, in_channels=1, **(SHAPES[name] | options))
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for buffer in (b for b in model.buffers() if b.is_floating_point()):
        buffer.add_(torch.rand_like(buffer))
    return model.eval()
