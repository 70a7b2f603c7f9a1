"""The augmentation a recipe names, as one function of a batch and a generator."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from snp_lib.data.augment import Normalize, random_crop, random_flip, random_resized_crop
from snp_lib.data.mixing import mix, random_erasing
from snp_lib.data.policies import AutoAugment, RandAugment
from snp_lib.training.recipe import Recipe

RATIO = (3 / 4, 4 / 3)  # sides of a resized crop, as in torchvision and timm


class Augmentation:
    """Crop, flip, policy, normalisation, erasing and mixing of whole batches on their device.

    Every image draws parameters of its own. timm's order, except that its crops are drawn per image and its mixing per
    batch.

    Args:
        recipe: which of them, and how strongly.
        train_images: what the mean and the standard deviation are measured on; their device is that of the batches.
        num_classes: width of soft labels.
    """

    def __init__(self, recipe: Recipe, train_images: UInt8[Tensor, "n c h w"], num_classes: int) -> None:
        self.recipe, self.num_classes = recipe, num_classes
        self.normalize = make_normalize(recipe, train_images)
        fill = tuple(self.normalize.mean.round().flatten().tolist())
        self.policy = {
            None: None,
            "rand-m9-mstd0.5-inc1": RandAugment(magnitude_std=0.5, increasing=True, fill=fill),
            "rand-m9-n2-mstd1.0": RandAugment(magnitude_std=1.0, increasing=False, fill=fill),
            "autoaugment": AutoAugment(),
        }[recipe.policy]

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Augmented and normalised images, without mixing: labels keep their meaning."""
        if self.recipe.resized_crop is not None:
            images = random_resized_crop(images, (self.recipe.resized_crop, 1.0), RATIO, generator)
        elif self.recipe.crop_padding:
            images = random_crop(images, self.recipe.crop_padding, generator)
        if self.recipe.flip:
            images = random_flip(images, generator)
        if self.policy is not None:
            images = self.policy(images, generator)
        normal = self.normalize(images)
        if self.recipe.erasing is not None:
            normal = random_erasing(normal, generator, probability=self.recipe.erasing)
        return normal

    def mixed(
        self, images: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n c h w"], Int64[Tensor, " n"] | Float[Tensor, "n k"]]:
        """Augmented images with their labels; where the recipe mixes, mixed ones with soft, smoothed labels."""
        if not self.recipe.mixes:
            return self(images, generator), labels
        return mix(
            self(images, generator),
            labels,
            self.num_classes,
            generator,
            mixup_alpha=self.recipe.mixup or 0.0,
            cutmix_alpha=self.recipe.cutmix or 0.0,
            smoothing=self.recipe.label_smoothing,
        )


def make_normalize(recipe: Recipe, images: UInt8[Tensor, "n c h w"]) -> Normalize:
    """The normalisation of a recipe: measured on the training images given, or to [−1, 1]."""
    if recipe.normalization == "standard":
        return Normalize(images)
    channels = images.shape[1]
    return Normalize.fixed(mean=[127.5] * channels, deviation=[127.5] * channels, device=images.device)
