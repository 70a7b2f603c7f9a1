"""Networks by name: logits, and on request the features at named sites."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from snp_lib.models import alternet, cct, efficientnet, from_torchvision, text, vgg
from snp_lib.models.sites import Family, Network as Network

FAMILIES: list[Family] = [
    cct.FAMILY,
    from_torchvision.VIT,
    from_torchvision.RESNET,
    vgg.FAMILY,
    efficientnet.FAMILY,
    alternet.FAMILY,
    text.FAMILY,
]
"""Every family of networks; one more is one more entry."""


def create_model(name: str, *, num_classes: int, **options: Any) -> Network:
    """Build a network by name, untrained.

    Args:
        name: ``cct_L_PxC``, a CCT of L encoders behind C tokeniser convolutions of P×P pixels, such as ``cct_7_3x1``;
            L = 2, 4, 6, 7, 14 have the published width, heads and mlp_ratio, any other L takes those of CCT-7.
            ``vit_L_pP``, a plain ViT of L encoders on patches of P×P pixels, such as ``vit_12_p2``.
            ``resnetL``, a ResNet of L layers, such as ``resnet18``.
            ``vgg11`` and ``vgg16``, the VGG networks of paper C.
            ``efficientnet_b0``, EfficientNet-B0 with strides for 32 pixels.
            ``alternet_ABCD``, an AlterNet with so many attentions in its four stages, such as ``alternet_0112``.
            ``text_L``, a transformer of L encoders on words, such as ``text_4``; ``vocabulary`` and ``length`` must be given.
        num_classes: number of labels.
        **options: any other field of the family's configuration, such as :class:`snp_lib.models.cct.CCTConfig`.

    Returns:
        A module with ``model(x)`` → logits, ``model(x, sites=[…])`` → (logits, features) and ``model.sites``.

    Raises:
        ValueError: unknown name or invalid value.
        TypeError: unknown option.
    """
    family, config = _configured(name, num_classes, options)
    return family.network(config)


def configuration(name: str, *, num_classes: int, **options: Any) -> Any:
    """The shape of the network that :func:`create_model` builds; arguments and errors are the same."""
    return _configured(name, num_classes, options)[1]


def _configured(name: str, num_classes: int, options: dict[str, Any]) -> tuple[Family, Any]:
    for family in FAMILIES:
        if match := family.pattern.fullmatch(name):
            break
    else:
        raise ValueError(f"unknown model {name!r}; names look like {', '.join(family.hint for family in FAMILIES)}")
    known = [field.name for field in fields(family.config)]
    if unknown := [option for option in options if option not in known]:
        raise TypeError(f"unknown option {unknown[0]!r} for {name}; options are {', '.join(known)}")
    given = {part: int(number) for part, number in zip(family.parts, match.groups(), strict=True)}
    return family, family.config(num_classes=num_classes, **(given | dict(family.defaults(given)) | options))
