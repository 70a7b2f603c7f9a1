"""Trainings that begin with heads alike up to a share ε: how the symmetry between heads breaks, step by step."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm.auto import tqdm

from snp_lib.analysis.order_parameter import critical_time, fit_line, growth, spread, spread_of_means
from snp_lib.data import Split
from snp_lib.experiments import Scale
from snp_lib.experiments.experiment import initial_model
from snp_lib.models import Network
from snp_lib.models.symmetry import head_parameters, make_heads_alike
from snp_lib.performance import group_units, unit_matrices
from snp_lib.performance.class_means import measure
from snp_lib.performance.heads import symmetry_breaking
from snp_lib.performance.readout import make_readout
from snp_lib.results.setting import Measurement, Setting, heads_needed
from snp_lib.store import Run
from snp_lib.store.derived import Arrays
from snp_lib.training.loop import Training
from snp_lib.training.step import RecordedStep

PARTS = ("query", "key", "value", "output")

PERMUTATIONS = 200  # of nodes between heads; their mean is all that is kept


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The trainings of a scale that begin with heads alike: every ε for as many steps of the run's own recipe, in float32.

    Attributes:
        epsilons: shares of the ordinary differences between heads; 0 and 1 among them.
        steps: of the optimiser, at most.
        every: steps between two records.
        until: a training ends where the order parameter of the outputs, mean over encoders, passes this; not one that begins above.
        images: of the test split and each label, for the class means of a record.
    """

    epsilons: tuple[float, ...]
    steps: int
    every: int
    until: float
    images: int


SCANS: dict[Scale, Scan] = {
    "smoke": Scan(epsilons=(0.0, 1e-1, 1.0), steps=20, every=10, until=0.5, images=5),
    "small": Scan(epsilons=(0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), steps=640, every=20, until=0.5, images=10),
}
"""Where there is none, nothing is trained, as larger scales learn by Muon, which steps along whole matrices and not element by element."""

LEVEL = 0.03
"""The order parameter from which the symmetry counts as broken, below where its growth slows down; independent heads have 1 − 1/H."""

GROWING = (1e-4, 1e-2)
"""Order parameters between which the rate of growth is measured, below the level; and above ``CLEAR`` times the one at the start."""

CLEAR = 3

ROUNDING = 2.0**-46
"""The square of the relative rounding of float32 (2⁻²³); order parameters of this size are those of equal heads, as far as can be seen."""


@dataclass(frozen=True, kw_only=True)
class SymmetricStart(Measurement):
    """A training that begins with the heads of every encoder alike up to ε, and how far they have parted at its steps.

    The network of the run as its seed makes it, its heads put together by :func:`snp_lib.models.symmetry.make_heads_alike`, then
    trained by the run's recipe, order of images and rates for the first ``steps`` steps; in float32, so that rounding parts no heads
    of its own accord where the kernels treat them alike.

    Arrays by name: ``steps`` (record,), finished steps; ``weights`` (record, encoder, part), order parameters of the parameters in
    the order of ``PARTS``; ``means`` (record, encoder), those of the class means of head outputs on some test images, averaged
    over tokens; ``information`` and ``null`` (record, encoder), bits of head and label, and of nodes shuffled between heads, where
    each node's weight for a label is its own class mean (:func:`matrices_by_means`, θ = 0.3); ``loss`` (record,), mean cross-entropy
    on the same images.

    Attributes:
        epsilon: share of the ordinary differences between heads.
        scan: everything that the trainings of a scale have in common.

    Raises:
        ValueError: the run's network names no heads.
    """

    epsilon: float
    scan: Scan

    @property
    def what(self) -> str | None:
        return "symmetry"

    def epochs(self, run: Run) -> tuple[int | None, ...]:
        return ()  # it trains its own network

    def name(self, run: Run) -> str:
        return f"symmetric-start-{self.epsilon:g}"

    def options(self, run: Run) -> dict[str, Any]:
        scan = self.scan
        return {"epsilon": self.epsilon, "steps": scan.steps, "every": scan.every, "until": scan.until, "images": scan.images}

    def compute(self, setting: Setting) -> Arrays:
        experiment, dataset, device = setting.run.experiment, setting.dataset, setting.torch_device
        model: Network = initial_model(experiment, dataset.num_classes)
        make_heads_alike(model, self.epsilon)
        recipe = replace(experiment.recipe, precision="float32")
        order = experiment.seed if experiment.order_seed is None else experiment.order_seed
        training = Training(model, dataset, recipe, order, device, "", None)
        step = RecordedStep(training) if training.recorded else functools.partial(training.step, model)
        look = _Look(setting, model, first_of_each(dataset.test, self.scan.images, dataset.num_classes))
        records = {0: look.record()}
        until = self.scan.until if np.mean(records[0]["means"]) < self.scan.until else math.inf
        bar = tqdm(total=self.scan.steps, desc=f"heads alike up to {self.epsilon:g}", disable=not setting.progress, leave=False)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), bar:
            over = False
            while not over:
                for inputs, targets in training.batches():
                    step(inputs, targets)
                    bar.update()
                    if training.done % self.scan.every == 0 or training.done == self.scan.steps:
                        records[training.done] = found = look.record()
                        if over := training.done == self.scan.steps or np.mean(found["means"]) >= until:
                            break
                training.check()
                if not over:
                    training.finish_epoch()
        arrays = {name: np.array([record[name] for record in records.values()]) for name in records[0]}
        return arrays | {"steps": np.array(list(records))}


class _Look:
    """What is looked at in the network of a training, which stays as it was."""

    def __init__(self, setting: Setting, model: Network, few: Split) -> None:
        self.setting, self.model, self.few = setting, model, few
        self.labels, self.heads = setting.dataset.num_classes, setting.run.num_heads
        widths = {site: model.sites[site] for site in heads_needed(setting.run)}
        pooled = {site: make_readout(torch.empty(1, 1, width), self.labels, "mean") for site, width in widths.items()}
        self.readouts = {site: readout.to(setting.torch_device) for site, readout in pooled.items()}

    def record(self) -> dict[str, Any]:
        """The order parameters now, how the heads divide the labels, and the loss."""
        found = measure(self.model, self.readouts, self.few, self.setting.prepare, num_classes=self.labels)
        self.model.train()
        weights = {place: float(spread(heads.double().cpu().numpy())) for place, heads in head_parameters(self.model).items()}
        means = [found.class_means[site] for site in self.readouts]
        divided = [symmetry_breaking(matrices_by_means(each), self.heads, permutations=PERMUTATIONS) for each in means]
        return {
            "weights": [[weights[block, part] for part in PARTS] for block in sorted({block for block, _ in weights})],
            "means": [spread_of_means(each.numpy(), self.heads) for each in means],
            "information": [each.information for each in divided],
            "null": [each.null_mean for each in divided],
            "loss": F.cross_entropy(found.logits, self.few.labels).item(),
        }


def first_of_each(split: Split, images: int, labels: int) -> Split:
    """The first inputs of every label, so many or as many as there are, in the order of the split."""
    index: list[Int64[Tensor, " n"]] = [(split.labels == label).nonzero().flatten()[:images] for label in range(labels)]
    chosen = torch.cat(index).sort().values
    return Split(split.inputs[chosen], split.labels[chosen])


def matrices_by_means(class_means: Float[Tensor, "label channel"]) -> Float[np.ndarray, "node label output"]:
    """Performance matrices of nodes whose weight for a label is their own class mean, mean over labels subtracted: nothing is trained."""
    centred = group_units(class_means - class_means.mean(0), class_means.shape[1])
    return unit_matrices(centred, centred).numpy()


def starts_of(run: Run) -> list[SymmetricStart]:
    """What a run has for chapter A6: one training for each ε of its scale; for ``cct`` alone."""
    scan = SCANS.get(run.experiment.scale) if run.experiment.name == "cct" else None
    return [SymmetricStart(epsilon=epsilon, scan=scan) for epsilon in scan.epsilons] if scan else []


def order_parameters(runs: Sequence[Run]) -> pd.DataFrame:
    """Order parameters against the step: one row per seed, ε, record and encoder.

    Returns:
        Columns seed, epsilon, step, block; outputs, of the class means of head outputs; weights, of queries, keys, values and output
        columns, their mean; largest, of all of these; excess, the information of head and label minus that of shuffled nodes
        (bits); loss, of the whole network.

    Raises:
        StoreError: nobody made the trainings of a run.
        ValueError: a run of another experiment or scale than those that have them.
    """
    tables = []
    for run in runs:
        if not (starts := starts_of(run)):
            raise ValueError(f"there are no trainings with heads alike for {run.experiment.id}, only for cct at {', '.join(SCANS)}")
        for start in starts:
            arrays = start.read(run)
            records, blocks = arrays["means"].shape
            columns = {
                "step": np.repeat(arrays["steps"], blocks),
                "block": np.tile(np.arange(1, blocks + 1), records),
                "outputs": arrays["means"].ravel(),
                "weights": arrays["weights"].mean(2).ravel(),
                "largest": np.maximum(arrays["weights"].max(2), arrays["means"]).ravel(),
                "excess": (arrays["information"] - arrays["null"]).ravel(),
                "loss": np.repeat(arrays["loss"], blocks),
            }
            tables.append(pd.DataFrame({"seed": run.experiment.seed, "epsilon": start.epsilon} | columns))
    return pd.concat(tables, ignore_index=True)


def over_encoders(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over encoders of :func:`order_parameters`: one row per seed, ε and record."""
    return table.groupby(["seed", "epsilon", "step"], as_index=False).mean().drop(columns="block")


def critical_times(table: pd.DataFrame, *, column: str = "outputs", level: float = LEVEL) -> pd.DataFrame:
    """When the order parameter passes a level, and how it grows before: one row per seed and ε between 0 and 1.

    Args:
        table: as :func:`over_encoders` gives it.

    Returns:
        Columns seed, epsilon, decades (log10 of 1/ε), time (steps, NaN where not within the training), rate (of the amplitude, 1 / step,
        within ``GROWING``; NaN where it began too near) and r2 of that straight line; fit, the time on the straight line through
        all times of the seed against the decades, and slope, steps per decade of it.
    """
    rows = []
    for (seed, epsilon), found in table[(table.epsilon > 0) & (table.epsilon < 1)].groupby(["seed", "epsilon"]):
        steps, order = found.step.tolist(), found[column].tolist()
        line = growth(steps, order, max(GROWING[0], CLEAR * order[0]), GROWING[1])
        place = {"seed": seed, "epsilon": epsilon, "decades": -math.log10(found.epsilon.iloc[0])}
        rows.append(place | {"time": critical_time(steps, order, level), "rate": line.slope, "r2": line.r2})
    times = pd.DataFrame(rows).sort_values(["seed", "decades"], ignore_index=True)
    lines = {seed: fit_line(found.decades.tolist(), found.time.tolist()) for seed, found in times.groupby("seed")}
    slope, intercept = (times.seed.map({seed: getattr(line, name) for seed, line in lines.items()}) for name in ("slope", "intercept"))
    return times.assign(fit=intercept + slope * times.decades, slope=slope)
