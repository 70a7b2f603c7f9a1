"""Training the way it is usually done: a DataLoader with workers, torchvision transforms per image, a loop in timm's style.

What `training.py` compares this project with. The network is the CCT of vit-pytorch, in the shape asked for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import keeping  # noqa: F401 - makes torchvision importable beside a CPU-only torch, so it comes first

# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image
from vit_pytorch import cct as public_cct

from snp_lib.data import Split
from snp_lib.models.cct import CCTConfig
from snp_lib.training.optim import learning_rate
from snp_lib.training.recipe import Recipe

WORKERS = max(2, (os.cpu_count() or 2) - 2)


class Pictures(Dataset[tuple[Tensor, int]]):
    """A split as PIL images, as torchvision's data sets hand them out."""

    def __init__(self, split: Split, transform: Callable[[object], Tensor]) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(to_pil_image(self.split.inputs[index])), int(self.split.labels[index])


def transform(recipe: Recipe, size: int, mean: list[float], deviation: list[float], train: bool) -> Callable[[object], Tensor]:
    """Crop, flip and policy of a recipe (where it trains), then tensor and normalisation; grey levels in [0, 255]."""
    policies = {
        "autoaugment": transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10),
        "rand-m9-mstd0.5-inc1": transforms.RandAugment(),
    }
    steps: list[object] = []
    if train:
        if recipe.crop_padding:
            steps.append(transforms.RandomCrop(size, recipe.crop_padding))
        if recipe.flip:
            steps.append(transforms.RandomHorizontalFlip())
        if recipe.policy is not None:
            steps.append(policies[recipe.policy])
    steps += [transforms.ToTensor(), transforms.Normalize([m / 255 for m in mean], [d / 255 for d in deviation])]
    composed: Callable[[object], Tensor] = transforms.Compose(steps)
    return composed


def loader(
    split: Split, batch_size: int, prepare: Callable[[object], Tensor], train: bool, device: torch.device
) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        Pictures(split, prepare), batch_size, shuffle=train, drop_last=train, num_workers=WORKERS, persistent_workers=True,
        pin_memory=device.type == "cuda",
    )  # fmt: skip


def network(cfg: CCTConfig) -> nn.Module:
    """vit-pytorch's CCT in the shape of ours; its dropout rates follow the configuration."""
    model: nn.Module = public_cct.CCT(
        img_size=cfg.image_size,
        embedding_dim=cfg.embed_dim,
        n_input_channels=cfg.in_channels,
        n_conv_layers=cfg.num_convs,
        kernel_size=cfg.kernel_size,
        stride=cfg.stride,
        padding=max(1, cfg.kernel_size // 2),
        num_layers=cfg.depth,
        num_heads=cfg.num_heads,
        mlp_ratio=cfg.mlp_ratio,
        num_classes=cfg.num_classes,
        positional_embedding="learnable",
        dropout_rate=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        stochastic_depth_rate=cfg.stochastic_depth,
    )
    return model


def epochs(model: nn.Module, batches: DataLoader[tuple[Tensor, Tensor]], recipe: Recipe, device: torch.device) -> Iterator[float]:
    """Train for ever, one epoch at a time, with the recipe's learning rates; yields the images a second of each epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    step = 0
    while True:
        model.train()
        started, running, images_seen = time.perf_counter(), 0.0, 0
        for images, labels in batches:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, len(batches))
            step += 1
            x, y = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = F.cross_entropy(model(x), y, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            running += loss.item()
            images_seen += len(y)
        yield images_seen / (time.perf_counter() - started)


@torch.no_grad()
def evaluate(model: nn.Module, batches: DataLoader[tuple[Tensor, Tensor]], device: torch.device) -> float:
    """Share of images classified correctly, in [0, 1]."""
    model.eval()
    hits = total = 0
    for images, labels in batches:
        hits += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
        total += len(labels)
    return hits / total
