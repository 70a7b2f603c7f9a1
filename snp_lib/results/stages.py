"""What nodes and heads recognise at stages of a training, and through other readouts than the run's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from snp_lib.models.sites import split_site
from snp_lib.performance import THETA, Summary, group_units, summarize, unit_matrices
from snp_lib.performance.class_means import measure
from snp_lib.performance.readout import Pooling, TokenReadout
from snp_lib.performance.silencing import SilencedFirst, jaccard
from snp_lib.results.setting import Measurement, Setting
from snp_lib.results.sites import site_statistics
from snp_lib.store import Run, Unit
from snp_lib.store.derived import Arrays
from snp_lib.store.make import read_out
from snp_lib.training.prediction import accuracy

THETAS = (0.2, 0.3, 0.4, 0.5, 0.6)

STATISTICS = ("labels", "cluster_size", "clusters", "noise", "signal", "internal_noise", "external_noise", "snr")


@dataclass(frozen=True, kw_only=True)
class Stage(Measurement):
    """Readouts trained on the network as it was after ``epoch`` epochs, and what its nodes and heads recognise then.

    Everything but the weights of the network is as in the run: readouts, their recipe and seed, the test split.

    Arrays by name: ``thetas`` (θ,); ``accuracy`` (1,) of the network and ``readout_accuracy`` (site,), in [0, 1];
    ``statistics`` (site, θ, statistic), in the order of ``STATISTICS`` and of the run's sites; for every ``mha`` site
    ``sets/SITE`` (θ, unit, ⌈label/8⌉), the diagonal sets as packed bits, see :func:`diagonal_sets_at`. Before training also
    ``means_test/SITE`` and ``weight/SITE`` (label, channel) in half precision, as a run has them: see :func:`matrices_at`.

    Attributes:
        epoch: finished epochs.
        pooling: of other readouts than the run's own, see :class:`snp_lib.performance.ReadoutRecipe`.
        unit: ``head`` measures the heads in place of the nodes, and reads the ``mha`` sites alone.

    Raises:
        StoreError: the run has no snapshot of that epoch, or its weights are not here.
    """

    epoch: int
    pooling: Pooling | None = None
    unit: Unit = "node"

    @property
    def what(self) -> str | None:
        return "heads" if self.unit == "head" else "readouts" if self.pooling else "stages"

    def epochs(self, run: Run) -> tuple[int | None, ...]:
        return (None if self.epoch == run.experiment.recipe.epochs else self.epoch,)

    def name(self, run: Run) -> str:
        return f"stage-{self.epoch:03d}{f'-{self.pooling}' if self.pooling else ''}{'-heads' if self.unit == 'head' else ''}"

    def options(self, run: Run) -> dict[str, Any]:
        kept: dict[str, Any] = {"epoch": self.epoch, "thetas": list(THETAS), "statistics": list(STATISTICS)}
        # an option that is off changes nothing that was measured without it
        return kept | ({"pooling": self.pooling} if self.pooling else {}) | ({"unit": self.unit} if self.unit == "head" else {})

    def compute(self, setting: Setting) -> Arrays:
        run = setting.run
        model = setting.network_at(None if self.epoch == run.experiment.recipe.epochs else self.epoch)
        recipe = run.experiment.readout if self.pooling is None else replace(run.experiment.readout, pooling=self.pooling)
        if self.unit == "head":
            recipe = replace(recipe, kinds=("mha",))
        sites = recipe.chosen(run.sites)
        readouts, measured = read_out(model, run.experiment, setting.dataset, ("test",), recipe, progress=setting.progress)
        test, rows, arrays = measured["test"], [], {"thetas": np.array(THETAS)}
        for site in sites:
            weight = readouts[site].linear.weight.detach().cpu()
            summaries = _summaries(test.class_means[site], weight, run.num_heads if self.unit == "head" else run.sites[site])
            rows.append(_statistics(summaries))
            if site.endswith(".mha"):
                arrays[f"sets/{site}"] = np.packbits([summary.diagonal for summary in summaries], axis=-1)
            if self.epoch == 0 and self.pooling is None:
                arrays |= {f"means_test/{site}": test.class_means[site].half().numpy(), f"weight/{site}": weight.half().numpy()}
        arrays["statistics"] = np.stack(rows)
        arrays["readout_accuracy"] = np.array([test.readout_accuracy[site] for site in sites])
        arrays["accuracy"] = np.array([accuracy(test.logits, setting.dataset.test.labels)])
        return arrays


@dataclass(frozen=True, kw_only=True)
class SilencedNodes(Measurement):
    """What the nodes of a finished run recognise if all others are silenced before the pooling instead of after it.

    The run's own readouts, which have sequence pooling; see :class:`snp_lib.performance.silencing.SilencedFirst`.

    Arrays by name: ``thetas`` (θ,); ``statistics`` (site, θ, statistic) as :class:`Stage` has them; ``after``, the same
    with the definition of all other measurements, from the same inputs and weights; ``jaccard`` and ``chance`` (site, θ),
    agreement of a node's two diagonal sets and of those of different nodes, see :func:`snp_lib.performance.silencing.jaccard`;
    ``accuracy`` (site,) of the sum of all nodes' fields, and ``readout_accuracy`` (site,) of the readouts as they are, in [0, 1].

    Raises:
        StoreError: the weights of the run are not here.
        ValueError: the run's readouts have no sequence pooling.
    """

    @property
    def what(self) -> str | None:
        return "silencing"

    def name(self, run: Run) -> str:
        return "silenced-first"

    def options(self, run: Run) -> dict[str, Any]:
        return {"thetas": list(THETAS), "statistics": list(STATISTICS)}

    def compute(self, setting: Setting) -> Arrays:
        run, after, first = setting.run, {}, {}
        for site, readout in run.readouts().items():
            if not isinstance(readout, TokenReadout):
                raise ValueError(f"silencing before the pooling needs sequence pooling; {run.experiment.id} has {type(readout).__name__}")
            after[site] = readout.to(setting.torch_device)
            first[site] = SilencedFirst(after[site], run.sites[site])
        labels, test = setting.dataset.num_classes, setting.dataset.test
        both = [
            measure(setting.network, readouts, test, setting.prepare, num_classes=labels, progress=setting.progress, **setting.passes)
            for readouts in (first, after)
        ]
        rows: dict[str, list[Any]] = {"statistics": [], "after": [], "agreement": []}
        for site, nodes in run.sites.items():
            weight = after[site].linear.weight.detach().cpu()
            pair = [_summaries(measured.class_means[site], weight, nodes) for measured in both]
            rows["statistics"].append(_statistics(pair[0]))
            rows["after"].append(_statistics(pair[1]))
            rows["agreement"].append([jaccard(one.diagonal, other.diagonal) for one, other in zip(*pair, strict=True)])
        arrays = {"thetas": np.array(THETAS)} | {name: np.array(values) for name, values in rows.items()}
        arrays["jaccard"], arrays["chance"] = np.moveaxis(arrays.pop("agreement"), -1, 0)
        for name, measured in zip(("accuracy", "readout_accuracy"), both, strict=True):
            arrays[name] = np.array([measured.readout_accuracy[site] for site in run.sites])
        return arrays


def stages(run: Run) -> list[int]:
    """Numbers of finished epochs at which a run can be measured: before training, its snapshots, its end."""
    return sorted({0, *(run.experiment.snapshots or ()), run.experiment.recipe.epochs})


def stages_of(run: Run) -> list[Measurement]:
    """What a run has for chapters A3 and A4: its nodes at every stage but the end, which is the run itself."""
    return [Stage(epoch=epoch) for epoch in stages(run)[:-1]]


def heads_of(run: Run) -> list[Measurement]:
    """Its heads before training."""
    return [Stage(epoch=0, unit="head")] if run.sites_of("mha") else []


def readouts_of(run: Run) -> list[Measurement]:
    """Its nodes before and after training through every other readout; none for a run whose own pooling is not sequence pooling."""
    ends = (0, run.experiment.recipe.epochs)
    poolings = [pooling for pooling in READOUTS.values() if pooling is not None]
    return [Stage(epoch=epoch, pooling=pooling) for pooling in poolings for epoch in ends] if _pools_tokens(run) else []


def silencing_of(run: Run) -> list[Measurement]:
    """Its nodes silenced before the pooling, where there is sequence pooling."""
    return [SilencedNodes()] if _pools_tokens(run) else []


def _pools_tokens(run: Run) -> bool:
    return run.experiment.readout.pooling is None and "stem" not in run.sites


def index_of(arrays: Arrays, theta: float) -> int:
    """Where a θ stands in the arrays of a stage; raises ValueError for one that was not kept."""
    kept = np.flatnonzero(np.isclose(arrays["thetas"], theta))
    if not len(kept):
        raise ValueError(f"stages are kept for θ = {', '.join(map(str, THETAS))}, not {theta}")
    return int(kept[0])


def diagonal_sets_at(arrays: Arrays, site: str, theta: float, labels: int) -> Bool[np.ndarray, "node label"]:
    """Labels that each node of an ``mha`` site recognised at a stage; raises ValueError for a θ that was not kept."""
    return np.unpackbits(arrays[f"sets/{site}"][index_of(arrays, theta)], axis=-1, count=labels).astype(bool)


def matrices_at(arrays: Arrays, site: str, units: int) -> Float[np.ndarray, "unit label output"]:
    """Performance matrices of the units of a site before training; raises ValueError for a stage that keeps no class means."""
    if f"weight/{site}" not in arrays:
        raise ValueError(
            f"this measurement keeps no class means of {site}: only stages before training do, and older ones did not. "
            "Make it anew where the data are: Stage(epoch=0).make(run, refresh=True)."
        )
    means, weight = (torch.from_numpy(arrays[f"{kind}/{site}"].astype(np.float32)) for kind in ("means_test", "weight"))
    return unit_matrices(group_units(means, units), group_units(weight, units)).numpy()


def statistics_at_thetas(matrices: Float[np.ndarray, "unit label output"]) -> Float[np.ndarray, "theta statistic"]:
    """Averages over the units of a site at every one of ``THETAS``, in the order of ``STATISTICS``."""
    return _statistics([summarize(matrices, theta) for theta in THETAS])


def _summaries(class_means: Float[Tensor, "label feature"], weight: Float[Tensor, "label feature"], units: int) -> list[Summary]:
    """What the units of a site recognise at every θ."""
    matrices = unit_matrices(group_units(class_means, units), group_units(weight, units)).numpy()
    return [summarize(matrices, theta) for theta in THETAS]


def _statistics(summaries: Sequence[Summary]) -> Float[np.ndarray, "theta statistic"]:
    averages = [summary.averages() for summary in summaries]
    return np.array([[row[name] for name in STATISTICS] for row in averages])


READOUTS: dict[str, Pooling | None] = {"sequence pooling": None, "mean pooling": "mean", "flattened": "flat"}
"""Readouts by the name that tables give them; the first is that of the runs."""


def statistics_at_stages(
    runs: Sequence[Run],
    *,
    thetas: Iterable[float] = (THETA,),
    epochs: Sequence[int] | None = None,
    pooling: Pooling | None = None,
    unit: Unit = "node",
) -> pd.DataFrame:
    """Averages over the units of each site at stages of the training: one row per seed, epoch, site and threshold.

    The end of a training is read from the run itself, unless other readouts are asked for.

    Args:
        epochs: finished epochs; default: every stage of the run, see :func:`stages`.
        pooling: of other readouts, see :class:`Stage`.
        unit: ``head`` for the heads of the ``mha`` sites.

    Returns:
        Columns seed, epoch, block, kind, theta, accuracy (of the site's readout) and those of
        ``STATISTICS``, which are named as in :func:`snp_lib.results.sites.site_statistics`.

    Raises:
        ValueError: a θ that the stages do not keep.
    """
    rows, thetas = [], list(thetas)
    for run in runs:
        for epoch in epochs if epochs is not None else stages(run):
            if pooling is None and epoch == run.experiment.recipe.epochs:
                rows.append(_of_the_run(run, thetas, unit))
            else:
                arrays = Stage(epoch=epoch, pooling=pooling, unit=unit).read(run)
                rows.append(_of_a_measurement(arrays, thetas, run.experiment.seed, _sites(run, unit)).assign(epoch=epoch))
    columns = ["seed", "epoch", "block", "kind", "theta", "accuracy", *STATISTICS]
    return pd.concat(rows, ignore_index=True)[columns]


def statistics_by_readout(runs: Sequence[Run], *, thetas: Iterable[float] = (THETA,)) -> pd.DataFrame:
    """The same before and after the training for every one of ``READOUTS``: a column readout more."""
    thetas, tables = list(thetas), []
    for name, pooling in READOUTS.items():
        for run in runs:
            ends = [0, run.experiment.recipe.epochs]
            found = statistics_at_stages([run], thetas=thetas, epochs=ends, pooling=pooling)
            tables.append(found.assign(readout=name))
    return pd.concat(tables, ignore_index=True)


def silencing(runs: Sequence[Run], *, thetas: Iterable[float] = (THETA,)) -> pd.DataFrame:
    """Nodes silenced after the pooling, as everywhere else, and before it: one row per seed, site, threshold and way.

    Returns:
        Columns seed, block, kind, theta, silenced (after the pooling, before the pooling), accuracy (of the sum of the
        fields), those of ``STATISTICS``, and jaccard and chance: agreement of a node's two diagonal sets, and that of
        different nodes, see :class:`SilencedNodes`.
    """
    rows, thetas = [], list(thetas)
    for run in runs:
        arrays = SilencedNodes().read(run)
        ways = {"after the pooling": ("after", "readout_accuracy"), "before the pooling": ("statistics", "accuracy")}
        for way, columns in ways.items():
            found = _of_a_measurement(arrays, thetas, run.experiment.seed, _sites(run, "node"), *columns, ("jaccard", "chance"))
            rows.append(found.assign(silenced=way))
    return pd.concat(rows, ignore_index=True)


def learned_rise(rises: pd.DataFrame) -> pd.DataFrame:
    """The rise at the end of the training minus that before it, in column learned: as ``snr_rise`` of ``results.sites``, without epochs."""
    keys = [name for name in rises.columns if name not in ("epoch", "rise")]
    rise = rises.pivot(index=keys, columns="epoch", values="rise")
    return (rise[rise.columns.max()] - rise[0]).rename("learned").reset_index()


def smallest(table: pd.DataFrame, column: str, runs: Sequence[Run], kind: str) -> list[float]:
    """The smallest value of a column at one kind of site, for each run; NaN where any is NaN."""
    values = table[table.kind == kind].groupby("seed")[column].agg(lambda found: found.min(skipna=False))
    return [float(values[run.experiment.seed]) for run in runs]


def _sites(run: Run, unit: Unit) -> list[str]:
    return list(run.sites) if unit == "node" else run.sites_of("mha")


def _of_the_run(run: Run, thetas: Sequence[float], unit: Unit) -> pd.DataFrame:
    sites = _sites(run, unit)
    accuracy = [run.metrics["readout_accuracy"][site] for site in sites for _ in thetas]
    kinds = {split_site(site)[1] for site in sites}
    return site_statistics([run], kinds=kinds, thetas=thetas, unit=unit).assign(epoch=run.experiment.recipe.epochs, accuracy=accuracy)


def _of_a_measurement(
    arrays: Arrays,
    thetas: Sequence[float],
    seed: int,
    sites: Sequence[str],
    statistics: str = "statistics",
    accuracy: str = "readout_accuracy",
    more: Sequence[str] = (),
) -> pd.DataFrame:
    rows = []
    for s, site in enumerate(sites):
        block, kind = split_site(site)
        for theta in thetas:
            at = index_of(arrays, theta)
            row: dict[str, Any] = {"seed": seed, "block": block, "kind": kind, "theta": theta}
            row |= {"accuracy": arrays[accuracy][s]} | {name: arrays[name][s, at] for name in more}
            rows.append(row | dict(zip(STATISTICS, np.asarray(arrays[statistics][s, at]), strict=True)))
    return pd.DataFrame(rows)
