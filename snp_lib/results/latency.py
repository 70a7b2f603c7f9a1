"""Latency of runs pruned for real, and of the networks of several runs against each other."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from snp_lib import latency
from snp_lib.analysis.committee import SoftCommittee
from snp_lib.experiments import Scale
from snp_lib.machine import choose_device
from snp_lib.models import Network
from snp_lib.pruning import blocked, compact
from snp_lib.pruning.masks import Masks
from snp_lib.results import afcc
from snp_lib.results.filters import reads_filters
from snp_lib.results.pruning import THETAS, masks_of
from snp_lib.results.setting import Measurement, Setting
from snp_lib.store import Run
from snp_lib.store.derived import Arrays

FORMS = ("compact", "blocks")  # as snp_lib.pruning.Macs names them
SPREAD = ("ratio", "low", "high")
SECONDS: dict[Scale, float] = {"smoke": 1.0, "small": 60.0, "medium": 60.0, "paper": 60.0}  # for each batch size
COLUMNS = ("seconds", "low", "high", "ratio", "ratio_low", "ratio_high", "noise_low", "noise_high", "macs", "parameters", "passes")


@dataclass(frozen=True, kw_only=True)
class Timing(Measurement):
    """What is timed: it depends on the device, and any weights will do.

    Attributes:
        device: where it is timed: ``auto``, ``cpu`` or ``cuda``.
    """

    device: str = "auto"

    def on(self, device: str) -> Timing:
        return replace(self, device=device) if self.device == "auto" else self

    def epochs(self, run: Run) -> tuple[int | None, ...]:
        return ()


@dataclass(frozen=True, kw_only=True)
class PrunedLatency(Timing):
    """Seconds of a forward pass of a run pruned by ANDC at every θ, in each form, over those of the dense network.

    All are timed in the same rounds, the dense network twice (see :mod:`snp_lib.latency`). Latency depends on which
    weights are there and not on their values, so a record without weights will do. A mask multiplied into dense weights
    costs what the dense network costs; it is not listed.

    Arrays by name: ``thetas`` (θ,), ``batches`` (b,); ``ratio`` (b, form, θ, 3), median, 5th and 95th percentile over
    rounds, the forms in the order of ``FORMS``; ``noise`` (b, 3), the same of the dense network to itself;
    ``seconds`` (b,) and ``passes`` (b,) of the dense network; ``threads`` (1,).

    Attributes:
        thetas: None: those of the scale, see ``snp_lib.results.pruning.THETAS``.
        batches: inputs of a pass.
        seconds: for each batch size; None: that of the scale, see ``SECONDS``.
    """

    thetas: tuple[float, ...] | None = None
    batches: tuple[int, ...] = (1, 256)
    seconds: float | None = None

    @property
    def what(self) -> str | None:
        return "latency"

    def name(self, run: Run) -> str:
        return f"latency-pruned-{choose_device(self.device).type}"

    def options(self, run: Run) -> dict[str, Any]:
        kept = {"thetas": list(self._thetas(run)), "batches": list(self.batches), "device": choose_device(self.device).type}
        return kept | ({} if self.seconds is None else {"seconds": self.seconds})

    def _thetas(self, run: Run) -> tuple[float, ...]:
        return self.thetas or THETAS[run.experiment.scale]

    def _limit(self, run: Run) -> float:
        """Seconds for each batch size."""
        return self.seconds or SECONDS[run.experiment.scale]

    def _masks(self, run: Run, theta: float, network: Network) -> Masks:
        return masks_of(run, "andc", theta, network)

    def compute(self, setting: Setting) -> Arrays:
        run, thetas = setting.run, self._thetas(setting.run)
        dense = run.network(0)  # any weights will do
        networks: dict[str, nn.Module] = {"dense": dense}
        for theta in thetas:
            masks = self._masks(run, theta, dense)
            networks |= {f"compact {theta:g}": compact(dense, masks)[0], f"blocks {theta:g}": blocked(dense, masks)}
        limit, device = self._limit(run), choose_device(self.device)
        timed = [latency.compare(networks, batch, device, limit=limit) for batch in self.batches]

        def triple(spread: latency.Spread) -> list[float]:
            return [spread.median, spread.low, spread.high]

        return {
            "thetas": np.array(thetas),
            "batches": np.array(self.batches),
            "ratio": np.array([[[triple(each.ratio(f"{form} {theta:g}")) for theta in thetas] for form in FORMS] for each in timed]),
            "noise": np.array([triple(each.noise) for each in timed]),
            "seconds": np.array([each.reference.spread.median for each in timed]),
            "passes": np.array([each.reference.passes for each in timed]),
            "threads": np.array([torch.get_num_threads()]),
        }


@dataclass(frozen=True, kw_only=True)
class FilterLatency(PrunedLatency):
    """The same of a network of convolutions pruned by AFCC; its filters must have been measured."""

    @property
    def what(self) -> str | None:
        return "latency"

    def _thetas(self, run: Run) -> tuple[float, ...]:
        return self.thetas or afcc.THETAS[run.experiment.scale]

    def _limit(self, run: Run) -> float:
        return super()._limit(run) / 4  # a pass takes a fraction of a transformer's

    def _masks(self, run: Run, theta: float, network: Network) -> Masks:
        return afcc.connected_by_clusters(run, theta, network)


@dataclass(frozen=True, kw_only=True)
class Comparison(Timing):
    """Networks of several runs timed against the first of them, all in turn in every round (see :mod:`snp_lib.latency`).

    Latency depends on shapes and not on weights, so records will do. Kept with the first run of the first network.

    Arrays by name, those of ``COLUMNS`` (batch, network), and ``threads`` (1,).

    Attributes:
        networks: name → the run whose network is meant, or several, which stand for their soft committee.
        label: of this comparison, a plain file name.
        batches: inputs of a pass.
        compiled: time what ``torch.compile`` makes of them.

    Raises:
        ValueError: no network.
    """

    networks: Mapping[str, Sequence[Run]]
    label: str
    batches: tuple[int, ...] = (1,)
    compiled: bool = False

    @property
    def what(self) -> str | None:
        return None

    def __post_init__(self) -> None:
        if not self.networks:
            raise ValueError("name at least one network to time")

    @property
    def reference(self) -> Run:
        """The run that all are timed against, and with which the result is kept."""
        return next(iter(self.networks.values()))[0]

    def name(self, run: Run) -> str:
        return f"latency-{self.label}-{'compiled-' if self.compiled else ''}{choose_device(self.device).type}"

    def options(self, run: Run) -> dict[str, Any]:
        # a list, as results stand in this order
        shapes = [[key, [[run.experiment.model, run.experiment.model_options] for run in runs]] for key, runs in self.networks.items()]
        return {"networks": shapes, "batches": list(self.batches), "compiled": self.compiled, "device": choose_device(self.device).type}

    def compute(self, setting: Setting) -> Arrays:
        models, device = {key: _network(runs) for key, runs in self.networks.items()}, choose_device(self.device)
        limit, timed = SECONDS[self.reference.experiment.scale], []
        for batch in self.batches:
            with latency.compiled(models) if self.compiled else contextlib.nullcontext(models) as forms:
                timed.append(latency.compare(forms, batch, device, limit=limit).rows())
        arrays = {column: np.array([[row[column] for row in rows] for rows in timed]) for column in COLUMNS}
        return arrays | {"threads": np.array([torch.get_num_threads()])}


def latency_of(run: Run) -> list[Measurement]:
    """What a run has for chapters A5 and C3: the latency of its pruned forms."""
    if reads_filters(run):
        return [FilterLatency()]
    return [] if run.experiment.lean or not run.prunable else [PrunedLatency()]


def pruned_latency(runs: Sequence[Run], *, thetas: Sequence[float] | None = None, device: str = "auto") -> pd.DataFrame:
    """Latency of pruned networks over that of the dense one: one row per seed, batch, form and θ.

    Returns:
        Columns seed, batch, form (``compact``, ``blocks`` or ``dense``, which is the dense network once more and shows the
        noise), theta (NaN for dense); ratio, low and high, the median, 5th and 95th percentile over rounds.
    """
    kind = FilterLatency if reads_filters(runs[0]) else PrunedLatency
    rows, timing = [], kind(thetas=None if thetas is None else tuple(thetas), device=device)
    for run in runs:
        arrays = timing.read(run)
        for b, batch in enumerate(arrays["batches"]):
            key = {"seed": run.experiment.seed, "batch": batch}
            rows.append(key | {"form": "dense", "theta": np.nan} | dict(zip(SPREAD, arrays["noise"][b], strict=True)))
            for f, form in enumerate(FORMS):
                for t, theta in enumerate(arrays["thetas"]):
                    rows.append(key | {"form": form, "theta": theta} | dict(zip(SPREAD, arrays["ratio"][b, f, t], strict=True)))
    return pd.DataFrame(rows)


def latencies(comparison: Comparison) -> pd.DataFrame:
    """Networks timed against the first of them: one row per batch and network.

    Returns:
        Columns network and batch; seconds of a pass with low and high, ratio to the first network with ratio_low and
        ratio_high, noise_low and noise_high within which the ratio of the first to itself stays (medians, 5th and 95th
        percentiles over rounds); macs of one input, parameters, passes; threads.
    """
    arrays = comparison.read(comparison.reference)
    rows: list[dict[str, Any]] = []
    for b, batch in enumerate(comparison.batches):
        for n, key in enumerate(comparison.networks):
            rows.append({"network": key, "batch": batch} | {column: arrays[column][b, n] for column in COLUMNS})
    return pd.DataFrame(rows).assign(threads=int(arrays["threads"][0]))


def _network(runs: Sequence[Run]) -> nn.Module:
    members: list[nn.Module] = [run.network(0) for run in runs]  # any weights will do
    return members[0] if len(members) == 1 else SoftCommittee(members)
