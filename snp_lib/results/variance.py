"""How much the feature maps of runs vary over positions, along their residual units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from snp_lib.analysis.residual import STATES, of_additions
from snp_lib.analysis.variance import spatial_variance
from snp_lib.results.fourier import both, has_maps, places
from snp_lib.results.setting import Measurement, OfImages, Setting, drawn
from snp_lib.store import Run
from snp_lib.store.derived import Arrays


@dataclass(frozen=True, kw_only=True)
class FeatureVariance(OfImages):
    """Spatial variance of feature maps without and with what every residual unit adds.

    On test images drawn by the seed of the run, see :mod:`snp_lib.analysis.variance`.

    Arrays by name, for U units: ``units`` (U,) their names; ``skip``, ``output`` and ``shuffled`` (U,), means over images and
    channels of the three states of :class:`snp_lib.analysis.residual.Addition`; ``images`` (1,), how many.

    Raises:
        StoreError: the weights of the run are not here.
        ValueError: the network says of no residual unit what it adds.
    """

    prefix: ClassVar[str] = "variance"

    def compute(self, setting: Setting) -> Arrays:
        model, seed = setting.network_at(self.epoch), setting.run.experiment.seed
        chosen = drawn(setting.dataset.test, self.images, seed)
        found = of_additions(model, chosen, setting.prepare, spatial_variance, seed=seed, progress=setting.progress, **setting.passes)
        return {
            "units": np.array([each.unit for each in found]),
            **{state: np.array([getattr(each, state).mean() for each in found], dtype=np.float32) for state in STATES},
            "images": np.array([len(chosen)]),
        }


def variance_of(run: Run) -> list[Measurement]:
    """What a run has for the first half of chapter D4: the variance of its maps, trained and untrained."""
    return [FeatureVariance(), FeatureVariance(epoch=0)] if has_maps(run) else []


def variances(runs: Sequence[Run]) -> pd.DataFrame:
    """Spatial variance along the network: one row per seed, network and unit.

    Returns:
        Columns seed, network (trained, untrained), depth (of the unit, from 1), block, kind; variance of the unit's output; change, the
        natural logarithm of its ratio to that of the stream without the unit; shuffled, the same with the update at other positions;
        beyond, change minus shuffled.
    """
    rows = []
    for run in runs:
        for network, arrays in both(FeatureVariance, run).items():
            skip, output, shuffled = (arrays[state].astype(np.float64) for state in STATES)
            columns = {"variance": output, "change": np.log(output / skip), "shuffled": np.log(shuffled / skip)}
            rows.append(pd.DataFrame(places(run, network, arrays)).assign(**columns))
    table = pd.concat(rows, ignore_index=True)
    return table.assign(beyond=table.change - table.shuffled)
