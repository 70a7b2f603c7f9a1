"""Accuracy of sites predicted from single nodes, beside what was measured and what simpler guesses would say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from snp_lib.data import Dataset, Split
from snp_lib.models.sites import split_site
from snp_lib.performance import THETA, group_units, summarize, train_readouts, unit_matrices
from snp_lib.performance.density import ones_at, snr_at_density
from snp_lib.performance.macroscopic import Moments, gaussian_accuracy, independent, moments, noise_ratio, typical_correlation
from snp_lib.performance.readout import Readout
from snp_lib.performance.statistics import left_out, log_odds, rank_correlation
from snp_lib.results.equal_density import STATES, ones_for
from snp_lib.results.setting import Measurement, Setting
from snp_lib.results.stages import silencing_of
from snp_lib.store import Run
from snp_lib.store.derived import Arrays

WAYS = ("independent", "correlated", "scaled", "each label", "other half", "shuffled")
"""Covariance of the nodes behind a prediction.

Independent nodes with one variance each; the measured covariance; independent nodes with variances ``noise_ratio`` times as large;
independent nodes with a variance for each label; independent nodes, their means and variances from the other half of the images; the
first with class means shuffled between nodes.
"""

NUMBERS = ("snr", "equal", "ones", "noise_ratio", "correlation")
"""One number a site: SNR at θ, SNR at equal density, ones per node at θ, and see ``noise_ratio`` and ``typical_correlation`` of
:mod:`snp_lib.performance.macroscopic`."""

CONTROLS = {"block": "depth", "snr": "SNR at θ", "equal": "SNR at equal density", "ones": "ones per node"}
"""Columns of :func:`predicted_accuracy` from which accuracy is guessed without nodes, and their names."""

DRAWS = 1024

IMAGES = 12_800  # that readouts of an untrained network learn from: a tenth of those of the run pass them
BATCH = 32

FEW = 16  # inputs at a time that stay in the cache of a processor


@dataclass(frozen=True, kw_only=True)
class NodesToSite(Measurement):
    """How the nodes of every site scatter among test images of one label, and the accuracy of the readout that follows from it.

    Trained: the run's own readouts. Untrained: readouts of the network as its seed made it, trained for one epoch on ``IMAGES``
    training images in batches of ``BATCH``, which takes a twelfth of the usual images.

    Arrays by name: ``measured`` (site, label) and ``predicted`` (way, site, label), accuracies in [0, 1] in the order of the run's
    sites and of ``WAYS``; ``numbers`` (site, number) in the order of ``NUMBERS``; ``sd/SITE`` (node,) in half precision, standard
    deviation of each node around its class means. See :mod:`snp_lib.performance.macroscopic`.

    Raises:
        StoreError: the weights of the run are not here.
    """

    trained: bool = True

    @property
    def what(self) -> str | None:
        return "macroscopic"

    def epochs(self, run: Run) -> tuple[int | None, ...]:
        return (None if self.trained else 0,)

    def name(self, run: Run) -> str:
        return "macroscopic" + ("" if self.trained else "-untrained")

    def options(self, run: Run) -> dict[str, Any]:
        kept: dict[str, Any] = {"ways": list(WAYS), "numbers": list(NUMBERS), "draws": DRAWS, "theta": THETA}
        return kept if self.trained else kept | {"images": IMAGES, "batch_size": BATCH}

    def compute(self, setting: Setting) -> Arrays:
        run, dataset = setting.run, setting.dataset
        model = setting.network_at(None if self.trained else 0)
        readouts = run.readouts() if self.trained else _quick_readouts(model, run, dataset, progress=setting.progress)
        readouts = {site: readout.to(setting.torch_device) for site, readout in readouts.items()}
        few = FEW if setting.torch_device.type == "cpu" else setting.passes["batch_size"]
        options: dict[str, Any] = {"num_classes": dataset.num_classes, "batch_size": few, "bfloat16": setting.bfloat16}
        found = moments(model, readouts, dataset.test, setting.prepare, parts=2, progress=setting.progress, **options)
        measured, predicted, numbers, arrays = [], [], [], {}
        for site in run.sites:
            halves, weight = found[site], readouts[site].linear.weight.detach().double().cpu().numpy()
            whole = halves[0] + halves[1]
            measured.append(whole.accuracy)
            predicted.append(predictions(halves, weight, seed=run.experiment.seed))
            numbers.append(_numbers(whole, weight))
            arrays[f"sd/{site}"] = np.sqrt(np.diagonal(whole.covariance)).astype(np.float16)
        arrays |= {"measured": np.array(measured, np.float32), "numbers": np.array(numbers)}
        return arrays | {"predicted": np.stack(predicted, axis=1).astype(np.float32)}


def macroscopic_of(run: Run) -> list[Measurement]:
    """Trained and untrained, where readouts have sequence pooling."""
    return [NodesToSite(), NodesToSite(trained=False)] if silencing_of(run) else []


def predictions(halves: Sequence[Moments], weight: Float[np.ndarray, "label node"], *, seed: int) -> Float[np.ndarray, "way label"]:
    """Accuracy on each label by each of ``WAYS``.

    Args:
        halves: moments of two halves of the images.
        weight: of the readout.
        seed: of the shuffle; the draws are those of seed 0.
    """
    whole = halves[0] + halves[1]

    def nodes_alone(of: Moments, means: Float[np.ndarray, "label node"] | None = None) -> Float[np.ndarray, " label"]:
        scores = (of.means if means is None else means) @ weight.T
        return gaussian_accuracy(scores, independent(weight, np.diagonal(of.covariance)), draws=DRAWS)

    scores, louder = whole.means @ weight.T, noise_ratio(weight, whole.covariance)
    shuffled = whole.means[:, np.random.default_rng(seed).permutation(weight.shape[1])]
    by_way = {
        "independent": nodes_alone(whole),
        "correlated": gaussian_accuracy(scores, weight @ whole.covariance @ weight.T, draws=DRAWS),
        "scaled": gaussian_accuracy(scores, louder * independent(weight, np.diagonal(whole.covariance)), draws=DRAWS),
        "each label": gaussian_accuracy(scores, independent(weight, whole.variances), draws=DRAWS),
        "other half": np.mean([nodes_alone(half) for half in halves], axis=0),
        "shuffled": nodes_alone(whole, shuffled),
    }
    return np.array([by_way[way] for way in WAYS])


def _numbers(whole: Moments, weight: Float[np.ndarray, "label node"]) -> list[float]:
    means, matrix = (group_units(torch.from_numpy(values).float(), values.shape[1]) for values in (whole.means, weight))
    matrices = unit_matrices(means, matrix).numpy()
    equal = snr_at_density(matrices, ones_for(len(weight))[1])
    together = [noise_ratio(weight, whole.covariance), typical_correlation(whole.covariance)]
    return [summarize(matrices, THETA).snr, equal, float(ones_at(matrices, THETA).mean()), *together]


def _quick_readouts(model: Any, run: Run, dataset: Dataset, *, progress: bool) -> dict[str, Readout]:
    """Readouts trained on few images, drawn by lot, the rest of their recipe being the run's."""
    chosen = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(run.experiment.seed))[:IMAGES]
    few = replace(dataset, train=Split(dataset.train.inputs[chosen], dataset.train.labels[chosen]))
    recipe = replace(run.experiment.readout, epochs=1, batch_size=BATCH)
    sites = recipe.chosen(run.sites)
    return train_readouts(model, few, sites, recipe, run.experiment.recipe, seed=run.experiment.seed, progress=progress)


def predicted_accuracy(runs: Sequence[Run]) -> pd.DataFrame:
    """Readout accuracy of every site, measured and predicted: one row per seed, network and site.

    Returns:
        Columns seed, network (trained or untrained), block, kind, accuracy (measured), those of ``WAYS`` (predicted), all in
        [0, 1], means over labels; those of ``NUMBERS``.

    Raises:
        StoreError: nobody measured a run.
    """
    rows: list[dict[str, Any]] = []
    for run, state, arrays in _kept(runs):
        for s, site in enumerate(run.sites):
            block, kind = split_site(site)
            row = {"seed": run.experiment.seed, "network": state, "block": block, "kind": kind, "accuracy": arrays["measured"][s].mean()}
            row |= dict(zip(WAYS, arrays["predicted"][:, s].mean(axis=1), strict=True))
            rows.append(row | dict(zip(NUMBERS, arrays["numbers"][s], strict=True)))
    return pd.DataFrame(rows)


def label_by_label(runs: Sequence[Run]) -> pd.DataFrame:
    """Does a prediction name the labels on which a site is good? One row per seed, network and site.

    Returns:
        Columns seed, network, block, kind, and those of ``WAYS``: rank correlation over labels of predicted and measured accuracy.
    """
    rows: list[dict[str, Any]] = []
    for run, state, arrays in _kept(runs):
        for s, site in enumerate(run.sites):
            block, kind = split_site(site)
            row = {"seed": run.experiment.seed, "network": state, "block": block, "kind": kind}
            rows.append(row | {way: rank_correlation(arrays["predicted"][w, s], arrays["measured"][s]) for w, way in enumerate(WAYS)})
    return pd.DataFrame(rows)


def prediction_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Error of each prediction, and of a monotone fit to each of ``CONTROLS`` made on the networks of the other seeds.

    Args:
        table: of :func:`predicted_accuracy`, two seeds at least for the controls.

    Returns:
        One row per seed and guess, with columns error (mean absolute, over the sites of the trained and the untrained network, in
        [0, 1]), trained and untrained (the same of one of them alone), and r2, the share of the variance of the log-odds explained.
    """
    guesses = {way: table[way].to_numpy() for way in WAYS}
    measured, seeds = table.accuracy.to_numpy(), table.seed.to_numpy()
    if len(set(seeds)) > 1:
        guesses |= {name: left_out(table[column].to_numpy(), measured, seeds) for column, name in CONTROLS.items()}
        guesses["mean of the others"] = left_out(np.zeros(len(table)), measured, seeds)
    rows: list[dict[str, Any]] = []
    for guess, values in guesses.items():
        missed = pd.Series(abs(values - measured))
        for seed in dict.fromkeys(seeds):
            own = seeds == seed
            row = {"seed": seed, "guess": guess, "error": missed[own].mean()}
            row |= {state: missed[own & (table.network == state).to_numpy()].mean() for state in STATES}
            x, y = log_odds(values[own]), log_odds(measured[own])
            rows.append(row | {"r2": 1 - float(((x - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())})
    return pd.DataFrame(rows)


def errors_beside_controls(errors: pd.DataFrame, way: str) -> list[float]:
    """For each seed, the error of a prediction minus that of the best of ``CONTROLS``, best on average over the seeds."""
    wide = errors.pivot(index="seed", columns="guess", values="error")
    best = wide[list(CONTROLS.values())].mean().idxmin()
    return (wide[way] - wide[best]).tolist()


def _kept(runs: Sequence[Run]) -> list[tuple[Run, str, Arrays]]:
    """Every run with each state of it and what was measured."""
    return [(run, state, NodesToSite(trained=state == STATES[0]).read(run)) for run in runs for state in STATES]
