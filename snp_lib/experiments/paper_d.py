"""The experiments of paper D beyond those of other files: residual networks with attention at the ends of their stages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snp_lib.experiments.elsewhere import resnet
from snp_lib.experiments.experiment import NEEDS_GPU, Entry, Experiment, Scale


def alternet(scale: Scale, seed: int) -> Experiment:
    """AlterNet: a pre-activation residual network whose stages end with attention.

    Its readouts average every map, as those of ``resnet``.

    - paper: attentions (0, 1, 1, 2) in stages of 3, 4, 6 and 4 blocks, on CIFAR-100, with the recipe
      :data:`snp_lib.training.recipe.PARK_KIM_300`; 84.0 % published (read off a figure), not yet measured here.
    - medium: the same network by :data:`snp_lib.training.recipe.FAST_50`; not yet measured here.
    - smoke: stages of 1, 1, 2 and 2 blocks, of which the last two end with attention, on the bundled digits, seconds.

    Command: ``snp train alternet --scale medium --seeds 0,1,2``.
    """
    base = resnet(scale, seed)
    if scale != "smoke":
        return base.vary("alternet", model="alternet_0112", model_options={})
    digits: dict[str, Any] = {"image_size": 16, "in_channels": 1, "blocks": 1122, "width": 8, "heads": 1, "head_width": 8, "window": 2}
    return base.vary("alternet", model="alternet_0011", model_options=digits)


def alternet_convolutional(scale: Scale, seed: int) -> Experiment:
    """The same without attention, all blocks convolutions: the network that AlterNet is made from; 82.5 % published.

    Command: ``snp train alternet-convolutional --scale medium --seeds 0,1,2``.
    """
    return replace(alternet(scale, seed), name="alternet-convolutional", model="alternet_0000")


def alternet_wide(scale: Scale, seed: int) -> Experiment:
    """The same without attention, as wide as gives it the size of AlterNet: the control of equal size (ours).

    Command: ``snp train alternet-wide --scale medium --seeds 0,1,2``.
    """
    base = alternet_convolutional(scale, seed)
    return base.vary("alternet-wide", model_options=base.model_options | {"width": 7 if scale == "smoke" else 69})


COST: dict[Scale, str] = {"smoke": "half a minute of one core a seed", **NEEDS_GPU}
ENTRIES: dict[str, Entry] = {
    "alternet": Entry(
        build=alternet,
        summary="residual network whose stages end with attention; filters of every block",
        cost=COST,
        published={"paper": "0.840 published"},
    ),
    "alternet-convolutional": Entry(
        build=alternet_convolutional,
        summary="the same with convolutions in place of attention",
        cost=COST,
        published={"paper": "0.825 published"},
    ),
    "alternet-wide": Entry(build=alternet_wide, summary="the same, widened to the size of AlterNet", cost=COST),
}
"""The entries of these experiments in the catalogue."""
