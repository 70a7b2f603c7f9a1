"""Feature maps of runs by spatial frequency: what every residual unit does to them, and accuracy under noise of one frequency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from snp_lib.analysis.fourier import correct_under_noise, diagonal_frequencies, relative_log_amplitude
from snp_lib.analysis.residual import STATES, of_additions
from snp_lib.models.sites import ImageNetwork, split_site
from snp_lib.results.setting import AtEpoch, Measurement, OfImages, Setting, drawn
from snp_lib.store import Run
from snp_lib.store.derived import Arrays

NETWORKS = ("trained", "untrained")

RINGS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of noise, in units of π, as in the paper's figure

LOW, HIGH = (0.1, 0.2, 0.3, 0.4), (0.6, 0.7, 0.8, 0.9)  # the two ends of it


@dataclass(frozen=True, kw_only=True)
class FeatureSpectra(OfImages):
    """Log amplitude of feature maps without and with what every residual unit adds, relative to frequency zero.

    On test images drawn by the seed of the run, see :mod:`snp_lib.analysis.fourier`.

    Arrays by name, for U units and K frequencies, NaN where smaller maps have fewer: ``units`` (U,) their names; ``frequency`` (U, K) in
    units of π; ``skip``, ``output`` and ``shuffled`` (U, K), means over images of the three states of
    :class:`snp_lib.analysis.residual.Addition`; ``sd`` (U, K), of the output over images; ``images`` (1,), how many.

    Raises:
        StoreError: the weights of the run are not here.
        ValueError: the network says of no residual unit what it adds.
    """

    prefix: ClassVar[str] = "fourier"

    def compute(self, setting: Setting) -> Arrays:
        model, seed = setting.network_at(self.epoch), setting.run.experiment.seed
        chosen = drawn(setting.dataset.test, self.images, seed)
        found = of_additions(model, chosen, setting.prepare, relative_log_amplitude, seed=seed, progress=setting.progress, **setting.passes)
        most = max(each.skip.shape[1] for each in found)

        def rows(values: Iterable[np.ndarray]) -> np.ndarray:
            return np.stack([np.pad(row, (0, most - len(row)), constant_values=np.nan) for row in values]).astype(np.float32)

        return {
            "units": np.array([each.unit for each in found]),
            "frequency": rows(diagonal_frequencies(each.side) for each in found),
            **{state: rows(getattr(each, state).mean(0).numpy() for each in found) for state in STATES},
            "sd": rows(each.output.std(0).numpy() for each in found),
            "images": np.array([len(chosen)]),
        }


@dataclass(frozen=True, kw_only=True)
class FrequencyNoise(Measurement):
    """Accuracy on test images with noise of one frequency, see :func:`snp_lib.analysis.fourier.correct_under_noise`.

    Arrays by name, for R rings: ``frequency`` (R,) in units of π; ``accuracy`` (2, R) in [0, 1], at equal ε and at equal energy, that of
    the mean ring; ``intact`` (1,) without noise; ``images`` (1,), how many.

    Attributes:
        images: test images drawn by the seed of the run, or all of fewer.
        epsilon: ± of every pixel and channel of the white noise, in standard deviations of the images; the paper's is unknown, the
            released code has 0.007 by default, at which nothing happens, and its author writes 0.7 in an example.

    Raises:
        StoreError: the weights of the run are not here.
    """

    images: int = 400
    epsilon: float = 0.7

    @property
    def what(self) -> str | None:
        return "noise" if self == type(self)() else None

    def name(self, run: Run) -> str:
        return "frequency-noise"

    def options(self, run: Run) -> dict[str, Any]:
        return {"images": self.images, "epsilon": self.epsilon, "rings": list(RINGS)}

    def compute(self, setting: Setting) -> Arrays:
        seed = setting.run.experiment.seed
        chosen = drawn(setting.dataset.test, self.images, seed)

        def correct(frequencies: Sequence[float], equal_energy: bool) -> list[float]:
            options: dict[str, Any] = {"epsilon": self.epsilon, "equal_energy": equal_energy, "seed": seed, "progress": setting.progress}
            found = correct_under_noise(setting.network, chosen, setting.prepare, frequencies, **options, **setting.passes)
            return [float(share) for share in found.mean(1)]

        intact, *equal_epsilon = correct((0.0, *RINGS), False)
        accuracy = np.array([equal_epsilon, correct(RINGS, True)])
        return {
            "frequency": np.array(RINGS),
            "accuracy": accuracy.astype(np.float32),
            "intact": np.array([intact], dtype=np.float32),
            "images": np.array([len(chosen)]),
        }


def has_maps(run: Run) -> bool:
    """Whether the network reads images and says what its residual units add."""
    network = run.network(0)
    return isinstance(network, ImageNetwork) and bool(network.residual_units)


def fourier_of(run: Run) -> list[Measurement]:
    """What a run has for the first half of chapter D3: its feature maps, trained and untrained."""
    return [FeatureSpectra(), FeatureSpectra(epoch=0)] if has_maps(run) else []


def noise_of(run: Run) -> list[Measurement]:
    """What a run has for the other half: noise on its images."""
    return [FrequencyNoise()] if has_maps(run) else []


def spectra(runs: Sequence[Run]) -> pd.DataFrame:
    """Relative log amplitude along the network: one row per seed, network, unit, state and frequency.

    Returns:
        Columns seed, network (trained, untrained), depth (of the unit, from 1), block, kind, state (skip, output, shuffled), frequency in
        units of π, amplitude, and sd over images of that of the output.
    """
    rows = []
    for run in runs:
        for network, arrays in both(FeatureSpectra, run).items():
            for place in places(run, network, arrays):
                unit = place["depth"] - 1
                for state in STATES:
                    table = {
                        name: arrays[column][unit] for name, column in (("frequency", "frequency"), ("amplitude", state), ("sd", "sd"))
                    }
                    rows.append(pd.DataFrame(place | {"state": state} | table))
    return pd.concat(rows, ignore_index=True).dropna(subset="frequency")


def changes(runs: Sequence[Run]) -> pd.DataFrame:
    """What every residual unit does at the highest frequency of its maps: one row per seed, network and unit.

    Returns:
        Columns seed, network, depth, block, kind, frequency; change of the relative log amplitude by the unit; shuffled, the same with
        its update at other positions; beyond, change minus shuffled.
    """
    table = spectra(runs)
    keys = ["seed", "network", "depth", "block", "kind"]
    highest = table[table.frequency == table.groupby(keys).frequency.transform("max")]
    wide = highest.pivot(index=[*keys, "frequency"], columns="state", values="amplitude").reset_index()
    wide = wide.assign(change=wide.output - wide["skip"], shuffled=wide.shuffled - wide["skip"])
    return wide.assign(beyond=wide.change - wide.shuffled).drop(columns=["output", "skip"]).rename_axis(columns=None)


def under_noise(runs: Sequence[Run]) -> pd.DataFrame:
    """Accuracy under noise: one row per seed, way of scaling and frequency.

    Returns:
        Columns seed, noise (at equal ε, at equal energy), frequency in units of π; accuracy and intact in [0, 1]; lost, their difference
        in percentage points.
    """
    rows = []
    for run in runs:
        arrays = FrequencyNoise().read(run)
        for way, accuracy in zip(WAYS, arrays["accuracy"].astype(np.float64), strict=True):
            intact = float(arrays["intact"][0])
            columns = {"frequency": arrays["frequency"], "accuracy": accuracy, "intact": intact, "lost": 100 * (intact - accuracy)}
            rows.append(pd.DataFrame({"seed": run.experiment.seed, "noise": way} | columns))
    return pd.concat(rows, ignore_index=True)


WAYS = ("equal ε", "equal energy")


def low_minus_high(table: pd.DataFrame, runs: Sequence[Run], way: str) -> list[float]:
    """Accuracy lost to noise of low frequencies minus that lost to high ones, means over rings, for each run in [0, 1]."""
    chosen = table[table.noise == way].set_index("seed")
    means = [chosen[chosen.frequency.round(3).isin(part)].lost.groupby(level=0).mean() for part in (LOW, HIGH)]
    return [float(means[0][run.experiment.seed] - means[1][run.experiment.seed]) / 100 for run in runs]


def mean_over_units(table: pd.DataFrame, runs: Sequence[Run], column: str, kind: str, *, learned: bool = False) -> list[float]:
    """Mean of a column over the units of a kind of the trained network, for each run; ``learned``: minus that of the untrained one."""
    means = table[table.kind == kind].groupby(["network", "seed"])[column].mean()
    seeds = [run.experiment.seed for run in runs]
    return [float(means[NETWORKS[0], seed] - (means[NETWORKS[1], seed] if learned else 0)) for seed in seeds]


def both(measurement: type[AtEpoch], run: Run) -> dict[str, Arrays]:
    """What was measured at the end and before training."""
    return {NETWORKS[0]: measurement().read(run), NETWORKS[1]: measurement(epoch=0).read(run)}


def places(run: Run, network: str, arrays: Arrays) -> list[dict[str, Any]]:
    """Where each unit of a measurement stands: seed, network, depth from 1, block and kind."""
    return [
        {"seed": run.experiment.seed, "network": network, "depth": depth} | dict(zip(("block", "kind"), split_site(name), strict=True))
        for depth, name in enumerate(arrays["units"].tolist(), start=1)
    ]
