"""How a network is trained, as one frozen, validated configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Precision = Literal["auto", "float32", "bfloat16"]
Policy = Literal["rand-m9-mstd0.5-inc1", "rand-m9-n2-mstd1.0", "autoaugment"]  # timm's names; AutoAugment's CIFAR policy


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. None switches an option off; rates are per step, probabilities and shares in [0, 1].

    Raises:
        ValueError: a number out of range, an unknown choice, or options that exclude each other.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    # optimiser
    optimizer: Literal["adamw", "sgd"] = "adamw"  # sgd: with Nesterov momentum
    momentum: float | None = None  # of sgd
    head_lr: float | None = None  # of the last linear layer; None: that of the others
    clip_norm: float | None = None  # largest norm of the whole gradient
    # schedule
    schedule: Literal["cosine", "step"] = "cosine"
    step_epochs: int | None = None  # step: epochs between two reductions
    step_factor: float | None = None  # step: what the rate is multiplied by
    warmup_epochs: float = 0.0
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5  # of cosine, and never above lr
    cooldown_epochs: float | None = None  # at min_lr, the last of the epochs
    # augmentation, in this order
    crop_padding: int = 4  # pixels; 0: none
    resized_crop: float | None = None  # smallest share of the area kept, in place of crop_padding
    flip: bool = True
    policy: Policy | None = None
    mixup: float | None = None  # alpha of the Beta distribution
    cutmix: float | None = None
    erasing: float | None = None  # probability of random erasing
    label_smoothing: float = 0.1
    normalization: Literal["standard", "unit"] = "standard"  # measured mean and sd, or [-1, 1]
    # execution
    precision: Precision = "float32"  # bfloat16: autocast, weights stay float32; auto: where the hardware has units for it
    eval_every: int = 1  # epochs between test evaluations; the last epoch is always evaluated

    def __post_init__(self) -> None:
        self._require("must be at least 1", lambda x: x >= 1, "epochs", "batch_size", "eval_every", "step_epochs")
        self._require(
            "must not be negative", lambda x: x >= 0, "lr", "weight_decay", "head_lr", "warmup_epochs", "warmup_lr", "min_lr",
            "cooldown_epochs", "crop_padding",
        )  # fmt: skip
        self._require("must be positive", lambda x: x > 0, "clip_norm", "step_factor", "mixup", "cutmix")
        self._require("must lie in [0, 1)", lambda x: 0 <= x < 1, "label_smoothing", "momentum")
        self._require("must lie in (0, 1]", lambda x: 0 < x <= 1, "resized_crop", "erasing")
        for name, choices in {
            "optimizer": ("adamw", "sgd"),
            "schedule": ("cosine", "step"),
            "policy": (None, *get_args(Policy)),
            "normalization": ("standard", "unit"),
            "precision": ("auto", "float32", "bfloat16"),
        }.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {getattr(self, name)!r}")
        self._belong("optimizer", "sgd", "momentum")
        self._belong("schedule", "step", "step_epochs", "step_factor")
        if self.schedule == "step" and (self.warmup_epochs or self.cooldown_epochs):
            raise ValueError("warmup_epochs and cooldown_epochs belong to schedule='cosine'")
        if self.resized_crop is not None and self.crop_padding:
            raise ValueError("resized_crop takes the place of crop_padding: set crop_padding to 0")
        if self.warmup_epochs + (self.cooldown_epochs or 0) > self.epochs:
            raise ValueError(f"warmup_epochs and cooldown_epochs exceed the {self.epochs} epochs")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that labels become soft."""
        return self.mixup is not None or self.cutmix is not None

    def _require(self, text: str, holds: Any, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ValueError(f"{name} {text}, got {value}")

    def _belong(self, field: str, choice: str, *names: str) -> None:
        """The named options are given exactly when ``field`` has the value ``choice``."""
        for name in names:
            if (getattr(self, name) is not None) != (getattr(self, field) == choice):
                raise ValueError(f"{name} belongs to {field}={choice!r}: give both or neither")
