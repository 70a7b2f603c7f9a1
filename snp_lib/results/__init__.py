"""What was found for runs: each file computes, keeps and tabulates one thing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from snp_lib.experiments import Experiment
from snp_lib.results import (
    afcc,
    attention,
    baselines,
    filters,
    fourier,
    heads,
    hessian,
    landscape,
    latency,
    lesion,
    macroscopic,
    order_parameter,
    pruning,
    stages,
    superclasses,
    tokens,
    variance,
)
from snp_lib.results.setting import Measurement
from snp_lib.store import Run, run
from snp_lib.training.stopping import Stopped

MEASUREMENTS: dict[str, Callable[[Run], Sequence[Measurement]]] = {
    "stages": stages.stages_of,
    "heads": stages.heads_of,
    "ablation": heads.ablation_of,
    "attention": attention.attention_of,
    "pruning": pruning.prunings_of,
    "silencing": stages.silencing_of,
    "readouts": stages.readouts_of,
    "macroscopic": macroscopic.macroscopic_of,
    "latency": latency.latency_of,
    "symmetry": order_parameter.starts_of,
    "filters": filters.filters_of,
    "afcc": afcc.afcc_of,
    "fourier": fourier.fourier_of,
    "noise": fourier.noise_of,
    "variance": variance.variance_of,
    "lesion": lesion.lesion_of,
    "landscape": landscape.landscape_of,
    "hessian": hessian.hessian_of,
    "superclasses": superclasses.superclasses_of,
    "tokens": tokens.tokens_of,
    "baselines": baselines.baselines_of,
}
"""Name → what a run has of it, in order of value; none where it does not apply. One measurement more is one more entry."""


def measure(
    runs: Iterable[Run],
    *what: str | Measurement,
    device: str = "auto",
    refresh: bool = False,
    progress: bool = True,
    data_root: str | Path | None = None,
    deadline: float = math.inf,
) -> None:
    """Make measurements of runs where nobody has made them yet, and keep them with the runs.

    Whether the weights are here is asked for all of a run before the first one is made.

    Args:
        what: names of ``MEASUREMENTS``, ``all``, or single measurements with options of their own.
        device, progress, data_root: see :class:`snp_lib.results.setting.Setting`.
        refresh: make them anew even where they are kept.
        deadline: value of ``time.monotonic()`` after which none is begun.

    Raises:
        Stopped: the deadline passed; what was made is kept, and the same call goes on from there.
        ValueError: an unknown name.
        StoreError: the weights of a run are not here, or what is kept is damaged.
    """
    for finished in runs:
        wanted = [each.on(device) for each in measurements_of(finished, *what)]
        missing = [each for each in wanted if refresh or not each.kept(finished)]
        for epoch in [epoch for each in missing for epoch in each.epochs(finished)]:
            finished.require_weights(epoch)
        for each in missing:
            if time.monotonic() > deadline:
                raise Stopped("its time limit", f"before {each.name(finished)} of {finished.experiment.id}", "what was measured is kept")
            each.make(finished, device=device, refresh=refresh, progress=progress, data_root=data_root)


def measurements_of(finished: Run, *what: str | Measurement) -> list[Measurement]:
    """The measurements meant by these names for a run; raises ValueError for an unknown one."""
    names = [name for item in what for name in (MEASUREMENTS if item == "all" else [item])]
    if unknown := [name for name in names if isinstance(name, str) and name not in MEASUREMENTS]:
        raise ValueError(f"unknown measurement {unknown[0]!r}; there are {', '.join(MEASUREMENTS)}, and all")
    return [each for name in names for each in (MEASUREMENTS[name](finished) if isinstance(name, str) else [name])]


def run_all(experiments: Iterable[Experiment], *, measured: Sequence[str | Measurement] = (), **options: Any) -> list[Run]:
    """The finished runs of several experiments, in their order, measured while the weights are there.

    Args:
        measured: what :func:`measure` is to make of each.
        options: as for :func:`snp_lib.run`, from which the errors come too.
    """
    runs = []
    for experiment in experiments:
        runs.append(run(experiment, **options))
        measure(runs[-1:], *measured, **{name: options[name] for name in ("device", "progress", "data_root") if name in options})
    return runs
