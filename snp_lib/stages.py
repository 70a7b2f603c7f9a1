"""What nodes and heads recognise at stages of a training: before it, on the way, and at its end."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jaxtyping import Bool

from snp_lib import data, making
from snp_lib.derived import Arrays, derived
from snp_lib.performance import group_units, summarize, unit_matrices
from snp_lib.store import Run
from snp_lib.training import accuracy

THETAS = (0.2, 0.3, 0.4, 0.5, 0.6)
STATISTICS = ("labels", "cluster_size", "clusters", "noise", "signal", "internal_noise", "external_noise", "snr")


def stage(run: Run, epoch: int, *, device: str = "auto", refresh: bool = False, progress: bool = True) -> Arrays:
    """Readouts trained on the network as it was after ``epoch`` epochs, and what its nodes and heads recognise then.

    Everything but the weights of the network is as in the run: readouts, their recipe and seed, the test split.

    Returns:
        Arrays by name. ``thetas`` (θ,); ``accuracy`` (1,) of the network and ``readout_accuracy`` (site,), in [0, 1];
        ``statistics`` (site, θ, statistic), in the order of ``STATISTICS`` and of the run's sites; for every
        ``mha`` site ``sets/SITE`` (θ, node, ⌈label/8⌉), the diagonal sets as packed bits, see :func:`diagonal_sets_at`.

    Raises:
        StoreError: the run has no snapshot of that epoch, or its weights are not here.
    """
    snapshot = None if epoch == run.experiment.recipe.epochs else epoch
    options = {"epoch": epoch, "thetas": list(THETAS), "statistics": list(STATISTICS)}
    return derived(run, f"stage-{epoch:03d}", options, functools.partial(_measure_stage, run, snapshot, device, progress), refresh=refresh)


def index_of(arrays: Arrays, theta: float) -> int:
    """Where a θ stands in the arrays of a stage; raises ValueError for one that was not kept."""
    kept = np.flatnonzero(np.isclose(arrays["thetas"], theta))
    if not len(kept):
        raise ValueError(f"stages are kept for θ = {', '.join(map(str, THETAS))}, not {theta}")
    return int(kept[0])


def diagonal_sets_at(arrays: Arrays, site: str, theta: float, labels: int) -> Bool[np.ndarray, "node label"]:
    """Labels that each node of an ``mha`` site recognised at a stage; raises ValueError for a θ that was not kept."""
    return np.unpackbits(arrays[f"sets/{site}"][index_of(arrays, theta)], axis=-1, count=labels).astype(bool)


def stages(run: Run) -> list[int]:
    """Numbers of finished epochs at which a run can be measured: its snapshots and its end."""
    return [*(run.experiment.snapshots or ()), run.experiment.recipe.epochs]


def _measure_stage(run: Run, epoch: int | None, device: str, progress: bool) -> dict[str, np.ndarray]:
    dataset = data.load(run.experiment.dataset, size=run.experiment.dataset_size, progress=progress)
    sites, model = list(run.sites), run.network(epoch).to(making.choose_device(device))
    readouts, measured = making.read_out(model, run.experiment, dataset, ("test",), progress=progress)
    found = measured["test"]
    statistics = np.empty((len(sites), len(THETAS), len(STATISTICS)))
    arrays: dict[str, Any] = {"thetas": np.array(THETAS), "statistics": statistics}
    for s, site in enumerate(sites):
        means, weight = (group_units(x, run.sites[site]) for x in (found.class_means[site], readouts[site].linear.weight.detach().cpu()))
        matrices = unit_matrices(means, weight).numpy()
        summaries = [summarize(matrices, theta) for theta in THETAS]
        for t, summary in enumerate(summaries):
            averages = summary.averages()
            statistics[s, t] = [averages[name] for name in STATISTICS]
        if site.endswith(".mha"):
            arrays[f"sets/{site}"] = np.packbits([summary.diagonal for summary in summaries], axis=-1)
    arrays["readout_accuracy"] = np.array([found.readout_accuracy[site] for site in sites])
    arrays["accuracy"] = np.array([accuracy(found.logits, dataset.test.labels)])
    return arrays
