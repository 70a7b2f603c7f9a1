"""Networks by name: logits, and on request the features at named sites."""

from __future__ import annotations

import re
from typing import Any

from snp_lib.models.cct import CCT, CCTConfig

__all__ = ["CCT", "CCTConfig", "create_model"]

# L → (width, heads, mlp_ratio), section 4 of the CCT paper and the released code
CCT_SIZES = {2: (128, 2, 1.0), 4: (128, 2, 1.0), 6: (256, 4, 2.0), 7: (256, 4, 2.0), 14: (384, 6, 3.0)}
_CCT_NAME = re.compile(r"cct_([1-9]\d*)_([1-9]\d*)x([1-9]\d*)")


def create_model(name: str, *, num_classes: int, **options: Any) -> CCT:
    """Build a network by name, untrained.

    Args:
        name: ``cct_L_PxC``, a CCT of L encoders behind C tokeniser convolutions of P×P pixels, such as ``cct_7_3x1``.
            L = 2, 4, 6, 7, 14 have the published width, heads and mlp_ratio; any other L takes those of CCT-7.
        num_classes: number of labels.
        **options: any other field of :class:`snp_lib.models.CCTConfig`.

    Returns:
        A module with ``model(x)`` → logits, ``model(x, sites=[…])`` → (logits, features) and ``model.sites``.

    Raises:
        ValueError: unknown name or invalid value.
        TypeError: unknown option.
    """
    match = _CCT_NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"unknown model {name!r}; names look like cct_7_3x1 (encoders, kernel x convolutions)")
    depth, kernel_size, num_convs = (int(part) for part in match.groups())
    embed_dim, num_heads, mlp_ratio = CCT_SIZES.get(depth, CCT_SIZES[7])
    defaults: dict[str, Any] = {
        "depth": depth,
        "kernel_size": kernel_size,
        "num_convs": num_convs,
        "embed_dim": embed_dim,
        "num_heads": num_heads,
        "mlp_ratio": mlp_ratio,
        "image_size": 32 if kernel_size == 3 else 224,
    }
    known = CCTConfig.__dataclass_fields__
    if unknown := [option for option in options if option not in known]:
        raise TypeError(f"unknown option {unknown[0]!r} for {name}; options are {', '.join(known)}")
    return CCT(CCTConfig(num_classes=num_classes, **(defaults | options)))
