"""How much feature maps vary over positions.

Source: Park and Kim, arXiv:2202.06709, figure 9, and their released notebook, here in eval mode.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def spatial_variance(maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1"]:
    """Unbiased variance over the positions of a map, mean over channels."""
    return maps.flatten(2).var(2).mean(1, keepdim=True)
