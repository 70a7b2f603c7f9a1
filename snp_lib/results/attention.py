"""What the heads of runs attend to: whether it tells the label, whether experts focus on their labels, and how far it reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from snp_lib.analysis.attention import (
    attend_to,
    decoded,
    explained_by_chance,
    explained_by_label,
    means_by_label,
    pooled,
    uniform_distance,
)
from snp_lib.models.sites import split_site
from snp_lib.performance import THETA
from snp_lib.performance.expertise import expert_advantage
from snp_lib.performance.heads import claims, experts, symmetry_breaking
from snp_lib.results.expertise import STATES, advantage_row, node_sets
from snp_lib.results.heads import MOST_HEADS
from snp_lib.results.setting import Measurement, Setting, heads_needed, measurable
from snp_lib.store import Run
from snp_lib.store.derived import Arrays

SHUFFLED = "labels shuffled"

FOUND = ("explained", "hits", "hits_whitened")


@dataclass(frozen=True, kw_only=True)
class AttentionByLabel(Measurement):
    """What every head attends to on the test split, by label, and what that tells of the label.

    Arrays by name, for L encoders, H heads and K labels: ``images`` (K,), how many inputs of each label; ``grid`` (2,), rows and
    columns of the tokens; ``entropy`` in bits, ``distance`` in tokens, ``explained``, ``hits`` and ``hits_whitened`` (L, H, K), means
    of :class:`snp_lib.analysis.attention.Attention` over the images of a label, and what ``explained_by_label`` and
    ``decoded`` of the same module find; ``shuffled_explained``, ``shuffled_hits`` and ``shuffled_hits_whitened`` (L, H), sums of
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


def measured(runs: Sequence[Run], *, device: str = "auto", progress: bool = True) -> list[Run]:
    """The runs whose attention is kept or can be measured now, see :func:`snp_lib.results.setting.measurable`."""
    return measurable(runs, attention_of, device=device, progress=progress)


def label_in_attention(runs: Sequence[Run]) -> pd.DataFrame:
    """What a head's attention map tells of the label: one row per seed, network, encoder and head, the heads numbered from 1.

    Returns:
        Columns seed, network (trained, untrained, or labels shuffled, the maps of the trained network with the labels of other
        images), block, head; explained, the share of the variance of the maps that the label explains beyond chance,
        (η² − chance) / (1 − chance); decoded and whitened, the share of images whose label the nearest mean map names, by
        Euclidean distance and relative to the spread within labels.
    """
    rows = []
    for run in runs:
        for network, arrays in _both(run).items():
            rows += _of_labels(run, network, {name: arrays[name].sum(axis=2) for name in FOUND}, arrays["images"])
            if network == STATES[0]:
                rows += _of_labels(run, SHUFFLED, {name: arrays[f"shuffled_{name}"] for name in FOUND}, arrays["images"])
    return pd.DataFrame(rows)


def _of_labels(run: Run, network: str, found: Arrays, images: Int[np.ndarray, " label"]) -> list[dict[str, Any]]:
    chance, total = explained_by_chance(images).sum(), images.sum()
    return [
        {
            "seed": run.experiment.seed,
            "network": network,
            "block": block + 1,
            "head": head + 1,
            "explained": (found["explained"][block, head] - chance) / (1 - chance),
            "decoded": found["hits"][block, head] / total,
            "whitened": found["hits_whitened"][block, head] / total,
        }
        for block, head in np.ndindex(found["hits"].shape)
    ]


def experts_attend(runs: Sequence[Run], *, theta: float = THETA, permutations: int = 10_000) -> pd.DataFrame:
    """Is a head's attention another one on the labels whose expert it is? One row per seed, network, encoder and property.

    The properties of a head's attention on a label: focus, log2 T minus its entropy, in bits; decoded, the share of the label's
    images that its maps name; explained, what the label adds to the variance that labels explain, beyond chance, in percent.

    Returns:
        Columns seed, network, block, property, and those of ``advantage_row``, of which the experts are those of the network's claims.
    """
    rows = []
    for run in runs:
        for network, arrays in _both(run).items():
            images = arrays["images"]
            values = {
                "focus": np.log2(arrays["grid"].prod()) - arrays["entropy"],
                "decoded": arrays["hits"] / images,
                "explained": 100 * (arrays["explained"] - explained_by_chance(images)),
            }
            for index, site in enumerate(run.sites_of("mha")):
                chosen = experts(claims(node_sets(run, site, network, theta), run.num_heads))
                for name, value in values.items():
                    found = expert_advantage(value[index], chosen, permutations=permutations, seed=run.experiment.seed)
                    where = {"seed": run.experiment.seed, "network": network, "block": split_site(site)[0], "property": name}
                    rows.append(where | advantage_row(found))
    return pd.DataFrame(rows)


def reach(runs: Sequence[Run]) -> pd.DataFrame:
    """How far heads attend: one row per seed, network, encoder and head.

    Returns:
        Columns seed, network, block, head; distance in tokens and entropy in bits, means over labels; uniform, the distance
        of a head that attends to all tokens alike.
    """
    rows = []
    for run in runs:
        for network, arrays in _both(run).items():
            distance, entropy = (arrays[name].mean(axis=2, dtype=np.float64) for name in ("distance", "entropy"))
            uniform = uniform_distance(*arrays["grid"].tolist())
            for block, head in np.ndindex(distance.shape):
                where = {"seed": run.experiment.seed, "network": network, "block": block + 1, "head": head + 1}
                rows.append(where | {"distance": distance[block, head], "entropy": entropy[block, head], "uniform": uniform})
    return pd.DataFrame(rows)


def nearest_and_farthest(table: pd.DataFrame) -> pd.DataFrame:
    """The smallest and the largest distance of an encoder's heads, of :func:`reach`: columns seed, network, block, head, distance."""
    ends = table.groupby(["seed", "network", "block"]).distance.agg(["min", "max"]).reset_index()
    names = {"min": "the head that looks nearest", "max": "the head that looks farthest"}
    return ends.rename(columns=names).melt(["seed", "network", "block"], list(names.values()), "head", "distance")


@dataclass(frozen=True)
class Examples:
    """Mean attention maps of the last encoder on one label for each head, the one whose claims by it exceed chance most.

    Attributes:
        labels: their names, in the order of the heads whose own they are.
        maps: network → (H, H, rows, columns), head by label; 1 is what a place would receive if all received alike.
    """

    labels: list[str]
    maps: dict[str, Float[np.ndarray, "head label row column"]]


def examples(run: Run, *, theta: float = THETA) -> Examples:
    """Maps to look at, chosen by the claims and not by the maps; a label that two heads claim most so stands there twice."""
    claimed = symmetry_breaking(run.matrices(run.sites_of("mha")[-1]), run.num_heads, permutations=1, threshold=theta)
    chosen = claimed.z.argmax(axis=1)
    maps = {network: arrays["maps"][:, chosen].astype(np.float64) for network, arrays in _both(run).items()}
    return Examples(labels=[run.class_names[label] for label in chosen], maps=maps)


def _both(run: Run) -> dict[str, Arrays]:
    """What was measured at the end and before training."""
    return dict(zip(STATES, (AttentionByLabel().read(run), AttentionByLabel(epoch=0).read(run)), strict=True))
