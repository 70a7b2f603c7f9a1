"""Learning-rate schedules as plain functions of the step."""

from __future__ import annotations

import math

from snp_lib.training.recipe import Recipe


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
