"""Pruning of a finished run by every arm at every density, before and after fine-tuning, kept with the run."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch

from snp_lib import data, making
from snp_lib.data import Dataset, Split
from snp_lib.derived import Arrays, derived
from snp_lib.experiments import Experiment, Scale
from snp_lib.models import CCT
from snp_lib.performance import binarize, diagonal_sets
from snp_lib.pruning import (
    Masks,
    Sets,
    andc,
    density,
    finetune,
    macs,
    magnitude,
    prune,
    random_clusters,
    shared_logits,
    shuffled,
)
from snp_lib.pruning.finetune import parameters_before
from snp_lib.store import Run
from snp_lib.training import Recipe
from snp_lib.training.augmentation import make_normalize
from snp_lib.training.loop import accuracy, top_accuracy, uses_bfloat16

Arm = Literal["andc", "random clusters", "magnitude", "shuffled", "fresh", "dense"]
ARMS: tuple[Arm, ...] = get_args(Arm)
COSTS = ("dense", "kept", "compact", "blocks")


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How pruned networks are fine-tuned: the run's own recipe, shorter; the same for every arm (defined here).

    Raises:
        ValueError: a number out of range.
    """

    epochs: int = 1  # 0: only what pruning does before any fine-tuning
    images: int | None = None  # of the training split, drawn by the seed of the run; None: all
    lr_share: float = 1.0  # peak learning rate over that of the run
    warmup: float = 0.1  # epochs

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.lr_share <= 0 or self.warmup < 0 or (self.images is not None and self.images < 1):
            raise ValueError(f"epochs and warmup must not be negative, lr_share and images must be positive, got {self}")

    def recipe(self, trained_with: Recipe) -> Recipe:
        """The recipe of the fine-tuning of a run."""
        lr = trained_with.lr * self.lr_share
        return replace(trained_with, epochs=self.epochs, lr=lr, warmup_epochs=self.warmup, eval_every=self.epochs)

    def dataset(self, whole: Dataset, seed: int) -> Dataset:
        """The data set with as many training images; raises ValueError where there are fewer."""
        if self.images is None:
            return whole
        if self.images > len(whole.train):
            raise ValueError(f"{self.images} images to fine-tune on, but {whole.name} has {len(whole.train)} for training")
        chosen = torch.randperm(len(whole.train), generator=torch.Generator().manual_seed(seed))[: self.images]
        return replace(whole, train=Split(whole.train.images[chosen], whole.train.labels[chosen]))


THETAS: dict[Scale, tuple[float, ...]] = {
    "smoke": (0.3, 0.5, 0.7),
    "small": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "medium": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "paper": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
}
"""The thresholds of each scale, which set the densities."""

TUNING: dict[Scale, FineTuning] = {
    "smoke": FineTuning(),
    "small": FineTuning(images=20_000),
    "medium": FineTuning(images=20_000),
    "paper": FineTuning(epochs=3, lr_share=0.3),
}
"""The fine-tuning of each scale; that of ``small`` and ``medium`` is 156 steps of the 6,240 of the training."""

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


def masks_of(run: Run, arm: Arm, theta: float, model: CCT, *, encoder: int | None = None, classifier: bool = True) -> Masks:
    """The masks of an arm on a run: those of ANDC at θ, or a control with as many weights in every layer.

    Everything is decided on the training split. ``fresh`` has the masks of ANDC (on weights drawn anew), ``dense`` none.

    Args:
        model: the network of the run; only ``magnitude`` looks at its weights.
        encoder: the only one pruned, counted from 1, and with the last one the classifier; None: all and the classifier.
        classifier: whether the classifier is pruned with the last encoder.

    Raises:
        ValueError: unknown arm or encoder.
    """
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}; there are {', '.join(ARMS)}")
    if arm == "dense":
        return {}
    sets = _sets(run, theta)
    encoders = None if encoder is None else [encoder]
    method = andc(sets, model, encoders=encoders, classifier=classifier and encoder in (None, model.config.depth))
    seed = run.experiment.seed
    if arm == "random clusters":
        return random_clusters(sets, model, method, seed=seed)
    if arm == "magnitude":
        return magnitude(model, method)
    return shuffled(method, seed=seed) if arm == "shuffled" else method


def pruning(
    run: Run,
    arm: Arm,
    *,
    encoder: int | None = None,
    classifier: bool = True,
    thetas: Sequence[float] | None = None,
    tuning: FineTuning | None = None,
    device: str = "auto",
    refresh: bool = False,
    progress: bool = True,
) -> Arrays:
    """Accuracy on the test split of the pruned run before and after fine-tuning, and what is left of it, at every θ.

    Fine-tuned is everything from the pruned encoder on (all encoders: everything but the tokeniser), the same for every
    arm; ``fresh`` starts there from weights drawn anew, ``dense`` is the intact network under the same fine-tuning.

    Args:
        encoder, classifier: as for :func:`masks_of`.
        thetas: thresholds of the diagonal sets, which set the density; ``dense`` has one result for all. None: those of
            the scale, see ``THETAS``.
        tuning: None: see :func:`tuning_of`.

    Returns:
        Arrays by name. ``thetas`` (θ,); ``density`` (θ, layer), of every pruned layer, and ``total`` (θ,) of all of them;
        ``before`` and ``after`` (θ, 2), top-1 and top-5 accuracy in [0, 1] (``after`` only where there is fine-tuning);
        ``macs`` (θ, 4) of the pruned layers as they are named in ``COSTS``.

    Raises:
        ValueError: unknown arm or encoder.
        StoreError: the weights of the run are not here, or what is stored is damaged.
    """
    tuning = tuning or tuning_of(run.experiment)
    thetas = (0.0,) if arm == "dense" else tuple(thetas or THETAS[run.experiment.scale])
    options = {"arm": arm, "encoder": encoder, "thetas": list(thetas), "tuning": asdict(tuning)}
    where = "all" if encoder is None else f"{encoder}"
    if not classifier:  # a new option changes nothing that was measured without it
        options["classifier"], where = False, f"{where}-ff"
    name = f"pruning-{where}-{arm.replace(' ', '-')}-{tuning.epochs}"
    compute = functools.partial(_prune, run, arm, encoder, classifier, thetas, tuning, device, progress)
    return derived(run, name, options, compute, refresh=refresh)


def _prune(
    run: Run,
    arm: Arm,
    encoder: int | None,
    classifier: bool,
    thetas: Sequence[float],
    tuning: FineTuning,
    device: str,
    progress: bool,
) -> Mapping[str, Any]:
    place = making.choose_device(device)
    dataset = data.load(run.experiment.dataset, size=run.experiment.dataset_size, progress=progress)
    model, start = run.transformer().to(place), encoder or 1
    if not 1 <= start <= model.config.depth:
        raise ValueError(f"no encoder {encoder} to prune: this model has encoders 1 to {model.config.depth}")
    masks = {f"{theta:g}": masks_of(run, arm, theta, model, encoder=encoder, classifier=classifier) for theta in thetas}
    begin = _fresh_behind(run, model, start) if arm == "fresh" else model
    networks = {name: prune(begin, each) for name, each in masks.items()}
    bfloat16 = uses_bfloat16(run.experiment.recipe.precision, place)
    normalize = make_normalize(run.experiment.recipe, dataset.train.images.to(place))

    def accuracies() -> np.ndarray:
        found = shared_logits(model, networks, dataset.test, normalize, encoder=start, bfloat16=bfloat16, progress=progress)
        labels = dataset.test.labels
        return np.array([[accuracy(logits, labels), top_accuracy(logits, labels, 5)] for logits in found.values()])

    densities = [density(each) for each in masks.values()]
    costs = [macs(model, each)["total"] for each in masks.values()]
    arrays = {
        "thetas": np.array(thetas),
        "density": np.array([[found[name] for name in each] for found, each in zip(densities, masks.values(), strict=True)]),
        "total": np.array([found["total"] for found in densities]),
        "macs": np.array([[getattr(cost, name) for name in COSTS] for cost in costs]),
        "before": accuracies(),
    }
    if tuning.epochs:
        recipe, seed = tuning.recipe(run.experiment.recipe), run.experiment.seed
        finetune(model, networks, masks, tuning.dataset(dataset, seed), recipe, encoder=start, seed=seed, progress=progress)
        arrays["after"] = accuracies()
    return arrays


def _sets(run: Run, theta: float) -> Sets:
    """Labels that every node recognises on the training split: test labels must not decide what is pruned."""
    return {site: diagonal_sets(binarize(run.matrices(site, split="train"), theta)) for site in run.sites}


def _fresh_behind(run: Run, model: CCT, encoder: int) -> CCT:
    """The network with all weights from an encoder on as a seed initialises them, another than that of the training."""
    other = replace(run.experiment, seed=run.experiment.seed + 1000)
    drawn: CCT = making.initial_model(other, len(run.class_names))
    drawn.load_state_dict(drawn.state_dict() | parameters_before(model, encoder))
    return drawn.to(next(model.parameters()).device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]
