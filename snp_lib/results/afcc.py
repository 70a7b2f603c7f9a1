"""Connections of filters pruned by common clusters (AFCC, paper C), and by its controls and rivals at equal density."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from snp_lib.experiments import Scale
from snp_lib.models import Network
from snp_lib.pruning import andc, finetune, magnitude, prune, random_clusters, shuffled
from snp_lib.pruning.importance import Worth, l1_norm, strongest_connections, strongest_filters, taylor
from snp_lib.pruning.masks import Masks, Sets, layers
from snp_lib.results.filters import Filters, reads_filters
from snp_lib.results.pruning import PruningArm, accuracies_of, fresh_behind, table_of, what_is_left
from snp_lib.results.setting import Measurement, Setting
from snp_lib.results.tuning import FineTuning
from snp_lib.store import Run
from snp_lib.store.derived import Arrays

RANDOM_LABELS = 5
"""Labels of every filter in the random control, as in the released code of paper C."""

THETAS: dict[Scale, tuple[float, ...]] = {
    "smoke": (0.3, 0.8),
    "small": (0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    "medium": (0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    "paper": (0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
}
"""The thresholds of each scale, which set the densities."""

TUNING: dict[Scale, FineTuning] = {
    "smoke": FineTuning(images=200, lr_share=0.2),
    "small": FineTuning(images=10_000, lr_share=0.2),
    "medium": FineTuning(lr_share=0.3),
    "paper": FineTuning(epochs=20, lr_share=0.01 / 0.028, warmup=0.0),
}
"""The fine-tuning of each scale, the same for every arm, at ``small`` and ``paper`` from the rate 0.01 of the released code."""

JUDGED = 5_120
"""Training inputs whose gradients give the Taylor expansion."""

Protocol = Literal["joint", "moving", "pairs"]


@dataclass(frozen=True)
class Known:
    """What an arm may look at: sets and gradients of the training split, the network, the masks of AFCC, and the seed of the run."""

    sets: Sets
    network: Network
    method: Masks
    seed: int
    expansion: Callable[[], Worth]  # first-order Taylor, which takes a pass over training inputs

    def norms(self) -> Worth:
        """L1 norms of the layers that are pruned."""
        return l1_norm(self.network, pruned_layers(self.network))


ARMS: dict[str, Callable[[Known], Masks]] = {
    "afcc": lambda known: known.method,
    "random clusters": lambda known: random_clusters(known.sets, known.network, known.method, seed=known.seed, labels=RANDOM_LABELS),
    "magnitude": lambda known: magnitude(known.network, known.method),
    "shuffled": lambda known: shuffled(known.method, seed=known.seed, model=known.network),
    "l1": lambda known: strongest_connections(known.norms(), known.method, known.network),
    "taylor": lambda known: strongest_connections(known.expansion(), known.method, known.network),
    "l1 filters": lambda known: strongest_filters(known.norms(), known.method, known.network),
    "taylor filters": lambda known: strongest_filters(known.expansion(), known.method, known.network),
    "fresh": lambda known: known.method,
    "dense": lambda known: {},
}
"""How the masks of an arm are made, from what it may look at.

In this order AFCC, five random labels a filter, the largest weights, AFCC's connections shuffled, connections by L1 norm and by
first-order Taylor, whole filters by the same two, AFCC on weights drawn anew, and nothing pruned."""

CONTROLS = ("afcc", "random clusters", "magnitude", "shuffled", "fresh", "dense")

RIVALS = ("afcc", "l1", "taylor", "l1 filters", "taylor filters", "dense")

ONE_AT_A_TIME = ("afcc", "shuffled", "dense")
"""Arms of single layers."""


@dataclass(frozen=True, kw_only=True)
class Afcc(PruningArm):
    """Accuracy on the test split of a pruned network of convolutions before and after fine-tuning, and what is left of it, at every θ.

    Pruned are the last three convolutions and the linear layers behind them (of VGG-11 the convolutions 8 to 10 and the classifier),
    whose classifier is first replaced by the readout of the last layer, as in the released code of paper C. Fine-tuned is everything
    from the first pruned layer on, the same for every arm; ``fresh`` starts there from weights drawn anew, ``dense`` is the intact
    network under the same fine-tuning. No decision looks at the test split.

    Arrays by name: those of :class:`snp_lib.results.pruning.PruningArm`.

    Attributes:
        only: number of the only layer that is pruned, from 1 as blocks are, the classifier last; None: all of them.
        replaced: whether the classifier is replaced.
        protocol: ``joint``, all from the first pruned layer on, what lies before in eval mode; ``moving``, the same but that the batch
            normalisation before it moves; ``pairs``, layer after layer, each time the two layers of a pair alone with a share of the
            inputs, the batch normalisation of all others moving, as released.
        thetas: None: those of the scale, see ``THETAS``.
        tuning: None: that of the scale, see ``TUNING``.

    Raises:
        ValueError: unknown arm or layer, or ``fresh`` without a classifier of its own.
        StoreError: the weights of the run are not here, its filters were not measured, or what is stored is damaged.
    """

    only: int | None = None
    replaced: bool = True
    protocol: Protocol = "joint"
    thetas: tuple[float, ...] | None = None
    tuning: FineTuning | None = None

    @property
    def what(self) -> str | None:
        return "afcc"

    def name(self, run: Run) -> str:
        where = "" if self.only is None else f"-{self.only}"
        ways = [*([] if self.replaced else ["kept"]), *([] if self.protocol == "joint" else [self.protocol])]
        return "-".join([f"afcc{where}", self.arm.replace(" ", "-"), *ways, str(self._tuning(run).epochs)])

    def options(self, run: Run) -> dict[str, Any]:
        kept = {"arm": self.arm, "only": self.only, "replaced": self.replaced, "protocol": self.protocol}
        return kept | {"thetas": list(self._thetas(run)), "tuning": asdict(self._tuning(run))}

    def _tuning(self, run: Run) -> FineTuning:
        return self.tuning or TUNING[run.experiment.scale]

    def _thetas(self, run: Run) -> tuple[float, ...]:
        return (0.0,) if self.arm == "dense" else self.thetas or THETAS[run.experiment.scale]

    def compute(self, setting: Setting) -> Arrays:
        run, tuning, seed = setting.run, self._tuning(setting.run), setting.run.experiment.seed
        model = with_readout(setting.network, run) if self.replaced else setting.network
        masks = masks_of(setting, self.arm, self._thetas(run), model, only=self.only)
        first = first_pruned(model)
        start = min(self.only or first, run.depth) if self.protocol != "pairs" else first - 1
        networks = {name: prune(fresh_behind(run, model, start) if self.arm == "fresh" else model, each) for name, each in masks.items()}
        arrays = what_is_left(model, masks.values()) | {"thetas": np.array(self._thetas(run))}
        arrays["before"] = accuracies_of(setting, model, networks, start)
        if not tuning.epochs:
            return arrays
        recipe = tuning.recipe(run.experiment.recipe, tuning.lr_share or 1.0)
        shared: dict[str, Any] = {"recipe": recipe, "encoder": start, "moving": self.protocol != "joint", "progress": setting.progress}
        if self.protocol == "pairs":
            networks = {name: copy.deepcopy(model) for name in masks}
            for step, (pair, share) in enumerate(_pairs(model, tuning, len(setting.dataset.train))):
                done = {name: {key: mask for key, mask in each.items() if key in pair} for name, each in masks.items()}
                for network in networks.values():
                    _learn_only(network, list(pair)[-1])
                few = share.dataset(setting.dataset, seed + step)
                finetune(next(iter(networks.values())) if step else model, networks, done, few, seed=seed + step, **shared)
        else:
            finetune(model, networks, masks, tuning.dataset(setting.dataset, seed), seed=seed, **shared)
        front = model if self.protocol == "joint" else next(iter(networks.values()))  # all of them moved alike
        return arrays | {"after": accuracies_of(setting, front, networks, start)}


def first_pruned(network: Network) -> int:
    """Number of the first layer that is pruned, the last but two of the convolutions."""
    return len(network.config.pooled) - 2


def pruned_layers(network: Network) -> list[str]:
    """The layers that are pruned, by the name of their weight."""
    return list(layers(network, encoders=range(first_pruned(network), len(network.sites) + 1)))


def with_readout(network: Network, run: Run) -> Network:
    """A copy of the network whose classifier is the readout of its last layer."""
    replaced = copy.deepcopy(network)
    with torch.no_grad():
        weight = replaced.get_parameter("classifier.weight")
        weight.copy_(torch.from_numpy(Filters().read(run)["train/readout"]).to(weight))
    return replaced


def masks_of(setting: Setting, arm: str, thetas: Sequence[float], network: Network, *, only: int | None = None) -> dict[str, Masks]:
    """The masks of an arm by θ: those of AFCC, or of another with as many weights in every layer (whole filters: in all layers).

    Args:
        network: with the classifier that it is pruned with; AFCC itself does not look at it.
        only: as for :class:`Afcc`.

    Raises:
        ValueError: unknown arm or layer.
    """
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}; there are {', '.join(ARMS)}")

    @functools.cache
    def expansion() -> Worth:
        batches = itertools.islice(setting.dataset.train.batches(128), JUDGED // 128)
        return taylor(network, pruned_layers(network), batches, setting.prepare)

    masks = {}
    for theta in thetas:
        sets, method = diagonal_sets_of(setting.run, theta), connected_by_clusters(setting.run, theta, network, only=only)
        masks[f"{theta:g}"] = ARMS[arm](Known(sets, network, method, setting.run.experiment.seed, expansion))
    return masks


def connected_by_clusters(run: Run, theta: float, network: Network, *, only: int | None = None) -> Masks:
    """The masks of AFCC at θ, from the clusters of the training split; raises ValueError for a layer that is not among those pruned."""
    depth = len(network.sites)
    numbers = range(first_pruned(network), depth + 2)
    if only is not None and only not in numbers:
        raise ValueError(f"no layer {only} to prune: those pruned are {numbers[0]} to {numbers[-1]}, the classifier last")
    chosen = [b for b in numbers if only in (None, b)]
    return andc(diagonal_sets_of(run, theta), network, encoders=[b for b in chosen if b <= depth], classifier=depth + 1 in chosen)


def diagonal_sets_of(run: Run, theta: float) -> Sets:
    """Labels that every filter recognises on the training split: test labels must not decide what is pruned."""
    kept = Filters().read(run)
    return {site: kept[f"train/shares/{site}"].astype(np.float32) > theta for site in run.sites}


def _pairs(network: Network, tuning: FineTuning, inputs: int) -> list[tuple[list[str], FineTuning]]:
    """Pair by pair the layers that are pruned by then, and an equal share of the fine-tuning."""
    names = pruned_layers(network)
    share = replace(tuning, images=(tuning.images or inputs) // len(names))
    return [(names[: number + 1], share) for number in range(len(names))]


def _learn_only(network: Network, last: str) -> None:
    """Let only the two layers of a pair learn, the one with this weight and the one before it."""
    modules = [name.removesuffix("weight") for name in network.layers]
    place = modules.index(last.removesuffix("weight"))
    pair = tuple(name.removesuffix("conv.") for name in modules[max(0, place - 1) : place + 1])
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(pair))


def all_arms(arms: Sequence[str] = tuple(ARMS)) -> list[Afcc]:
    """The measurements behind :func:`afcc_accuracy` with the same arguments."""
    return [Afcc(arm=arm) for arm in arms]


def afcc_of(run: Run) -> list[Measurement]:
    """What a run of a VGG has for chapter C2: every arm on all layers together, the controls on each alone, and AFCC in other ways."""
    if not reads_filters(run):
        return []
    alone = [Afcc(arm=arm, only=b) for b in range(first_pruned(run.network(0)), run.depth + 2) for arm in ONE_AT_A_TIME]
    return [*all_arms(), *(Afcc(**way) for way in WAYS.values()), *alone]


WAYS: dict[str, dict[str, Any]] = {
    "classifier kept": {"arm": "afcc", "replaced": False},
    "classifier kept, intact": {"arm": "dense", "replaced": False},
    "normalisation moving": {"arm": "afcc", "protocol": "moving"},
    "normalisation moving, intact": {"arm": "dense", "protocol": "moving"},
    "pair by pair": {"arm": "afcc", "protocol": "pairs"},
    "pair by pair, intact": {"arm": "dense", "protocol": "pairs"},
}
"""Other ways than the main one, by name."""


def afcc_accuracy(runs: Sequence[Run], *, arms: Sequence[str] = tuple(ARMS), **options: Any) -> pd.DataFrame:
    """Pruned networks by arm and density, as :func:`snp_lib.results.pruning.pruned_accuracy` has them.

    Args:
        options: other fields of :class:`Afcc`.
    """
    return table_of(runs, [Afcc(arm=arm, **options) for arm in arms])


def layer_by_layer(runs: Sequence[Run]) -> pd.DataFrame:
    """The same for each layer pruned alone: a column layer more, ``convolution 8`` to ``classifier``."""
    tables, depth = [], runs[0].depth
    for b in range(first_pruned(runs[0].network(0)), depth + 2):
        name = "classifier" if b > depth else f"convolution {b}"
        tables.append(afcc_accuracy(runs, arms=ONE_AT_A_TIME, only=b).assign(layer=name))
    return pd.concat(tables, ignore_index=True)


def other_ways(runs: Sequence[Run]) -> pd.DataFrame:
    """AFCC in the main way and in those of ``WAYS``, with the intact network in each: a column way more."""
    tables = [afcc_accuracy(runs, arms=("afcc", "dense")).assign(way="joint, classifier replaced")]
    for name, way in WAYS.items():
        tables.append(table_of(runs, [Afcc(**way)]).assign(way=name.removesuffix(", intact")))
    return pd.concat(tables, ignore_index=True)
