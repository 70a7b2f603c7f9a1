"""How pruned networks of a run are fine-tuned, and at which rate: chosen on training images that the choice holds out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from snp_lib.data import Dataset, Split
from snp_lib.experiments import Experiment, Scale
from snp_lib.pruning import finetune, prune, shared_logits
from snp_lib.results.arms import masks_of
from snp_lib.results.setting import Measurement, Setting
from snp_lib.store import Run
from snp_lib.store.derived import Arrays
from snp_lib.training.prediction import accuracy
from snp_lib.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How pruned networks are fine-tuned: the run's own recipe, shorter; the same for every arm (defined here).

    Raises:
        ValueError: a number out of range.
    """

    epochs: int = 1  # 0: only what pruning does before any fine-tuning
    images: int | None = None  # of the training split, drawn by the seed of the run; None: all
    lr_share: float | None = 1.0  # peak learning rate over that of the run; None: chosen, see :class:`Rate`
    warmup: float = 0.1  # epochs

    def __post_init__(self) -> None:
        if (
            self.epochs < 0
            or (self.lr_share is not None and self.lr_share <= 0)
            or self.warmup < 0
            or (self.images is not None and self.images < 1)
        ):
            raise ValueError(f"epochs and warmup must not be negative, lr_share and images must be positive, got {self}")

    def recipe(self, trained_with: Recipe, lr_share: float) -> Recipe:
        """The recipe of the fine-tuning of a run, its peak rates so much of those of the training."""
        rates = {name: getattr(trained_with, name) for name in ("lr", "adam_lr", "head_lr")}
        scaled: dict[str, Any] = {name: None if rate is None else rate * lr_share for name, rate in rates.items()}
        return replace(trained_with, epochs=self.epochs, warmup_epochs=self.warmup, cooldown_epochs=None, eval_every=self.epochs, **scaled)

    def dataset(self, whole: Dataset, seed: int) -> Dataset:
        """The data set with as many training images; raises ValueError where there are fewer."""
        if self.images is None:
            return whole
        if self.images > len(whole.train):
            raise ValueError(f"{self.images} images to fine-tune on, but {whole.name} has {len(whole.train)} for training")
        return replace(whole, train=_chosen(whole.train, _order(whole.train, seed)[: self.images]))


def _order(split: Split, seed: int) -> Int64[Tensor, " n"]:
    """The inputs of a split in the random order of a run."""
    return torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))


def _chosen(split: Split, index: Int64[Tensor, " n"]) -> Split:
    return Split(split.inputs[index], split.labels[index])


TUNING: dict[Scale, FineTuning] = {
    "smoke": FineTuning(),
    "small": FineTuning(images=20_000),
    "medium": FineTuning(lr_share=None),
    "paper": FineTuning(epochs=3, lr_share=0.3),
}
"""The fine-tuning of each scale; that of ``small`` is 156 steps of the 6,240 of the training, that of ``medium`` 195 of 9,750."""

FLOWERS_TUNING: dict[Scale, FineTuning] = {
    "smoke": FineTuning(),
    "small": FineTuning(epochs=10, warmup=1),
    "medium": FineTuning(epochs=10, warmup=1),
    "paper": FineTuning(epochs=30, warmup=1, lr_share=0.3),
}
"""The same for Flowers-102, where an epoch of 1,020 photographs is a few steps."""


def tuning_of(experiment: Experiment) -> FineTuning:
    """The fine-tuning of a run, unless another is asked for."""
    return (FLOWERS_TUNING if experiment.dataset.startswith("flowers102") else TUNING)[experiment.scale]


SHARES = (0.1, 0.3, 1.0)
"""Rates that are tried, over that of the training."""

HELD_OUT = 0.1
"""Share of the training inputs that the choice of a rate is made on."""

JUDGES: tuple[tuple[str, float], ...] = (("dense", 0.0), ("andc", 0.5), ("magnitude", 0.5))
"""Arms with their θ whose mean accuracy decides, the intact network, the method and a control."""


@dataclass(frozen=True, kw_only=True)
class Rate(Measurement):
    """Accuracy on held-out training inputs after fine-tuning at several rates; the best one serves every arm (defined here).

    Arrays by name: ``shares`` (share,) of the peak rate of the training; ``accuracy`` (share, arm) in [0, 1], on inputs that
    were left out of this fine-tuning, in the order of ``JUDGES``.

    Attributes:
        tuning: everything but the rate.
    """

    tuning: FineTuning

    @property
    def what(self) -> str | None:
        return "pruning"

    def name(self, run: Run) -> str:
        return f"pruning-rate-{self.tuning.epochs}"

    def options(self, run: Run) -> dict[str, Any]:
        return {"tuning": asdict(self.tuning), "shares": list(SHARES), "held out": HELD_OUT, "judges": [list(arm) for arm in JUDGES]}

    def compute(self, setting: Setting) -> Arrays:
        run, model, whole = setting.run, setting.network, setting.dataset
        seed = run.experiment.seed
        order, left_out = _order(whole.train, seed), round(HELD_OUT * len(whole.train))
        held_out, rest = _chosen(whole.train, order[:left_out]), replace(whole, train=_chosen(whole.train, order[left_out:]))
        rest = self.tuning.dataset(rest, seed)
        masks = {arm: masks_of(run, arm, theta, model) for arm, theta in JUDGES}
        rows = []
        for share in SHARES:
            networks = {arm: prune(model, each) for arm, each in masks.items()}
            recipe = self.tuning.recipe(run.experiment.recipe, share)
            finetune(model, networks, masks, rest, recipe, encoder=1, seed=seed, progress=setting.progress)
            options: dict[str, Any] = {"encoder": 1, "bfloat16": setting.bfloat16, "progress": setting.progress}
            logits = shared_logits(model, networks, held_out, setting.prepare, **options)
            rows.append([accuracy(each, held_out.labels) for each in logits.values()])
        return {"shares": np.array(SHARES), "accuracy": np.array(rows)}

    def best(self, arrays: Arrays) -> float:
        """The share with the highest mean accuracy over the arms; the smallest of several."""
        return float(arrays["shares"][arrays["accuracy"].mean(axis=1).argmax()])
