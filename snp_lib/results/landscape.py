"""The loss of runs around their weights, its two terms apart, and the landscapes that the authors of paper D released."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from snp_lib.analysis.landscape import Normalization, direction, losses, radial
from snp_lib.machine import records_dir
from snp_lib.results.fourier import both
from snp_lib.results.setting import AtEpoch, Measurement, Setting
from snp_lib.store import Run
from snp_lib.store.derived import Arrays

RADII = (0.0, 0.25, 0.5, 1.0)

NORM_WEIGHT = 0.05  # of Σ‖θ‖ in the loss that the paper draws

SOURCE = "released by the authors of paper D, one training each"


@dataclass(frozen=True, kw_only=True)
class Landscape(AtEpoch):
    """The loss along random directions from the weights, on training images as the network learns from them.

    Images, their augmentation and their mixing are drawn once, by the seed of the run, and stay the same at every point. See
    :mod:`snp_lib.analysis.landscape`.

    Arrays by name, for D directions and R radii: ``radii`` (R,), the first 0; ``nll`` (D, R), mean −log p in nats; ``norms`` (D, R),
    Σ‖θ‖; ``released_nll`` and ``released_norms`` (1, R), along one direction with the norms of the released code; ``images`` (1,).

    Attributes:
        directions: how many.
        images: how many, or all of fewer.

    Raises:
        StoreError: the weights of the run are not here.
    """

    directions: int = 3
    images: int = 64
    prefix: ClassVar[str] = "landscape"

    @property
    def what(self) -> str | None:
        return "landscape"

    def options(self, run: Run) -> dict[str, Any]:
        return super().options(run) | {"directions": self.directions, "images": self.images, "radii": list(RADII)}

    def compute(self, setting: Setting) -> Arrays:
        seed = setting.run.experiment.seed
        inputs, targets = setting.learned_from(self.images, seed)
        model, generator = setting.network_at(self.epoch), torch.Generator().manual_seed(seed)

        def along(count: int, normalization: Normalization) -> tuple[np.ndarray, np.ndarray]:
            directions = [direction(model, generator, normalization) for _ in range(count)]
            steps = radial(count, RADII[1:])
            points = np.concatenate([np.zeros((1, count)), steps])
            found = losses(model, inputs, targets, directions, points, progress=setting.progress, **setting.passes)
            first, rest = zip(*((each[0], each[1:].reshape(count, -1)) for each in found), strict=True)
            nll, norms = (np.column_stack([np.full(count, at), later]) for at, later in zip(first, rest, strict=True))
            return nll, norms

        nll, norms = along(self.directions, "filter")
        released_nll, released_norms = along(1, "released")
        return {
            "radii": np.array(RADII),
            "nll": nll.astype(np.float32),
            "norms": norms.astype(np.float32),
            "released_nll": released_nll.astype(np.float32),
            "released_norms": released_norms.astype(np.float32),
            "images": np.array([len(inputs)]),
        }


def landscape_of(run: Run) -> list[Measurement]:
    """What a run has for chapter D1: its landscape, trained and untrained."""
    return [Landscape(), Landscape(epoch=0)]


def profiles(runs: Sequence[Run]) -> pd.DataFrame:
    """The rise of the loss from the weights outwards: one row per seed, network, kind of norm, direction and radius.

    Returns:
        Columns seed, network (trained, untrained), normalization (filter, released), direction (from 1), radius; loss, −log p in
        nats; nll and norm, the rises of −log p and of 0.05 Σ‖θ‖ over those at radius 0.
    """
    rows = []
    for run in runs:
        for network, arrays in both(Landscape, run).items():
            for normalization, prefix in (("filter", ""), ("released", "released_")):
                for number, (nll, norms) in enumerate(zip(arrays[f"{prefix}nll"], arrays[f"{prefix}norms"], strict=True), start=1):
                    where = {"seed": run.experiment.seed, "network": network, "normalization": normalization, "direction": number}
                    rise = {"nll": nll - nll[0], "norm": NORM_WEIGHT * (norms - norms[0])}
                    rows.append(pd.DataFrame(where | {"radius": arrays["radii"], "loss": nll} | rise))
    return pd.concat(rows, ignore_index=True)


def norm_share(table: pd.DataFrame, runs: Sequence[Run], radius: float, network: str = "trained") -> list[float]:
    """Share of the norm term in the rise at a radius, both terms as means over directions, for each run."""
    chosen = table[(table.network == network) & (table.radius == radius) & (table.normalization == "filter")]
    means = chosen.groupby("seed")[["nll", "norm"]].mean()
    share = means.norm / (means.nll + means.norm)
    return [float(share[run.experiment.seed]) for run in runs]


def released() -> pd.DataFrame:
    """What the authors of paper D released along the two axes of their landscapes (Apache-2.0, source in the file).

    Returns:
        Columns network, axis (x, y), step from −1 to 1, loss (−log p), accuracy in [0, 1], norms (Σ‖θ‖); nll and norm, the rises of
        −log p and of 0.05 Σ‖θ‖ over those at the centre.
    """
    stored = json.loads((records_dir() / "published" / "paper-d-landscape.json").read_text(encoding="utf-8"))
    rows = []
    for network, axes in stored["networks"].items():
        for axis, columns in axes.items():
            table = pd.DataFrame({"network": network, "axis": axis} | columns)
            centre = table[table.step == 0].iloc[0]
            rows.append(table.assign(nll=table.loss - centre.loss, norm=NORM_WEIGHT * (table.norms - centre.norms)))
    return pd.concat(rows, ignore_index=True)
