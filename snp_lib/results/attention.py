"""What the heads of runs attend to: whether it tells the label, whether experts focus on their labels, and how far it reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from snp_lib.analysis.attention import (
    attend_to,
    decoded,
    explained_by_label,
    means_by_label,
    pooled,
)
from snp_lib.results.heads import MOST_HEADS
from snp_lib.results.setting import Measurement, Setting, heads_needed
from snp_lib.store import Run
from snp_lib.store.derived import Arrays

STATES = ("trained", "untrained")


@dataclass(frozen=True, kw_only=True)
class AttentionByLabel(Measurement):
    """What every head attends to on the test split, by label, and what that tells of the label.

    Arrays by name, for L encoders, H heads and K labels: ``images`` (K,), how many inputs of each label; ``grid`` (2,), rows and
    columns of the tokens; ``entropy`` in bits, ``distance`` in tokens, ``explained``, ``hits`` and ``hits_whitened`` (L, H, K), means
    of :class:`snp_lib.analysis.attention.Attention` over the images of a label, and what :func:`explained_by_label` and
    :func:`decoded` of the same module find; ``shuffled_explained``, ``shuffled_hits`` and ``shuffled_hits_whitened`` (L, H), sums of
    these three over labels, which one shuffle took from their images; ``maps`` (H, K, rows, columns), mean maps of the last
    encoder, at most 8 × 8 places, 1 being what a place would receive if all received alike.

    Attributes:
        epoch: finished epochs; None: the end.

    Raises:
        StoreError: the weights of the run are not here.
        ValueError: the run has no ``mha`` site.
    """

    epoch: int | None = None

    @property
    def what(self) -> str | None:
        return "attention"

    def epochs(self, run: Run) -> tuple[int | None, ...]:
        return (self.epoch,)

    def name(self, run: Run) -> str:
        return f"attention-{run.experiment.recipe.epochs if self.epoch is None else self.epoch:03d}"

    def options(self, run: Run) -> dict[str, Any]:
        return {"epoch": run.experiment.recipe.epochs if self.epoch is None else self.epoch, "sites": heads_needed(run)}

    def compute(self, setting: Setting) -> Arrays:
        model, test, labels = setting.network_at(self.epoch), setting.dataset.test, setting.dataset.num_classes
        found = attend_to(model, test, setting.prepare, progress=setting.progress, **setting.passes)
        truth = test.labels.numpy().astype(np.int64)
        shuffled = np.random.default_rng(setting.run.experiment.seed).permutation(truth)
        kept: dict[str, list[Any]] = {}
        for maps in found.maps.reshape(-1, *found.maps.shape[2:]):
            for prefix, given in (("", truth), ("shuffled_", shuffled)):
                kept.setdefault(f"{prefix}explained", []).append(explained_by_label(maps, given, labels))
                kept.setdefault(f"{prefix}hits", []).append(decoded(maps, given, labels))
                kept.setdefault(f"{prefix}hits_whitened", []).append(decoded(maps, given, labels, whitened=True))
        shape = found.maps.shape[:2]
        arrays = {name: np.array(values).reshape(*shape, labels) for name, values in kept.items()}
        last = means_by_label(np.moveaxis(found.maps[-1], 1, 2), truth, labels)  # (H, T, K)
        grid = model.grid
        return {
            "images": np.bincount(truth, minlength=labels),
            "grid": np.array(grid),
            "maps": (last.shape[1] * pooled(np.moveaxis(last, 1, 2), grid)).astype(np.float16),
            "entropy": means_by_label(found.entropy, truth, labels).astype(np.float32),
            "distance": means_by_label(found.distance, truth, labels).astype(np.float16),
            "explained": arrays["explained"].astype(np.float32),
            "shuffled_explained": arrays["shuffled_explained"].sum(axis=2).astype(np.float32),
            **{name: arrays[name].astype(np.int32) for name in ("hits", "hits_whitened")},
            **{name: arrays[name].sum(axis=2).astype(np.int32) for name in ("shuffled_hits", "shuffled_hits_whitened")},
        }


def attention_of(run: Run) -> list[Measurement]:
    """What a run has for chapter A7: the attention of its heads at the end and before training, where they are few enough."""
    few = 1 < run.num_heads <= MOST_HEADS and run.sites_of("mha")
    return [AttentionByLabel(), AttentionByLabel(epoch=0)] if few else []
