"""Optimisers as the recipes name them."""

from __future__ import annotations

import torch
from torch import nn

from snp_lib.training.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe over every parameter of a model; each group's ``scale`` multiplies the recipe's rate.

    - ``adamw``: biases and normalisation parameters are not decayed, as in the released CCT recipe.
    - ``sgd``: with Nesterov momentum; everything is decayed, as in the released code of paper C.

    Raises:
        ValueError: ``head_lr`` for a model without a last linear layer named ``classifier``.
    """
    head: set[int] = set()
    if recipe.head_lr is not None:
        classifier = getattr(model, "classifier", None)
        if not isinstance(classifier, nn.Linear) or not recipe.lr:
            raise ValueError("head_lr needs a model whose last linear layer is named classifier, and an lr above zero")
        head = {id(p) for p in classifier.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for p in model.parameters():
        decay = recipe.weight_decay if recipe.optimizer == "sgd" or p.ndim > 1 else 0.0
        scale = recipe.head_lr / recipe.lr if recipe.head_lr is not None and id(p) in head else 1.0
        groups.setdefault((decay, scale), []).append(p)
    settings = [
        {"params": parameters, "weight_decay": decay, "scale": scale, "lr": recipe.lr * scale}
        for (decay, scale), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=recipe.lr, momentum=recipe.momentum or 0.0, nesterov=bool(recipe.momentum), fused=True)
    return torch.optim.AdamW(settings, lr=recipe.lr, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the rate times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
