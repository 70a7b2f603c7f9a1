"""What an experiment is: one training and its measurements, frozen and hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import torch

from snp_lib.models import create_model
from snp_lib.performance.readout import ReadoutRecipe
from snp_lib.training.recipe import Recipe

Scale = Literal["smoke", "small", "medium", "paper"]

SCALES: tuple[Scale, ...] = get_args(Scale)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training and its measurements, completely described; ``hash`` identifies the description.

    Raises:
        ValueError: unknown scale, negative seed, a snapshot out of range, or a flattened readout.
    """

    name: str
    scale: Scale
    seed: int
    dataset: str
    dataset_size: int | None = None  # side of the images in pixels; None: the data set's own
    model: str
    model_options: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe
    readout: ReadoutRecipe
    snapshots: tuple[int, ...] | None = None  # finished epochs after which the weights are kept, 0: before training
    lean: bool | None = None  # keep what the matrices on the test split need: no logits, no class means of the training split
    order_seed: int | None = None  # of the order, the augmentation and the dropout of the training; None: the seed, which initialises

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"unknown scale {self.scale!r}; there are {', '.join(SCALES)}")
        for name, value in {"seed": self.seed, "order_seed": 0 if self.order_seed is None else self.order_seed}.items():
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} must be a non-negative integer, got {value!r}")
        if self.snapshots is not None and not all(0 <= e < self.recipe.epochs for e in self.snapshots):
            raise ValueError(f"snapshots must lie in [0, {self.recipe.epochs}), got {self.snapshots}")
        if self.readout.pooling == "flat":
            raise ValueError(
                "a run keeps one number per channel: measure flattened readouts with snp_lib.results.stages.stage(run, epoch, 'flat')"
            )

    @property
    def id(self) -> str:
        """Name of the run's folder, ``name-scale-sSEED``."""
        return f"{self.name}-{self.scale}-s{self.seed}"

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the whole description."""
        return digest(self.describe())

    @property
    def training_hash(self) -> str:
        """The same for what the trained weights depend on; the readouts and the name do not matter."""
        return digest({k: v for k, v in self.describe().items() if k not in ("name", "scale", "readout", "snapshots", "lean")})

    def describe(self) -> dict[str, Any]:
        """The description as plain JSON values, without the options that are off: a new option changes no old hash."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return _without_none(plain)

    def command(self, verb: str) -> str:
        """How ``snp`` is told to do something with this experiment, such as ``snp train cct --scale small --seeds 0``."""
        return f"snp {verb} {self.name} --scale {self.scale} --seeds {self.seed}"

    def vary(self, name: str, **changes: Any) -> Experiment:
        """The same experiment with some fields changed, under a name of its own."""
        return replace(self, name=name, **changes)


def _without_none(value: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in value.items() if v is not None}


def digest(description: dict[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of a description."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A named experiment in the catalogue.

    Attributes:
        build: the experiment at a scale and seed.
        cost: what a run takes, for every scale that there is.
        published: what the source reports, where it does; what was measured here is read from the records.
    """

    build: Callable[[Scale, int], Experiment]
    summary: str
    cost: dict[Scale, str]
    published: dict[Scale, str] = field(default_factory=dict)


NEEDS_GPU: dict[Scale, str] = {"medium": "needs a GPU", "paper": "needs a GPU"}


def initial_model(experiment: Experiment, num_classes: int) -> Any:
    """The network of an experiment as its seed initialises it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        return create_model(experiment.model, num_classes=num_classes, **experiment.model_options)
