"""Pruning of a finished run by every arm at every density, before and after fine-tuning: kept with the run, and as tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from snp_lib.data import Dataset, Split
from snp_lib.experiments import Experiment, Scale, initial_model
from snp_lib.models import Network
from snp_lib.performance import binarize, diagonal_sets
from snp_lib.performance.statistics import half_width
from snp_lib.pruning import block_permutation, finetune, macs, prune, shared_logits
from snp_lib.pruning.masks import Masks, Sets, andc, density, magnitude, random_clusters, shuffled
from snp_lib.results.setting import Measurement, Setting
from snp_lib.store import Run
from snp_lib.store.derived import Arrays
from snp_lib.training.loop import accuracy, top_accuracy
from snp_lib.training.recipe import Recipe

Rule = Callable[[Sets, Network, Masks, int], Masks]

RULES: dict[str, Rule] = {
    "andc": lambda sets, model, method, seed: method,
    "random clusters": lambda sets, model, method, seed: random_clusters(sets, model, method, seed=seed),
    "magnitude": lambda sets, model, method, seed: magnitude(model, method),
    "shuffled": lambda sets, model, method, seed: shuffled(method, seed=seed),
}
"""How the masks of an arm are made, from the diagonal sets on the training split, the network, the masks of ANDC, which set the
density of every layer, and the seed of the run. One rule more is one more entry."""

UNTUNED_ARMS = ("andc", "magnitude", "shuffled")  # of each encoder alone
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
        return replace(whole, train=Split(whole.train.inputs[chosen], whole.train.labels[chosen]))


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


def all_arms() -> tuple[str, ...]:
    """Every arm: the rules, ``fresh`` (the masks of ANDC on weights drawn anew) and ``dense`` (nothing is pruned)."""
    return (*RULES, "fresh", "dense")


def masks_of(run: Run, arm: str, theta: float, model: Network, *, encoder: int | None = None, classifier: bool = True) -> Masks:
    """The masks of an arm on a run: those of ANDC at θ, or a control with as many weights in every layer.

    Everything is decided on the training split. ``fresh`` has the masks of ANDC (on weights drawn anew), ``dense`` none.

    Args:
        model: the network of the run; only ``magnitude`` looks at its weights.
        encoder: the only one pruned, counted from 1, and with the last one the classifier; None: all and the classifier.
        classifier: whether the classifier is pruned with the last encoder.

    Raises:
        ValueError: unknown arm or encoder.
    """
    if arm not in (known := all_arms()):
        raise ValueError(f"unknown arm {arm!r}; there are {', '.join(known)}")
    if arm == "dense":
        return {}
    sets = _sets(run, theta)
    encoders = None if encoder is None else [encoder]
    method = andc(sets, model, encoders=encoders, classifier=classifier and encoder in (None, run.depth))
    return method if arm == "fresh" else RULES[arm](sets, model, method, run.experiment.seed)


@dataclass(frozen=True, kw_only=True)
class Pruning(Measurement):
    """Accuracy on the test split of the pruned run before and after fine-tuning, and what is left of it, at every θ.

    Fine-tuned is everything from the pruned encoder on (all encoders: everything but the tokeniser), the same for every
    arm; ``fresh`` starts there from weights drawn anew, ``dense`` is the intact network under the same fine-tuning.

    Arrays by name: ``thetas`` (θ,); ``density`` (θ, layer), of every pruned layer, and ``total`` (θ,) of all of them;
    ``before`` and ``after`` (θ, 2), top-1 and top-5 accuracy in [0, 1] (``after`` only where there is fine-tuning);
    ``macs`` (θ, 4) of the pruned layers as they are named in ``COSTS``.

    Attributes:
        arm: the method or a control.
        encoder, classifier: as for :func:`masks_of`.
        thetas: thresholds of the diagonal sets, which set the density; ``dense`` has one result for all. None: those of
            the scale, see ``THETAS``.
        tuning: None: see :func:`tuning_of`.

    Raises:
        ValueError: unknown arm or encoder.
        StoreError: the weights of the run are not here, or what is stored is damaged.
    """

    arm: str
    encoder: int | None = None
    classifier: bool = True
    thetas: tuple[float, ...] | None = None
    tuning: FineTuning | None = None

    @property
    def what(self) -> str | None:
        return "pruning"

    def name(self, run: Run) -> str:
        where = "all" if self.encoder is None else f"{self.encoder}"
        return f"pruning-{where}{'' if self.classifier else '-ff'}-{self.arm.replace(' ', '-')}-{self._tuning(run).epochs}"

    def options(self, run: Run) -> dict[str, Any]:
        kept = {"arm": self.arm, "encoder": self.encoder, "thetas": list(self._thetas(run)), "tuning": asdict(self._tuning(run))}
        return kept | ({} if self.classifier else {"classifier": False})  # an option that is off changes nothing measured without it

    def _tuning(self, run: Run) -> FineTuning:
        return self.tuning or tuning_of(run.experiment)

    def _thetas(self, run: Run) -> tuple[float, ...]:
        return (0.0,) if self.arm == "dense" else self.thetas or THETAS[run.experiment.scale]

    def compute(self, setting: Setting) -> Arrays:
        run, model, start = setting.run, setting.network, self.encoder or 1
        if not 1 <= start <= run.depth:
            raise ValueError(f"no encoder {self.encoder} to prune: this model has encoders 1 to {run.depth}")
        thetas, tuning, test = self._thetas(run), self._tuning(run), setting.dataset.test
        masks = {f"{theta:g}": masks_of(run, self.arm, theta, model, encoder=self.encoder, classifier=self.classifier) for theta in thetas}
        begin = _fresh_behind(run, model, start) if self.arm == "fresh" else model
        networks = {name: prune(begin, each) for name, each in masks.items()}

        def accuracies() -> np.ndarray:
            logits = shared_logits(
                model, networks, test, setting.prepare, encoder=start, bfloat16=setting.bfloat16, progress=setting.progress
            )
            return np.array([[accuracy(each, test.labels), top_accuracy(each, test.labels, 5)] for each in logits.values()])

        densities = [density(each) for each in masks.values()]
        costs = [macs(model, each)["total"] for each in masks.values()]
        arrays = {
            "thetas": np.array(thetas),
            "density": np.array([[of_layer[name] for name in each] for of_layer, each in zip(densities, masks.values(), strict=True)]),
            "total": np.array([of_layer["total"] for of_layer in densities]),
            "macs": np.array([[getattr(cost, name) for name in COSTS] for cost in costs]),
            "before": accuracies(),
        }
        if tuning.epochs:
            recipe, seed = tuning.recipe(run.experiment.recipe), run.experiment.seed
            few = tuning.dataset(setting.dataset, seed)
            finetune(model, networks, masks, few, recipe, encoder=start, seed=seed, progress=setting.progress)
            arrays["after"] = accuracies()
        return arrays


def prunings(
    *,
    arms: Sequence[str] | None = None,
    encoder: int | None = None,
    classifier: bool = True,
    thetas: Sequence[float] | None = None,
    tuning: FineTuning | None = None,
) -> list[Pruning]:
    """The measurements behind :func:`pruned_accuracy` with the same arguments."""
    chosen = None if thetas is None else tuple(thetas)
    return [Pruning(arm=arm, encoder=encoder, classifier=classifier, thetas=chosen, tuning=tuning) for arm in arms or all_arms()]


def prunings_of(run: Run) -> list[Measurement]:
    """What a run has for chapter A5: every arm on all encoders and on the last one, fine-tuned, and each encoder alone, untuned."""
    if run.experiment.lean or not run.prunable:
        return []
    return [*prunings(), *prunings(encoder=run.depth), *encoders_alone(run.depth)]


def encoders_alone(depth: int) -> list[Pruning]:
    """The measurements behind :func:`lost_by_encoder`: each encoder pruned alone without fine-tuning, the last one also without the
    classifier."""
    untuned = FineTuning(epochs=0)
    pieces = [prunings(arms=("dense", *UNTUNED_ARMS), encoder=encoder, tuning=untuned) for encoder in range(1, depth + 1)]
    return [*itertools.chain(*pieces), *prunings(arms=UNTUNED_ARMS, encoder=depth, classifier=False, tuning=untuned)]


def _sets(run: Run, theta: float) -> Sets:
    """Labels that every node recognises on the training split: test labels must not decide what is pruned."""
    return {site: diagonal_sets(binarize(run.matrices(site, split="train"), theta)) for site in run.sites}


def _fresh_behind(run: Run, model: Network, encoder: int) -> Network:
    """The network with all weights from an encoder on as a seed initialises them, another than that of the training."""
    other = replace(run.experiment, seed=run.experiment.seed + 1000)
    drawn: Network = initial_model(other, len(run.class_names))
    drawn.load_state_dict(drawn.state_dict() | model.parameters_before(encoder))
    return drawn.to(next(model.parameters()).device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def pruned_accuracy(
    runs: Sequence[Run],
    *,
    arms: Sequence[str] | None = None,
    encoder: int | None = None,
    classifier: bool = True,
    thetas: Sequence[float] | None = None,
    tuning: FineTuning | None = None,
) -> pd.DataFrame:
    """Pruned networks by arm and density: one row per seed, arm and θ; ``dense`` has the θ of NaN and a density of 1.

    Returns:
        Columns seed, arm, theta, density (share of the weights of the pruned layers that is kept); before, before_top5,
        after and after_top5, test accuracy in [0, 1] before and after fine-tuning (without the last two where there is
        none); kept, compact and blocks, multiply-accumulates of the pruned layers as shares of the dense ones.
    """
    measurements = prunings(arms=arms, encoder=encoder, classifier=classifier, thetas=thetas, tuning=tuning)
    rows = []
    for run in runs:
        for measurement in measurements:
            arm, arrays = measurement.arm, measurement.read(run)
            for t, theta in enumerate(arrays["thetas"]):
                row: dict[str, Any] = {"seed": run.experiment.seed, "arm": arm, "theta": theta, "density": arrays["total"][t]}
                if arm == "dense":
                    row |= {"theta": np.nan, "density": 1.0}
                for when in ("before", "after"):
                    if when in arrays:
                        row |= dict(zip((when, f"{when}_top5"), arrays[when][t], strict=True))
                dense, *forms = arrays["macs"][t]
                row |= {name: cost / dense if dense else 1.0 for name, cost in zip(COSTS[1:], forms, strict=True)}
                rows.append(row)
    return pd.DataFrame(rows)


def difference_per_seed(table: pd.DataFrame, arm: str, against: str, *, theta: float | None = None, column: str = "after") -> list[float]:
    """An arm of :func:`pruned_accuracy` minus another at the same seed and θ, in the order of the seeds; without a θ the mean over all."""
    first, second = (table[table.arm == name].set_index("seed") for name in (arm, against))
    differences = []
    for seed in first.index.unique():
        ours, other = first.loc[[seed]].set_index("theta")[column], second.loc[[seed]].set_index("theta")[column]
        gap = ours - (other.item() if len(other) == 1 else other)  # the intact network has one value for every θ
        differences.append(float(gap.mean() if theta is None else gap[theta]))
    return differences


def paired(table: pd.DataFrame, arm: str, against: str, *, column: str = "after") -> pd.DataFrame:
    """The same as one row per θ: columns theta, density and difference (means over seeds), half_width of its 95 % interval."""
    rows = []
    for theta, kept in table[table.arm == arm].groupby("theta").density.mean().items():
        differences = difference_per_seed(table, arm, against, theta=float(str(theta)), column=column)
        row = {"theta": theta, "density": kept, "difference": np.mean(differences)}
        rows.append(row | {"half_width": half_width(differences)})
    return pd.DataFrame(rows)


def difference_in_points(table: pd.DataFrame, arm: str, rivals: Sequence[str]) -> pd.DataFrame:
    """An arm minus each rival after fine-tuning, as text to print: percentage points ± half of the 95 % interval, one row per density."""
    columns = {}
    for rival in rivals:
        found = 100 * paired(table, arm, rival).set_index("density")[["difference", "half_width"]]
        points = found.round(1).astype(str)
        columns["intact" if rival == "dense" else rival] = points.difference + " ± " + points.half_width
    return pd.DataFrame(columns).rename(index=lambda density: f"{density:.3f}")


def lost_by_encoder(runs: Sequence[Run]) -> pd.DataFrame:
    """What pruning one encoder alone costs, with no fine-tuning, and the last one with and without the classifier.

    Returns:
        The columns of :func:`pruned_accuracy`; encoder, its number as text, or ``N + classifier``; and lost, percentage
        points below the intact network of the same seed.
    """
    last, untuned = runs[0].depth, FineTuning(epochs=0)
    pieces = {str(b): pruned_accuracy(runs, arms=UNTUNED_ARMS, encoder=b, tuning=untuned) for b in range(1, last + 1)}
    pieces[f"{last} + classifier"] = pieces.pop(str(last))
    pieces[str(last)] = pruned_accuracy(runs, arms=UNTUNED_ARMS, encoder=last, classifier=False, tuning=untuned)
    table = pd.concat([piece.assign(encoder=name) for name, piece in pieces.items()], ignore_index=True)
    intact = pruned_accuracy(runs, arms=("dense",), encoder=1, tuning=untuned).set_index("seed").before
    return table.assign(lost=100 * (table.seed.map(intact) - table.before))


def masks_in_blocks(run: Run, thetas: Sequence[float], *, site: str) -> dict[str, np.ndarray]:
    """The masks of ANDC for the layer whose outputs a site is, rows and columns in the order that shows their blocks: ``θ = …`` → mask.

    Raises:
        ValueError: no layer that can be pruned has its outputs there.
    """
    network, shown = run.network(0), {}  # ANDC does not look at the weights
    layers = [name for name, layer in network.layers.items() if layer.outputs == site]
    if not layers:
        raise ValueError(f"no layer that can be pruned has its outputs at {site!r}")
    for theta in thetas:
        mask = masks_of(run, "andc", theta, network)[layers[0]]
        form = block_permutation(mask)
        shown[f"θ = {theta:g}"] = mask.numpy()[np.ix_(form.rows, form.columns)]
    return shown
