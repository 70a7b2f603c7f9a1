"""The augmentation a recipe names, as one function of a batch and a generator."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from snp_lib.data.augment import Normalize, random_crop, random_flip
from snp_lib.training.recipe import Recipe


def make_normalize(recipe: Recipe, images: UInt8[Tensor, "n c h w"]) -> Normalize:
    """The normalisation of a recipe: measured on the training images given, or to [−1, 1]."""
    if recipe.normalization == "standard":
        return Normalize(images)
    channels = images.shape[1]
    return Normalize.fixed(mean=[127.5] * channels, deviation=[127.5] * channels, device=images.device)


class Augmentation:
    """Crop, flip, policy and normalisation of whole batches on their device, each image with parameters of its own."""

    def __init__(self, recipe: Recipe, train_images: UInt8[Tensor, "n c h w"], num_classes: int) -> None:
        self.recipe, self.num_classes = recipe, num_classes
        self.normalize = make_normalize(recipe, train_images)

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Augmented and normalised images; labels keep their meaning."""
        if self.recipe.crop_padding:
            images = random_crop(images, self.recipe.crop_padding, generator)
        if self.recipe.flip:
            images = random_flip(images, generator)
        return self.normalize(images)

    def mixed(
        self, images: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n c h w"], Int64[Tensor, " n"] | Float[Tensor, "n k"]]:
        """Augmented images with their labels; mixed images with soft labels where the recipe mixes."""
        return self(images, generator), labels
