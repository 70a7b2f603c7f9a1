"""The experiments of *Does it hold elsewhere?*: networks that the papers did not measure in this way."""

from __future__ import annotations

from dataclasses import replace

from snp_lib.experiments.experiment import NEEDS_GPU, Entry, Experiment, Scale
from snp_lib.performance.readout import ReadoutRecipe
from snp_lib.training.recipe import FAST_50, PARK_KIM_300, SHORT_8, SMOKE_8


def vit(scale: Scale, seed: int) -> Experiment:
    """A plain vision transformer, torchvision's, without the convolutions of a CCT: its nodes at every encoder.

    - paper: the ViT-Ti of Park and Kim (arXiv:2202.06709) on CIFAR-100, twelve encoders of width 192 with three heads on
      patches of 2×2 pixels and their recipe :data:`snp_lib.training.recipe.PARK_KIM_300`, but with torchvision's bias of queries,
      keys and values and without stochastic depth; 66.5 % published for theirs (read off a figure), not yet measured here.
    - medium: the same network by :data:`snp_lib.training.recipe.FAST_50`.
    - small: four encoders of width 96 with three heads on 64 patches and a class token, 8 epochs of CIFAR-100; recipe and
      readouts of ``cct`` small, which trains for 16.
    - smoke: three encoders of width 48 on 16 patches of the bundled digits, seconds.

    Command: ``snp train vit --scale small --seeds 0,1,2``.
    """
    paper = Experiment(
        name="vit",
        scale=scale,
        seed=seed,
        dataset="cifar100",
        model="vit_12_p2",
        recipe=PARK_KIM_300,
        readout=ReadoutRecipe(epochs=20, batch_size=128),
    )
    if scale == "paper":
        return paper
    short = replace(paper, recipe=SHORT_8, readout=ReadoutRecipe(epochs=3, batch_size=128))
    if scale == "medium":
        return replace(short, recipe=FAST_50)
    if scale == "small":
        return replace(short, model="vit_4_p4", model_options={"embed_dim": 96, "mlp_ratio": 2.0})
    digits = {"image_size": 16, "in_channels": 1, "embed_dim": 48, "mlp_ratio": 2.0}
    few = ReadoutRecipe(epochs=4, batch_size=64)
    return replace(paper, dataset="digits", dataset_size=16, model="vit_3_p4", model_options=digits, recipe=SMOKE_8, readout=few)


def resnet(scale: Scale, seed: int) -> Experiment:
    """A residual convolutional network, torchvision's: its filters after the stem and after every residual block.

    Its readouts average every map, as its own head does: a filter then has one weight per label at every depth.

    - paper: ResNet-18 with a 3×3 stem on CIFAR-100, the recipe :data:`snp_lib.training.recipe.PARK_KIM_300`; not yet measured here.
    - medium: the same network by :data:`snp_lib.training.recipe.FAST_50`.
    - small: ResNet-12, one block of 64 filters, two of 128 and two of 256 behind a stem of stride 2, 8 epochs of CIFAR-100;
      recipe and readouts of ``cct`` small, which trains for 16.
    - smoke: ResNet-8, one block a stage, on the bundled digits, seconds.

    Command: ``snp train resnet --scale small --seeds 0,1,2``.
    """
    paper = vit("paper", seed).vary(
        "resnet", scale=scale, model="resnet18", readout=ReadoutRecipe(epochs=20, batch_size=128, pooling="mean")
    )
    if scale == "paper":
        return paper
    short = replace(paper, recipe=SHORT_8, readout=ReadoutRecipe(epochs=3, batch_size=128, pooling="mean"))
    if scale == "medium":
        return replace(short, recipe=FAST_50)
    if scale == "small":
        return replace(short, model="resnet12", model_options={"stem_stride": 2})
    digits = {"image_size": 16, "in_channels": 1, "stem_stride": 2}
    recipe, few = replace(SMOKE_8, epochs=6), ReadoutRecipe(epochs=4, batch_size=64, pooling="mean")
    return replace(paper, dataset="digits", dataset_size=16, model="resnet8", model_options=digits, recipe=recipe, readout=few)


COST: dict[Scale, str] = {
    "smoke": "half a minute of one core a seed",
    "small": "17 minutes of one core a seed with its readouts",
    **NEEDS_GPU,
}
ENTRIES: dict[str, Entry] = {
    "vit": Entry(
        build=vit,
        summary="plain vision transformer of torchvision; nodes of every encoder",
        cost=COST,
        published={"paper": "0.665 published"},
    ),
    "resnet": Entry(build=resnet, summary="residual network of torchvision; filters of every block", cost=COST),
}
"""The entries of these experiments in the catalogue."""
