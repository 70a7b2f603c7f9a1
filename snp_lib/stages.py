"""What nodes and heads recognise at stages of a training, and through other readouts than the run's own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from snp_lib import data, making
from snp_lib.derived import Arrays, derived
from snp_lib.performance import Pooling, SilencedFirst, Summary, group_units, jaccard, measure, summarize, unit_matrices
from snp_lib.performance.readout import Readout, TokenReadout
from snp_lib.store import Run, Unit
from snp_lib.training import accuracy
from snp_lib.training.augmentation import make_normalize

THETAS = (0.2, 0.3, 0.4, 0.5, 0.6)
STATISTICS = ("labels", "cluster_size", "clusters", "noise", "signal", "internal_noise", "external_noise", "snr")


def stage(
    run: Run,
    epoch: int,
    pooling: Pooling | None = None,
    *,
    unit: Unit = "node",
    device: str = "auto",
    refresh: bool = False,
    progress: bool = True,
) -> Arrays:
    """Readouts trained on the network as it was after ``epoch`` epochs, and what its nodes and heads recognise then.

    Everything but the weights of the network is as in the run: readouts, their recipe and seed, the test split.

    Args:
        pooling: of other readouts than the run's own, see :class:`snp_lib.performance.ReadoutRecipe`.
        unit: ``head`` measures the heads in place of the nodes, and reads the ``mha`` sites alone.

    Returns:
        Arrays by name. ``thetas`` (θ,); ``accuracy`` (1,) of the network and ``readout_accuracy`` (site,), in [0, 1];
        ``statistics`` (site, θ, statistic), in the order of ``STATISTICS`` and of the run's sites; for every
        ``mha`` site ``sets/SITE`` (θ, unit, ⌈label/8⌉), the diagonal sets as packed bits, see :func:`diagonal_sets_at`.

    Raises:
        StoreError: the run has no snapshot of that epoch, or its weights are not here.
    """
    options: dict[str, Any] = {"epoch": epoch, "thetas": list(THETAS), "statistics": list(STATISTICS)}
    name = f"stage-{epoch:03d}"
    if pooling is not None:
        options["pooling"], name = pooling, f"{name}-{pooling}"
    if unit == "head":  # a new option changes nothing that was measured without it
        options["unit"], name = unit, f"{name}-heads"
    compute = functools.partial(_measure_stage, run, epoch, pooling, unit, device, progress)
    return derived(run, name, options, compute, refresh=refresh)


def silenced_first(run: Run, *, device: str = "auto", refresh: bool = False, progress: bool = True) -> Arrays:
    """What the nodes of a finished run recognise if all others are silenced before the pooling instead of after it.

    The run's own readouts, which have sequence pooling; see :class:`snp_lib.performance.SilencedFirst`.

    Returns:
        Arrays by name. ``thetas`` (θ,); ``statistics`` (site, θ, statistic) as :func:`stage` has them; ``after``, the same
        with the definition of all other measurements, from the same images and weights; ``jaccard`` and ``chance``
        (site, θ), agreement of a node's two diagonal sets and of those of different nodes, see
        :func:`snp_lib.performance.jaccard`; ``accuracy`` (site,) of the sum of all nodes' fields, and ``readout_accuracy``
        (site,) of the readouts as they are, in [0, 1].

    Raises:
        StoreError: the weights of the run are not here.
        ValueError: the run's readouts have no sequence pooling.
    """
    options = {"thetas": list(THETAS), "statistics": list(STATISTICS)}
    return derived(run, "silenced-first", options, functools.partial(_silence_first, run, device, progress), refresh=refresh)


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
    """Numbers of finished epochs at which a run can be measured: before training, its snapshots, its end."""
    return sorted({0, *(run.experiment.snapshots or ()), run.experiment.recipe.epochs})


def _measure_stage(run: Run, epoch: int, pooling: Pooling | None, unit: Unit, device: str, progress: bool) -> Arrays:
    dataset = data.load(run.experiment.dataset, size=run.experiment.dataset_size, progress=progress)
    model = run.network(None if epoch == run.experiment.recipe.epochs else epoch).to(making.choose_device(device))
    recipe = run.experiment.readout if pooling is None else replace(run.experiment.readout, pooling=pooling)
    if unit == "head":
        recipe = replace(recipe, kinds=("mha",))
    sites = recipe.chosen(run.sites)
    readouts, measured = making.read_out(model, run.experiment, dataset, ("test",), recipe, progress=progress)
    found, rows, arrays = measured["test"], [], {"thetas": np.array(THETAS)}
    for site in sites:
        units = run.manifest["num_heads"] if unit == "head" else run.sites[site]
        summaries = _summaries(found.class_means[site], readouts[site], units)
        rows.append(_statistics(summaries))
        if site.endswith(".mha"):
            arrays[f"sets/{site}"] = np.packbits([summary.diagonal for summary in summaries], axis=-1)
    arrays["statistics"] = np.stack(rows)
    arrays["readout_accuracy"] = np.array([found.readout_accuracy[site] for site in sites])
    arrays["accuracy"] = np.array([accuracy(found.logits, dataset.test.labels)])
    return arrays


def _silence_first(run: Run, device: str, progress: bool) -> Arrays:
    dataset = data.load(run.experiment.dataset, size=run.experiment.dataset_size, progress=progress)
    place = making.choose_device(device)
    model, after, first = run.network().to(place), {}, {}
    for site, readout in run.readouts().items():
        if not isinstance(readout, TokenReadout):
            raise ValueError(f"silencing before the pooling needs sequence pooling; {run.experiment.id} has {type(readout).__name__}")
        after[site] = readout.to(place)
        first[site] = SilencedFirst(after[site], run.sites[site])
    normalize = make_normalize(run.experiment.recipe, dataset.train.images.to(place))
    found = [
        measure(model, readouts, dataset.test, normalize, num_classes=dataset.num_classes, progress=progress) for readouts in (first, after)
    ]
    rows: dict[str, list[Any]] = {"statistics": [], "after": [], "agreement": []}
    for site, nodes in run.sites.items():
        pair = [_summaries(measured.class_means[site], after[site], nodes) for measured in found]
        rows["statistics"].append(_statistics(pair[0]))
        rows["after"].append(_statistics(pair[1]))
        rows["agreement"].append([jaccard(one.diagonal, other.diagonal) for one, other in zip(*pair, strict=True)])
    arrays = {"thetas": np.array(THETAS)} | {name: np.array(values) for name, values in rows.items()}
    arrays["jaccard"], arrays["chance"] = np.moveaxis(arrays.pop("agreement"), -1, 0)
    for name, measured in zip(("accuracy", "readout_accuracy"), found, strict=True):
        arrays[name] = np.array([measured.readout_accuracy[site] for site in run.sites])
    return arrays


def _summaries(class_means: Float[Tensor, "label feature"], readout: Readout, units: int) -> list[Summary]:
    """What the units of a site recognise at every θ."""
    means, weight = (group_units(x, units) for x in (class_means, readout.linear.weight.detach().cpu()))
    matrices = unit_matrices(means, weight).numpy()
    return [summarize(matrices, theta) for theta in THETAS]


def _statistics(summaries: Sequence[Summary]) -> Float[np.ndarray, "theta statistic"]:
    averages = [summary.averages() for summary in summaries]
    return np.array([[row[name] for name in STATISTICS] for row in averages])
