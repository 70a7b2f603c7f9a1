"""Accuracy of sites predicted from single nodes, beside what was measured and what simpler guesses would say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

WORDS = {
    "independent": "independent nodes",
    "correlated": "correlated nodes",
    "scaled": "one factor for correlation",
    "each label": "a variance for each label",
    "other half": "from other images",
    "shuffled": "class means shuffled",
}
"""What figures and tables call ``WAYS``."""

NUMBERS = ("snr", "equal", "ones", "noise_ratio", "correlation")
"""One number a site, namely SNR at θ, SNR at equal density, ones per node at θ, and see ``noise_ratio`` and ``typical_correlation`` of
:mod:`snp_lib.performance.macroscopic`."""

CONTROLS = {"block": "depth", "snr": "SNR at θ", "equal": "SNR at equal density", "ones": "ones per node"}
"""Columns of :func:`predicted_accuracy` from which accuracy is guessed without nodes, and their names."""

FITTED = "independent nodes, fitted"
"""A monotone fit to the prediction from independent nodes, as those to ``CONTROLS``."""

MEAN = "mean of the others"

SAME = "same site, other seeds"
"""The mean accuracy of that very site in the networks of the other seeds, no theory, but as good as a guess may get without one."""

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
        Columns seed, network, block, kind, and those of ``WAYS``, rank correlation over labels of predicted and measured accuracy.
    """
    rows: list[dict[str, Any]] = []
    for run, state, arrays in _kept(runs):
        for s, site in enumerate(run.sites):
            block, kind = split_site(site)
            row = {"seed": run.experiment.seed, "network": state, "block": block, "kind": kind}
            rows.append(row | {way: rank_correlation(arrays["predicted"][w, s], arrays["measured"][s]) for w, way in enumerate(WAYS)})
    return pd.DataFrame(rows)


def guesses(table: pd.DataFrame) -> pd.DataFrame:
    """Every prediction of a site's accuracy, and monotone fits to each of ``CONTROLS`` made on the networks of the other seeds.

    A fit never sees the network that it guesses; of a single seed it is made on the other one of its two networks.

    Args:
        table: of :func:`predicted_accuracy`.

    Returns:
        One row per site and guess; seed, network, block, kind, accuracy (measured), guess (in ``WORDS``), and predicted, in [0, 1].
    """
    measured = table.accuracy.to_numpy()
    groups = (table.seed if table.seed.nunique() > 1 else table.network).tolist()
    found = {WORDS[way]: table[way].to_numpy() for way in WAYS}
    found |= {name: left_out(table[column].to_numpy(), measured, groups) for column, name in (CONTROLS | {"independent": FITTED}).items()}
    found[MEAN] = left_out(np.zeros(len(table)), measured, groups)
    if table.seed.nunique() > 1:
        of_site = table.groupby(["network", "block", "kind"]).accuracy
        count = of_site.transform("size").to_numpy()
        found[SAME] = (of_site.transform("sum").to_numpy() - measured) / (count - 1)
    sites = table[["seed", "network", "block", "kind", "accuracy"]]
    return pd.concat([sites.assign(guess=guess, predicted=values) for guess, values in found.items()], ignore_index=True)


def prediction_errors(guessed: pd.DataFrame) -> pd.DataFrame:
    """How far each guess lies from what was measured.

    Args:
        guessed: of :func:`guesses`.

    Returns:
        One row per seed and guess, with columns error (mean absolute, over the sites of the trained and the untrained network, in
        [0, 1]), trained and untrained (the same of one of them alone), bias (mean of guess minus measured, trained), and r2, one minus the
        mean squared error of the log-odds over their variance, negative for a guess worse than their mean.
    """
    rows: list[dict[str, Any]] = []
    for (guess, seed), own in guessed.groupby(["guess", "seed"], sort=False):
        missed = own.predicted - own.accuracy
        row = {"seed": seed, "guess": guess, "error": missed.abs().mean()}
        row |= {state: missed[own.network == state].abs().mean() for state in STATES}
        x, y = log_odds(own.predicted.to_numpy()), log_odds(own.accuracy.to_numpy())
        rows.append(row | {"bias": missed[own.network == STATES[0]].mean(), "r2": 1 - float(((x - y) ** 2).mean() / y.var())})
    return pd.DataFrame(rows)


def errors_by_seed(errors: pd.DataFrame, guess: str, *, beside: bool = False) -> list[float]:
    """The error of a guess for each seed.

    Args:
        errors: of :func:`prediction_errors`.
        beside: minus that of the best of ``CONTROLS``, best on average over the seeds.
    """
    wide = errors.pivot(index="seed", columns="guess", values="error")
    best = wide[list(CONTROLS.values())].mean().idxmin()
    return (wide[guess] - (wide[best] if beside else 0)).tolist()


def logits_as_gaussian(networks: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """The same prediction for the networks' own logits, which records keep, by one covariance for all labels and by one for each.

    Covariances of single labels come from few images, at CIFAR-100 a hundred for a hundred logits, and are those of the very images on
    which the network is tested.

    Returns:
        One row per run, with columns network, seed, accuracy (mean over labels), pooled and each (predicted), all in [0, 1]; skewness of
        the logit of the true label around its class mean, in units of its standard deviation there.
    """
    rows: list[dict[str, Any]] = []
    for network, runs in networks.items():
        for run in runs:
            logits, labels = run.logits.astype(np.float64), run.labels.astype(np.int64)
            groups = [logits[labels == label] for label in range(logits.shape[1])]
            means, each = np.stack([group.mean(0) for group in groups]), np.stack([np.cov(group.T) for group in groups])
            freedom = np.array([len(group) - 1 for group in groups])
            pooled = np.tensordot(freedom, each, 1) / freedom.sum()
            own = [(group[:, label] - means[label, label]) / group[:, label].std() for label, group in enumerate(groups)]
            row = {"network": network, "seed": run.experiment.seed, "skewness": float((np.concatenate(own) ** 3).mean())}
            row["accuracy"] = float(np.mean([(group.argmax(1) == label).mean() for label, group in enumerate(groups)]))
            rows.append(row | {name: float(gaussian_accuracy(means, of).mean()) for name, of in {"pooled": pooled, "each": each}.items()})
    return pd.DataFrame(rows)


def _kept(runs: Sequence[Run]) -> list[tuple[Run, str, Arrays]]:
    """Every run with each state of it and what was measured."""
    return [(run, state, NodesToSite(trained=state == STATES[0]).read(run)) for run in runs for state in STATES]
