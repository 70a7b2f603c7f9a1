"""Curvature of the loss of runs, on mini-batches as they learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm

from snp_lib.analysis.hessian import Spectrum, hessian_product, lanczos
from snp_lib.results.fourier import NETWORKS as NETWORKS, both
from snp_lib.results.setting import AtEpoch, Measurement, Setting
from snp_lib.store import Run
from snp_lib.store.derived import Arrays


@dataclass(frozen=True, kw_only=True)
class HessianSpectrum(AtEpoch):
    """The spectrum of the Hessian of the loss on mini-batches of training images, augmented and mixed as the network learns from them.

    Without weight decay; in float32, with attention written out; see :mod:`snp_lib.analysis.hessian`.

    Arrays by name, for B mini-batches and S steps, NaN where fewer were made: ``values`` and ``weights`` (B, S), the Ritz values and
    what each stands for; ``batch`` (1,), images in each.

    Attributes:
        batches: how many, drawn by the seed of the run and their number.
        batch: images in each.
        steps: of Lanczos's method.

    Raises:
        StoreError: the weights of the run are not here.
    """

    batches: int = 1
    batch: int = 16
    steps: int = 10
    prefix: ClassVar[str] = "hessian"

    @property
    def what(self) -> str | None:
        return "hessian"

    def options(self, run: Run) -> dict[str, Any]:
        return super().options(run) | {"batches": self.batches, "batch": self.batch, "steps": self.steps}

    def compute(self, setting: Setting) -> Arrays:
        model = setting.network_at(self.epoch)
        size, device = sum(parameter.numel() for parameter in model.parameters()), setting.torch_device
        values, weights = (np.full((self.batches, self.steps), np.nan, dtype=np.float32) for _ in range(2))
        for number in range(self.batches):
            seed = 1000 * setting.run.experiment.seed + number
            product = hessian_product(model, *setting.learned_from(self.batch, seed))
            generator = torch.Generator().manual_seed(seed)
            found = lanczos(product, size, self.steps, generator, device=device, progress=setting.progress)
            values[number, : len(found.values)], weights[number, : len(found.values)] = found.values, found.weights
        return {"values": values, "weights": weights, "batch": np.array([self.batch])}


def hessian_of(run: Run) -> list[Measurement]:
    """What a run has for chapter D2: its curvature at the end and before training."""
    return [HessianSpectrum(), HessianSpectrum(epoch=0)]


def curvature(runs: Sequence[Run]) -> pd.DataFrame:
    """Ends and negative share of the spectrum: one row per seed, network and mini-batch.

    Returns:
        Columns seed, network (trained, untrained), batch (from 1), largest and smallest eigenvalue; negative, the share of the absolute
        curvature that is, see :class:`snp_lib.analysis.hessian.Spectrum`; below_zero, the share of the eigenvalues that are.
    """
    rows = []
    for run in runs:
        for network, arrays in both(HessianSpectrum, run).items():
            for number, found in enumerate(_spectra(arrays), start=1):
                where = {"seed": run.experiment.seed, "network": network, "batch": number}
                ends = {"largest": found.values[-1], "smallest": found.values[0]}
                rows.append(where | ends | {"negative": found.negative, "below_zero": found.weights[found.values < 0].sum()})
    return pd.DataFrame(rows)


def densities(runs: Sequence[Run], *, points: int = 201, width: float = 0.02) -> pd.DataFrame:
    """Density of the eigenvalues, mean over mini-batches: one row per seed, network and point of a grid over all of a network's.

    Every Ritz value counts as a normal density with its weight as mass.

    Args:
        points: of the grid.
        width: standard deviation of these densities, as a share of the range of the eigenvalues.

    Returns:
        Columns seed, network, eigenvalue and density, NaN where it is below a millionth of the largest.
    """
    found = [(run.experiment.seed, network, _spectra(arrays)) for run in runs for network, arrays in both(HessianSpectrum, run).items()]
    rows = []
    for seed, network, spectra in found:
        ends = np.concatenate([each.values for _, other, of in found if other == network for each in of])
        grid, sd = np.linspace(ends.min(), ends.max(), points), width * np.ptp(ends)
        bells = [each.weights @ norm.pdf(grid, each.values[:, None], sd) for each in spectra]
        density = np.mean(bells, axis=0)
        shown = np.where(density > 1e-6 * density.max(), density, np.nan)
        rows.append(pd.DataFrame({"seed": seed, "network": network, "eigenvalue": grid, "density": shown}))
    return pd.concat(rows, ignore_index=True)


def mean_over_batches(table: pd.DataFrame, runs: Sequence[Run], column: str, network: str = "trained") -> np.ndarray:
    """A column of :func:`curvature`, mean over mini-batches, for each run."""
    means = table[table.network == network].groupby("seed")[column].mean()
    return means.loc[[run.experiment.seed for run in runs]].to_numpy(dtype=np.float64)


def _spectra(arrays: Arrays) -> list[Spectrum]:
    values, weights = (arrays[name].astype(np.float64) for name in ("values", "weights"))
    made = ~np.isnan(values)
    return [Spectrum(values=v[m], weights=w[m]) for v, w, m in zip(values, weights, made, strict=True)]
