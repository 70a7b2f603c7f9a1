"""From the inputs of a data set to what a network reads: the one place that knows images from tokens."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from snp_lib.data.augment.crops import Normalize, random_crop, random_flip, random_resized_crop
from snp_lib.data.augment.mixing import mix, random_erasing, smoothed
from snp_lib.data.augment.policies import AutoAugment, RandAugment
from snp_lib.training.recipe import Recipe

RATIO = (3 / 4, 4 / 3)  # sides of a resized crop, as in torchvision and timm


@runtime_checkable
class Preparation(Protocol):
    """What happens to a batch of inputs before the network reads it, on the device of the batch."""

    def plain(self, inputs: Tensor) -> Tensor:
        """As the network reads them when it is tested."""

    def augmented(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """As it reads them while it learns, each varied by draws of its own; labels keep their meaning."""

    def mixed(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same with their labels (N,); where the recipe mixes, mixed inputs with soft, smoothed labels (N, K)."""


def preparation(recipe: Recipe, inputs: Tensor, num_classes: int) -> Preparation:
    """The preparation that a recipe names for inputs of this kind.

    Args:
        recipe: which augmentation, and how strongly.
        inputs: all training inputs, bytes for images and 64-bit integers for tokens; their device is that of the batches.
        num_classes: width of soft labels.

    Raises:
        ValueError: another kind of inputs, or a recipe that would augment tokens as if they were images.
    """
    if inputs.dtype == torch.uint8 and inputs.ndim == 4:
        return ImagePreparation(recipe, inputs, num_classes)
    if inputs.dtype == torch.int64 and inputs.ndim == 2:
        return TokenPreparation(recipe)
    raise ValueError(f"inputs must be images (N, C, S, S) as uint8 or tokens (N, T) as int64, got {inputs.dtype}{list(inputs.shape)}")


class ImagePreparation:
    """Crop, flip, policy, normalisation, erasing and mixing of whole batches of images on their device.

    Every image draws parameters of its own. timm's order, except that its crops are drawn per image and its mixing per
    batch.

    Args:
        recipe: which of them, and how strongly.
        train_images: what the mean and the standard deviation are measured on; their device is that of the batches.
        num_classes: width of soft labels.
    """

    def __init__(self, recipe: Recipe, train_images: UInt8[Tensor, "n c h w"], num_classes: int) -> None:
        if recipe.token_dropout:
            raise ValueError("token_dropout is an augmentation of tokens; for images switch it off in the recipe")
        self.recipe, self.num_classes = recipe, num_classes
        self.normalize = make_normalize(recipe, train_images)
        fill = tuple(self.normalize.mean.round().flatten().tolist())
        self.policy = {
            None: None,
            "rand-m9-mstd0.5-inc1": RandAugment(magnitude_std=0.5, increasing=True, fill=fill),
            "rand-m9-n2-mstd1.0": RandAugment(magnitude_std=1.0, increasing=False, fill=fill),
            "autoaugment": AutoAugment(),
        }[recipe.policy]

    def plain(self, inputs: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalised images."""
        normal: Tensor = self.normalize(inputs)
        return normal

    def augmented(self, inputs: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Augmented and normalised images, without mixing: labels keep their meaning."""
        images = inputs if self.recipe.crop_fill is None else self.normalize(inputs)  # then zeros are grey
        if self.recipe.resized_crop is not None:
            images = random_resized_crop(images, (self.recipe.resized_crop, 1.0), RATIO, generator)
        elif self.recipe.crop_padding:
            images = random_crop(images, self.recipe.crop_padding, generator)
        if self.recipe.flip:
            images = random_flip(images, generator)
        if self.policy is not None:
            images = self.policy(images, generator)
        normal: Tensor = self.normalize(images) if self.recipe.crop_fill is None else images.contiguous(memory_format=torch.channels_last)
        if self.recipe.erasing is not None:
            normal = random_erasing(normal, generator, probability=self.recipe.erasing)
        return normal

    def mixed(
        self, inputs: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n c h w"], Int64[Tensor, " n"] | Float[Tensor, "n k"]]:
        """Augmented images with their labels; where the recipe mixes, mixed ones with soft, smoothed labels."""
        images = self.augmented(inputs, generator)
        if not self.recipe.mixes:
            return images, labels
        mixed, shares = mix(
            images,
            labels,
            self.num_classes,
            generator,
            mixup_alpha=self.recipe.mixup or 0.0,
            cutmix_alpha=self.recipe.cutmix or 0.0,
            smoothing=self.recipe.label_smoothing,
        )
        if self.recipe.mixing is None:
            return mixed, shares
        chosen = torch.rand(len(images), generator=generator, device=images.device) < self.recipe.mixing
        smooth = smoothed(labels, self.num_classes, self.recipe.label_smoothing)
        return torch.where(chosen[:, None, None, None], mixed, images), torch.where(chosen[:, None], shares, smooth)


UNKNOWN = 1
"""The token that stands for all that a vocabulary has not; 0 is padding."""


class TokenPreparation:
    """Tokens as they are but for those that the recipe makes unknown while training; nothing is mixed.

    Raises:
        ValueError: a recipe with an augmentation of images.
    """

    def __init__(self, recipe: Recipe) -> None:
        options = ("crop_padding", "resized_crop", "flip", "policy", "mixup", "cutmix", "mixing", "erasing")
        if given := [name for name in options if getattr(recipe, name)]:
            raise ValueError(f"{given[0]} is an augmentation of images; for tokens switch it off in the recipe")
        self.dropped = recipe.token_dropout or 0.0

    def plain(self, inputs: Int64[Tensor, "n t"]) -> Int64[Tensor, "n t"]:
        """The tokens."""
        return inputs

    def augmented(self, inputs: Int64[Tensor, "n t"], generator: torch.Generator) -> Int64[Tensor, "n t"]:
        """The tokens, each but padding replaced by the unknown one with the probability of the recipe."""
        if not self.dropped:
            return inputs
        drawn = torch.rand(inputs.shape, generator=generator, device=inputs.device) < self.dropped
        return torch.where(drawn & (inputs != 0), UNKNOWN, inputs)

    def mixed(
        self, inputs: Int64[Tensor, "n t"], labels: Int64[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Int64[Tensor, "n s"], Int64[Tensor, " n"]]:
        """The same with their labels; on a CPU, where shapes may vary, without the columns that hold padding alone."""
        inputs = self.augmented(inputs, generator)
        return (inputs[:, inputs.any(0)] if inputs.device.type == "cpu" else inputs), labels


def make_normalize(recipe: Recipe, images: UInt8[Tensor, "n c h w"]) -> Normalize:
    """The normalisation of a recipe: measured on the training images given, or to [−1, 1]."""
    if recipe.normalization == "standard":
        return Normalize(images)
    channels = images.shape[1]
    return Normalize.fixed(mean=[127.5] * channels, deviation=[127.5] * channels, device=images.device)
