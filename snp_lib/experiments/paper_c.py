"""The experiments of paper C: convolutional networks whose filters are read one by one, and whose connections are pruned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snp_lib.experiments.experiment import NEEDS_GPU, Entry, Experiment, Scale
from snp_lib.performance.readout import ReadoutRecipe
from snp_lib.training.recipe import FAST_50, SHORT_VGG_12, VGG_300

SMOKE_VGG_3 = replace(SHORT_VGG_12, epochs=3, batch_size=50, crop_padding=2, flip=False, precision="float32", eval_every=3)
"""For the bundled digits, in seconds; shows that the code runs."""


def vgg11(scale: Scale, seed: int) -> Experiment:
    """The VGG-11 of paper C, ten convolutions and one linear layer: its filters after every convolution.

    The run itself keeps readouts of averaged maps, one number a filter, and no class means of the training split; the paper's
    readouts, on flattened maps, are :class:`snp_lib.results.filters.Filters`.

    - paper: CIFAR-100 by :data:`snp_lib.training.recipe.VGG_300`, the released recipe; no published number can be quoted.
    - medium: the same network by :data:`snp_lib.training.recipe.FAST_50`.
    - small: a quarter of the filters, 12 epochs of CIFAR-100 by :data:`snp_lib.training.recipe.SHORT_VGG_12`, for two CPU cores.
    - smoke: an eighth of the filters, on the bundled digits at 32 pixels, seconds.

    Command: ``snp train vgg11 --scale small --seeds 0,1,2``.
    """
    paper = Experiment(
        name="vgg11",
        scale=scale,
        seed=seed,
        dataset="cifar100",
        model="vgg11",
        recipe=VGG_300,
        readout=ReadoutRecipe(epochs=20, batch_size=128, pooling="mean"),
        lean=True,
    )
    if scale == "paper":
        return paper
    short = replace(paper, readout=ReadoutRecipe(epochs=3, batch_size=128, pooling="mean"))
    if scale == "medium":
        return replace(short, recipe=FAST_50)
    if scale == "small":
        return replace(short, model_options={"narrowing": 4}, recipe=SHORT_VGG_12)
    digits: dict[str, Any] = {"narrowing": 8, "in_channels": 1}
    few = ReadoutRecipe(epochs=2, batch_size=64, pooling="mean")
    return replace(paper, dataset="digits", dataset_size=32, model_options=digits, recipe=SMOKE_VGG_3, readout=few)


def vgg16(scale: Scale, seed: int) -> Experiment:
    """The VGG-16 of paper C, thirteen convolutions and three linear layers with nothing between them, in the way of :func:`vgg11`.

    Command: ``snp train vgg16 --scale medium --seeds 0,1,2``.
    """
    base = vgg11(scale, seed)
    return base.vary("vgg16", model="vgg16", model_options=base.model_options | ({"hidden": 512} if scale == "smoke" else {}))


def efficientnet(scale: Scale, seed: int) -> Experiment:
    """EfficientNet-B0 at 32 pixels: its expansions, depthwise convolutions and blocks, read after the mean over each map.

    The setting is ours: the paper's is unknown. At the published strides the last stages would see one pixel of a 32-pixel image, so
    the stem and the first stage that halves the map keep its size; the recipe is the VGG's with one rate for all layers.

    - paper, medium: B0 on CIFAR-100, by the recipes of ``vgg11``.
    - smoke: an eighth of its filters, one block a stage, on the bundled digits at 16 pixels.

    Command: ``snp train efficientnet-b0 --scale medium --seeds 0``.
    """
    base = vgg11(scale, seed).vary("efficientnet-b0", model="efficientnet_b0", model_options={})
    if scale == "paper":
        return replace(base, recipe=replace(VGG_300, head_lr=None, head_constant=None))
    if scale == "medium":
        return base
    digits: dict[str, Any] = {"image_size": 16, "in_channels": 1, "narrowing": 8, "depth_share": 0.3}
    return replace(base, dataset_size=16, model_options=digits, recipe=replace(SMOKE_VGG_3, epochs=1, eval_every=1))


COST: dict[Scale, str] = {
    "smoke": "half a minute of one core a seed",
    "small": "10 minutes of one core a seed with its readouts",
    **NEEDS_GPU,
}
ENTRIES: dict[str, Entry] = {
    "vgg11": Entry(build=vgg11, summary="ten convolutions and one linear layer of paper C; filters of every layer", cost=COST),
    "vgg16": Entry(build=vgg16, summary="thirteen convolutions and three linear layers of paper C", cost=COST),
    "efficientnet-b0": Entry(
        build=efficientnet,
        summary="EfficientNet-B0 of torchvision at 32 pixels; filters of every block",
        cost={"smoke": "half a minute of one core a seed", **NEEDS_GPU},
    ),
}
"""The entries of these experiments in the catalogue."""
