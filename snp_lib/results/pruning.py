"""Pruning of a finished run by every arm at every density, before and after fine-tuning: kept with the run, and as tables."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from snp_lib.experiments import Scale, initial_model
from snp_lib.models import Network
from snp_lib.performance.statistics import half_width
from snp_lib.pruning import block_permutation, finetune, macs, prune, shared_logits
from snp_lib.pruning.masks import Masks, density
from snp_lib.results.arms import RULES as RULES, all_arms as all_arms, masks_of as masks_of
from snp_lib.results.setting import Measurement, Setting
from snp_lib.results.tuning import FineTuning as FineTuning, Rate, tuning_of as tuning_of
from snp_lib.store import Run
from snp_lib.store.derived import Arrays
from snp_lib.training.prediction import accuracy, top_accuracy

UNTUNED_ARMS = ("andc", "magnitude", "shuffled")  # of each encoder alone
COSTS = ("dense", "kept", "compact", "blocks")


THETAS: dict[Scale, tuple[float, ...]] = {
    "smoke": (0.3, 0.5, 0.7),
    "small": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "medium": (0.3, 0.4, 0.5, 0.6, 0.7),
    "paper": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
}
"""The thresholds of each scale, which set the densities."""


@dataclass(frozen=True, kw_only=True)
class PruningArm(Measurement):
    """What is kept of a network pruned in one way, at every θ, in arrays that :func:`table_of` reads.

    Arrays by name: ``thetas`` (θ,); ``density`` (θ, layer), of every pruned layer, and ``total`` (θ,) of all of them;
    ``before`` and ``after`` (θ, 2), top-1 and top-5 accuracy in [0, 1] (``after`` only where there is fine-tuning);
    ``macs`` (θ, 4) of the pruned layers as they are named in ``COSTS``.

    Attributes:
        arm: the method or a control.
    """

    arm: str


@dataclass(frozen=True, kw_only=True)
class Pruning(PruningArm):
    """Accuracy on the test split of the pruned run before and after fine-tuning, and what is left of it, at every θ.

    Fine-tuned is everything from the pruned encoder on (all encoders: everything but the tokeniser), the same for every
    arm; ``fresh`` starts there from weights drawn anew, ``dense`` is the intact network under the same fine-tuning.

    Arrays by name: those of :class:`PruningArm`; ``lr_share`` (), where the rate was chosen.

    Attributes:
        encoder, classifier: as for :func:`snp_lib.results.arms.masks_of`.
        thetas: thresholds of the diagonal sets, which set the density; ``dense`` has one result for all. None: those of
            the scale, see ``THETAS``.
        tuning: None: see :func:`snp_lib.results.tuning.tuning_of`.

    Raises:
        ValueError: unknown arm or encoder.
        StoreError: the weights of the run are not here, or what is stored is damaged.
    """

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
        thetas, tuning = self._thetas(run), self._tuning(run)
        masks = {f"{theta:g}": masks_of(run, self.arm, theta, model, encoder=self.encoder, classifier=self.classifier) for theta in thetas}
        begin = fresh_behind(run, model, start) if self.arm == "fresh" else model
        networks = {name: prune(begin, each) for name, each in masks.items()}

        def accuracies() -> np.ndarray:
            return accuracies_of(setting, model, networks, start)

        arrays = what_is_left(model, masks.values()) | {"thetas": np.array(thetas), "before": accuracies()}
        if tuning.epochs:
            share, seed = tuning.lr_share, run.experiment.seed
            if share is None:
                rate = Rate(tuning=tuning)
                share = rate.best(rate.make(run, device=setting.device, progress=setting.progress, data_root=setting.data_root))
                arrays["lr_share"] = np.array(share)
            recipe = tuning.recipe(run.experiment.recipe, share)
            few = tuning.dataset(setting.dataset, seed)
            finetune(model, networks, masks, few, recipe, encoder=start, seed=seed, progress=setting.progress)
            arrays["after"] = accuracies()
        return arrays


def accuracies_of(setting: Setting, model: Network, networks: Mapping[str, Network], encoder: int) -> np.ndarray:
    """Top-1 and top-5 accuracy on the test split (network, 2) of networks that share with ``model`` what lies before an encoder."""
    test, options = setting.dataset.test, {"bfloat16": setting.bfloat16, "progress": setting.progress}
    logits = shared_logits(model, networks, test, setting.prepare, encoder=encoder, **options)
    most = min(5, setting.dataset.num_classes)
    return np.array([[accuracy(each, test.labels), top_accuracy(each, test.labels, most)] for each in logits.values()])


def what_is_left(model: Network, masks: Collection[Masks]) -> Arrays:
    """The arrays ``density``, ``total`` and ``macs`` of :class:`PruningArm`."""
    densities, costs = [density(each) for each in masks], [macs(model, each)["total"] for each in masks]
    return {
        "density": np.array([[of_layer[name] for name in each] for of_layer, each in zip(densities, masks, strict=True)]),
        "total": np.array([of_layer["total"] for of_layer in densities]),
        "macs": np.array([[getattr(cost, name) for name in COSTS] for cost in costs]),
    }


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
    """What a run has for chapter A5: every arm on all encoders, with the classifier and without, and on the last one, fine-tuned, and
    each encoder alone, untuned."""
    if run.experiment.lean or not run.prunable:
        return []
    whole = [*prunings(), *(prunings(arms=tuple(RULES), classifier=False) if run.experiment.scale == "medium" else [])]
    return [*whole, *encoders_alone(run.depth), *prunings(encoder=run.depth)]


def encoders_alone(depth: int) -> list[Pruning]:
    """The measurements behind :func:`lost_by_encoder`: each encoder pruned alone without fine-tuning, the last one also without the
    classifier."""
    untuned = FineTuning(epochs=0)
    pieces = [prunings(arms=("dense", *UNTUNED_ARMS), encoder=encoder, tuning=untuned) for encoder in range(1, depth + 1)]
    return [*itertools.chain(*pieces), *prunings(arms=UNTUNED_ARMS, encoder=depth, classifier=False, tuning=untuned)]


def fresh_behind(run: Run, model: Network, encoder: int) -> Network:
    """The network with all weights from an encoder on as a seed initialises them, another than that of the training."""
    other = replace(run.experiment, seed=run.experiment.seed + 1000)
    drawn: Network = initial_model(other, len(run.class_names))
    drawn.load_state_dict(drawn.state_dict() | model.state_before(encoder))
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
    return table_of(runs, prunings(arms=arms, encoder=encoder, classifier=classifier, thetas=thetas, tuning=tuning))


def table_of(runs: Sequence[Run], measurements: Sequence[PruningArm]) -> pd.DataFrame:
    """The table of :func:`pruned_accuracy` from these measurements, one for each arm."""
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
