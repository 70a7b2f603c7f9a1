"""Optimisers and learning-rate schedules as the recipes name them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snp_lib.training.muon import Muon
from snp_lib.training.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe, *, capturable: bool = False) -> torch.optim.Optimizer:
    """The optimiser of a recipe over every parameter of a model; see :func:`set_rate` for the rate of each group.

    - ``adamw``: biases and normalisation parameters are not decayed, as in the released CCT recipe.
    - ``sgd``: with Nesterov momentum; everything is decayed, as in the released code of paper C.
    - ``muon``: for the ``matrices`` that the network names; all else by AdamW with ``adam_lr`` and ``adam_weight_decay``.

    Args:
        capturable: rates are tensors beside the parameters, so that a step can be recorded as a CUDA graph.

    Raises:
        ValueError: ``head_lr`` for a model without a last linear layer named ``classifier``; ``muon`` for one without matrices.
    """
    matrices: Mapping[str, int] = getattr(model, "matrices", {}) if recipe.optimizer == "muon" else {}
    if recipe.optimizer == "muon" and not matrices:
        raise ValueError(f"muon steps along matrices, and {type(model).__name__} names none: give it the property matrices, or use adamw")
    head: set[int] = set()
    if recipe.head_lr is not None:
        classifier = getattr(model, "classifier", None)
        if not isinstance(classifier, nn.Linear) or not recipe.lr:
            raise ValueError("head_lr needs a model whose last linear layer is named classifier, and an lr above zero")
        head = {id(p) for p in classifier.parameters()}
    groups: dict[tuple[float, float, int, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        decay = recipe.weight_decay if recipe.optimizer == "sgd" or p.ndim > 1 else 0.0
        scale = recipe.head_lr / recipe.lr if recipe.head_lr is not None and id(p) in head else 1.0
        if recipe.optimizer == "muon" and name not in matrices:
            decay, scale = (recipe.adam_weight_decay or 0.0) if p.ndim > 1 else 0.0, (recipe.adam_lr or 0.0) / recipe.lr
        constant = bool(recipe.head_constant) and id(p) in head
        groups.setdefault((decay, scale, matrices.get(name, 0), constant), []).append(p)
    device = next(model.parameters()).device

    def rate(scale: float) -> float | Tensor:
        return torch.tensor(recipe.lr * scale, device=device) if capturable else recipe.lr * scale

    settings: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "scale": scale, "lr": rate(scale)}
        | ({"parts": parts} if parts else {})
        | ({"constant": recipe.head_lr} if constant else {})
        for (decay, scale, parts, constant), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=recipe.lr, momentum=recipe.momentum or 0.0, nesterov=bool(recipe.momentum), fused=True)
    if recipe.optimizer == "muon":
        return Muon(settings, lr=recipe.lr, betas=(0.9, 0.95), fused=True, capturable=capturable)
    return torch.optim.AdamW(settings, lr=recipe.lr, fused=True, capturable=capturable)


def set_rate(optimizer: torch.optim.Optimizer, rate: float | Tensor) -> None:
    """Give every group the rate times its ``scale``, or its ``constant`` rate; one that is a tensor keeps its memory."""
    for group in optimizer.param_groups:
        lr = group.get("constant", rate * group["scale"])
        if isinstance(group["lr"], Tensor) and isinstance(lr, Tensor):
            group["lr"].copy_(lr)
        elif isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def warmup_cosine(step: int, *, total: int, warmup: int, peak: float, start: float = 1e-6, end: float = 1e-5, cooldown: int = 0) -> float:
    """Linear from ``start`` to ``peak`` over ``warmup`` steps, half a cosine down to ``end``, there for ``cooldown`` steps.

    The schedule of the CCT recipes (arXiv:2104.05704, released configurations), per step instead of per epoch.
    """
    if step < warmup:
        return start + (peak - start) * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - cooldown - warmup))
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress))


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of a recipe at a step; ``steps`` is the number of steps an epoch has."""
    if recipe.schedule == "step":
        return recipe.lr * (recipe.step_factor or 1.0) ** (step // steps // (recipe.step_epochs or recipe.epochs))
    return warmup_cosine(
        step,
        total=recipe.epochs * steps,
        warmup=round(recipe.warmup_epochs * steps),
        peak=recipe.lr,
        start=recipe.warmup_lr,
        end=min(recipe.min_lr, recipe.lr),
        cooldown=round((recipe.cooldown_epochs or 0) * steps),
    )
