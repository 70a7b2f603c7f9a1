"""Training: one loop for every network, data set and device."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from tqdm.auto import tqdm

from snp_lib.data import Dataset, Split
from snp_lib.data.augment import Normalize, random_crop, random_flip
from snp_lib.training import checkpoint as checkpoints
from snp_lib.training.schedules import warmup_cosine


class TrainingError(RuntimeError):
    """The loss is no longer finite. The message names the epoch and the last good checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. Learning rates per step of AdamW; ``crop_padding`` in pixels.

    Raises:
        ValueError: a number out of range.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup_epochs: float = 0.0
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5
    label_smoothing: float = 0.1
    crop_padding: int = 4
    flip: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast, weights stay float32
    eval_every: int = 1  # epochs between test evaluations; the last epoch is always evaluated

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "warmup_epochs", "warmup_lr", "min_lr", "crop_padding"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f'precision must be "float32" or "bfloat16", got {self.precision!r}')


def train(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    fingerprint: str = "",
    checkpoint: Path | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train ``model`` in place and return the history, one row per epoch.

    Everything random in epoch e (order, augmentation, dropout) is a function of (seed, e) alone, so a training that
    was killed and resumed from ``checkpoint`` ends in the same bits on the same CPU and thread count.

    Args:
        fingerprint: identifies the training; a checkpoint with another one is refused.
        checkpoint: file written after every epoch and resumed from when it exists.

    Returns:
        Rows with ``epoch`` (from 1), ``lr``, ``train_loss``, ``train_accuracy`` (on the augmented images, while
        training), ``seconds``, ``images_per_second`` and, where evaluated, ``test_accuracy``; accuracies in [0, 1].

    Raises:
        TrainingError: the loss became NaN or infinite.
        CheckpointError: ``checkpoint`` is damaged or of another training.
        ValueError: fewer training images than one batch.
    """
    if len(dataset.train) < recipe.batch_size:
        raise ValueError(f"batch_size {recipe.batch_size} exceeds the {len(dataset.train)} training images")
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _adamw(model, recipe)
    images, labels = dataset.train.images.to(device), dataset.train.labels.to(device)
    normalize = Normalize(images)
    history: list[dict[str, Any]] = []
    if checkpoint is not None and checkpoint.exists():
        history = checkpoints.load(checkpoint, model, optimizer, fingerprint=fingerprint)
    steps = len(labels) // recipe.batch_size
    bar = tqdm(total=recipe.epochs * steps, initial=len(history) * steps, desc="train", unit="step", disable=not progress, leave=False)
    for epoch in range(len(history), recipe.epochs):
        model.train()
        started = time.perf_counter()
        loss_sum = torch.zeros((), device=device)
        hits = torch.zeros((), device=device, dtype=torch.long)
        lr = 0.0
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(epoch_seed(seed, epoch))
            generator = torch.Generator(device).manual_seed(epoch_seed(seed, epoch))
            for step, batch in enumerate(shuffled_batches(len(labels), recipe.batch_size, generator)):
                lr = warmup_cosine(
                    epoch * steps + step,
                    total=recipe.epochs * steps,
                    warmup=round(recipe.warmup_epochs * steps),
                    peak=recipe.lr,
                    start=recipe.warmup_lr,
                    end=recipe.min_lr,
                )
                for group in optimizer.param_groups:
                    group["lr"] = lr
                x, y = augment(images[batch], recipe, normalize, generator), labels[batch]
                with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                    logits = model(x)
                    loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                loss_sum += loss.detach()
                hits += (logits.detach().argmax(1) == y).sum()
                bar.update()
        seconds = time.perf_counter() - started
        mean_loss = loss_sum.item() / steps
        if not math.isfinite(mean_loss):
            raise TrainingError(
                f"the loss became {mean_loss} in epoch {epoch + 1} (seed {seed}, lr {lr:.3g}). "
                + (f"Last good checkpoint: {checkpoint}. " if checkpoint is not None and history else "")
                + "A smaller learning rate or a longer warm-up usually cures it."
            )
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "lr": lr,
            "train_loss": mean_loss,
            "train_accuracy": hits.item() / (steps * recipe.batch_size),
            "seconds": seconds,
            "images_per_second": steps * recipe.batch_size / seconds,
        }
        if (epoch + 1) % recipe.eval_every == 0 or epoch + 1 == recipe.epochs:
            row["test_accuracy"] = accuracy(predict(model, dataset.test, normalize), dataset.test.labels)
        history.append(row)
        bar.set_postfix({k: f"{row[k]:.3f}" for k in ("train_loss", "test_accuracy") if k in row})
        if checkpoint is not None:
            checkpoints.save(checkpoint, model, optimizer, fingerprint=fingerprint, history=history)
    bar.close()
    model.eval()
    return history


def epoch_seed(seed: int, epoch: int) -> int:
    """One 63-bit seed per (seed, epoch): distinct streams for neighbouring seeds and epochs."""
    return (seed * 1_000_003 + epoch + 1) * 0x9E3779B97F4A7C15 % 2**63


def shuffled_batches(total: int, batch_size: int, generator: torch.Generator) -> Iterator[Int64[Tensor, " b"]]:
    """Indices of one epoch in random order, in full batches; the remainder is left out."""
    order = torch.randperm(total, generator=generator, device=generator.device)
    yield from order[: total // batch_size * batch_size].split(batch_size)


def augment(images: UInt8[Tensor, "n c h w"], recipe: Recipe, normalize: Normalize, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Crop, flip and normalise one batch as the recipe says."""
    if recipe.crop_padding:
        images = random_crop(images, recipe.crop_padding, generator)
    if recipe.flip:
        images = random_flip(images, generator)
    return normalize(images)


@torch.no_grad()
def predict(model: nn.Module, split: Split, normalize: Normalize, *, batch_size: int = 256) -> Float[Tensor, "n classes"]:
    """Logits of every image of the split, in order, in eval mode, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model(normalize(images.to(device))) for images in split.images.split(batch_size)]).cpu()


def accuracy(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]) -> float:
    """Share of images whose largest logit is the label's, in [0, 1]."""
    return (logits.argmax(1) == labels).double().mean().item()


def _adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; biases and normalisation parameters are not decayed, as in the released CCT recipe."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
