"""Networks by name: logits, and on request the features at named sites."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from snp_lib.models.cct import CCT, CCTConfig
from snp_lib.models.extracted import Extracted, ResNetConfig, ViTConfig

__all__ = ["CCT", "CCTConfig", "Config", "Extracted", "Network", "ResNetConfig", "ViTConfig", "configuration", "create_model"]

Config = CCTConfig | ViTConfig | ResNetConfig
"""The shape of a network, one class for each family."""

Network = CCT | Extracted
"""What :func:`create_model` returns: ``model(x)`` → logits, ``model(x, sites=[…])`` → (logits, features), ``model.sites``."""

# L → (width, heads, mlp_ratio), section 4 of the CCT paper and the released code
CCT_SIZES = {2: (128, 2, 1.0), 4: (128, 2, 1.0), 6: (256, 4, 2.0), 7: (256, 4, 2.0), 14: (384, 6, 3.0)}
_NAMES: dict[type[Config], tuple[re.Pattern[str], tuple[str, ...]]] = {
    CCTConfig: (re.compile(r"cct_([1-9]\d*)_([1-9]\d*)x([1-9]\d*)"), ("depth", "kernel_size", "num_convs")),
    ViTConfig: (re.compile(r"vit_([1-9]\d*)_p([1-9]\d*)"), ("depth", "patch_size")),
    ResNetConfig: (re.compile(r"resnet([1-9]\d*)"), ("layers",)),
}  # configuration → names of that family, and the fields that the numbers in a name give


def create_model(name: str, *, num_classes: int, **options: Any) -> Network:
    """Build a network by name, untrained.

    Args:
        name: ``cct_L_PxC``, a CCT of L encoders behind C tokeniser convolutions of P×P pixels, such as ``cct_7_3x1``;
            L = 2, 4, 6, 7, 14 have the published width, heads and mlp_ratio, any other L takes those of CCT-7.
            ``vit_L_pP``, a plain ViT of L encoders on patches of P×P pixels, such as ``vit_12_p2``.
            ``resnetL``, a ResNet of L layers, such as ``resnet18``.
        num_classes: number of labels.
        **options: any other field of :class:`snp_lib.models.CCTConfig`, :class:`snp_lib.models.ViTConfig` or
            :class:`snp_lib.models.ResNetConfig`.

    Returns:
        A module with ``model(x)`` → logits, ``model(x, sites=[…])`` → (logits, features) and ``model.sites``.

    Raises:
        ValueError: unknown name or invalid value.
        TypeError: unknown option.
    """
    config = configuration(name, num_classes=num_classes, **options)
    return CCT(config) if isinstance(config, CCTConfig) else Extracted(config)


def configuration(name: str, *, num_classes: int, **options: Any) -> Config:
    """The shape of the network that :func:`create_model` builds; arguments and errors are the same."""
    found = [
        (config, zip(parts, match.groups(), strict=True))
        for config, (pattern, parts) in _NAMES.items()
        if (match := pattern.fullmatch(name))
    ]
    if not found:
        raise ValueError(
            f"unknown model {name!r}; names look like cct_7_3x1 (encoders, kernel x convolutions), vit_12_p2 (encoders, patch) "
            "or resnet18 (layers)"
        )
    config, numbers = found[0]
    known = [field.name for field in fields(config)]
    if unknown := [option for option in options if option not in known]:
        raise TypeError(f"unknown option {unknown[0]!r} for {name}; options are {', '.join(known)}")
    given: dict[str, Any] = {part: int(number) for part, number in numbers}
    if config is CCTConfig:
        embed_dim, num_heads, mlp_ratio = CCT_SIZES.get(given["depth"], CCT_SIZES[7])
        given |= {"embed_dim": embed_dim, "num_heads": num_heads, "mlp_ratio": mlp_ratio}
        given["image_size"] = 32 if given["kernel_size"] == 3 else 224
    return config(num_classes=num_classes, **(given | options))
