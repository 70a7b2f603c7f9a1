"""What the filters of convolutional layers recognise through readouts of whole maps: single-filter performance (paper C)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import nn

from snp_lib.machine import measuring_batch
from snp_lib.models import Network
from snp_lib.models.sites import split_site
from snp_lib.performance import THETA, binarize, find_clusters, group_units, summarize, unit_matrices
from snp_lib.performance.clusters import cluster_index, column_noise, diagonal_shares
from snp_lib.performance.density import operating_curve
from snp_lib.performance.readout import ReadoutRecipe
from snp_lib.results.equal_density import HEADS, ones_for, operating_curves
from snp_lib.results.setting import Measurement, Setting
from snp_lib.results.sites import shuffle_outputs
from snp_lib.results.stages import STATISTICS, THETAS, index_of, statistics_at_stages, statistics_at_thetas
from snp_lib.store import Run, Unit
from snp_lib.store.derived import Arrays
from snp_lib.store.make import read_out

CONTROLS = ("measured", "outputs shuffled")


@dataclass(frozen=True, kw_only=True)
class Filters(Measurement):
    """Readouts of the flattened maps of every layer, as in the released code of paper C, and what each filter recognises by them.

    Everything but the pooling of the readouts is as in the run. Figures come from the test split; what pruning may
    use, the arrays under ``train``, from the training split alone.

    Arrays by name: ``thetas`` (θ,) and ``ones`` (o,); ``accuracy`` (1,) of the network and ``readout_accuracy`` (site,), in
    [0, 1]; ``statistics`` (2, site, θ, statistic) in the order of ``CONTROLS`` and of ``STATISTICS``; ``curves``
    (2, site, o), the SNR at so many ones a filter; for every site ``units/SITE`` (3, filter), the labels, the noise and the noise in
    the columns of its own labels of each filter at θ = 0.3, and ``silent/SITE`` (filter,), whether its matrix has no positive element.
    At the end of the training also ``matrix/SITE`` (label, label), the matrix of one filter in half precision, the one whose number of
    labels is the median; ``train/shares/SITE`` (filter, label), diagonal elements over the largest one, −1 for a silent filter,
    ``train/clusters/SITE`` (filter, label), the cluster of each label at θ = 0.3 or −1, and ``train/readout``, the weights of the
    readout of the last layer (label, feature) in half precision.

    Attributes:
        untrained: of the network as its seed made it, with the statistics of training images in its batch normalisation: with those
            that it begins with, 0 and 1, the maps of deep layers all but vanish, and no readout could learn from them.

    Raises:
        StoreError: the weights of the run are not here.
        ValueError: a network whose sites are no maps.
    """

    untrained: bool = False

    @property
    def what(self) -> str | None:
        return "filters"

    def epochs(self, run: Run) -> tuple[int | None, ...]:
        return (0 if self.untrained else None,)

    def name(self, run: Run) -> str:
        return f"filters{'-untrained' if self.untrained else ''}"

    def options(self, run: Run) -> dict[str, Any]:
        kept = {"thetas": list(THETAS), "statistics": list(STATISTICS), "ones": list(ones_for(len(run.class_names)))}
        return kept | {"readout": {name: value for name, value in asdict(_recipe(run)).items() if value is not None}}

    def compute(self, setting: Setting) -> Arrays:
        run, splits = setting.run, ("test",) if self.untrained else ("train", "test")
        model, ones = _calibrated(setting) if self.untrained else setting.network, ones_for(setting.dataset.num_classes)
        readouts, measured = read_out(model, run.experiment, setting.dataset, splits, _recipe(run), progress=setting.progress)
        arrays: Arrays = {"thetas": np.array(THETAS), "ones": np.array(ones)}
        statistics, curves = [], []
        for site, readout in readouts.items():
            weight = readout.linear.weight.detach().cpu()
            grouped = group_units(weight, run.sites[site])
            by_split = {
                split: unit_matrices(group_units(measured[split].class_means[site], run.sites[site]), grouped).numpy() for split in splits
            }
            test = by_split["test"]
            both = test, shuffle_outputs(test, seed=run.experiment.seed)
            statistics.append([statistics_at_thetas(matrices) for matrices in both])
            curves.append([operating_curve(matrices, ones) for matrices in both])
            binary, at_theta = binarize(test, THETA), summarize(test, THETA)
            arrays[f"units/{site}"] = np.stack([at_theta.labels_of_unit, at_theta.noise, column_noise(binary)]).astype(np.uint16)
            arrays[f"silent/{site}"] = test.max(axis=(1, 2)) <= 0
            if not self.untrained:
                middle = np.argsort(at_theta.labels_of_unit, kind="stable")[len(test) // 2]
                arrays[f"matrix/{site}"] = test[middle].astype(np.float16)
                arrays[f"train/shares/{site}"] = diagonal_shares(by_split["train"]).astype(np.float16)
                arrays[f"train/clusters/{site}"] = cluster_index(binarize(by_split["train"], THETA)).astype(np.int8)
        if not self.untrained:
            arrays["train/readout"] = readouts[list(run.sites)[-1]].linear.weight.detach().half().cpu().numpy()
        arrays |= {"statistics": np.moveaxis(np.array(statistics), 1, 0), "curves": np.moveaxis(np.array(curves), 1, 0)}
        arrays["readout_accuracy"] = np.array([measured["test"].readout_accuracy[site] for site in readouts])
        hits = measured["test"].logits.argmax(1) == setting.dataset.test.labels
        arrays["accuracy"] = np.array([hits.double().mean().item()])
        return arrays


def filters_of(run: Run) -> list[Measurement]:
    """What a run of a VGG has for chapter C1: its filters before and after the training."""
    return [Filters(), Filters(untrained=True)] if reads_filters(run) else []


def reads_filters(run: Run) -> bool:
    """Whether this is a run whose sites are the maps of a chain of convolutions, as those of a VGG are."""
    return run.experiment.model.startswith("vgg")


def filter_statistics(runs: Sequence[Run], *, thetas: Iterable[float] = (THETA,)) -> pd.DataFrame:
    """Averages over the filters of each layer, trained and untrained: one row per seed, network, outputs, layer and θ.

    Returns:
        Columns seed, network (trained, untrained), outputs (measured, outputs shuffled), block, theta, accuracy (of the layer's
        readout) and those of ``snp_lib.results.stages.STATISTICS``.

    Raises:
        ValueError: a θ that is not kept.
    """
    rows = []
    for run, network, arrays in _kept(runs):
        for (o, outputs), (s, site), theta in itertools.product(enumerate(CONTROLS), enumerate(run.sites), thetas):
            where = {"seed": run.experiment.seed, "network": network, "outputs": outputs, "block": split_site(site)[0], "theta": theta}
            values = arrays["statistics"][o, s, index_of(arrays, theta)]
            rows.append(where | {"accuracy": arrays["readout_accuracy"][s]} | dict(zip(STATISTICS, values, strict=True)))
    return pd.DataFrame(rows)


def filter_curves(runs: Sequence[Run]) -> pd.DataFrame:
    """SNR at equal density: one row per seed, network, outputs, layer and number of ones: columns as above, ones and snr."""
    rows = []
    for run, network, arrays in _kept(runs):
        for (o, outputs), (s, site), (n, ones) in itertools.product(enumerate(CONTROLS), enumerate(run.sites), enumerate(arrays["ones"])):
            where = {"seed": run.experiment.seed, "network": network, "outputs": outputs, "block": split_site(site)[0]}
            rows.append(where | {"ones": int(ones), "snr": arrays["curves"][o, s, n]})
    return pd.DataFrame(rows)


def middle_filter(run: Run, block: int, *, theta: float = THETA) -> dict[str, Any]:
    """One filter of a layer, the one whose number of labels is the median: ``raw`` matrix, ``binary`` and ``clusters`` for a figure."""
    raw = Filters().read(run)[f"matrix/block{block}"].astype(np.float32)
    binary = binarize(raw[None], theta)[0]
    return {"raw": raw, "binary": binary, "clusters": find_clusters(binary)}


def filter_by_filter(runs: Sequence[Run], blocks: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
    """What single filters recognise at θ = 0.3, all runs together: quantity → layer → values, one a filter."""
    names = ("labels per filter", "noise per filter", "noise in the columns of its labels")
    kept = [Filters().read(run) for run in runs]
    units = {f"layer {block}": np.concatenate([arrays[f"units/block{block}"] for arrays in kept], axis=1) for block in blocks}
    return {name: {layer: values[n] for layer, values in units.items()} for n, name in enumerate(names)}


def released_script(runs: Sequence[Run]) -> pd.DataFrame:
    """What the released pruning script of paper C would do: its flattened list of clusters, and its negative maxima.

    Its masks take cluster number i, of all clusters of a layer in a row, for those of filter i; what lies beyond the number of filters is
    not read. It divides a matrix without a positive element by its negative maximum, which makes it all ones.

    Returns:
        Columns seed, layer (of the masked convolution); clusters of the layer before it over its filters; density by the rule and by the
        script; wrong, the share of connections that the script keeps or cuts otherwise than the rule; silent and
        silent_untrained, filters of the layer whose matrix on the test split has no positive element.
    """
    rows = []
    for run in runs:
        kept, untrained, sites = Filters().read(run), Filters(untrained=True).read(run), list(run.sites)
        for before, after in itertools.pairwise(sites[-4:]):
            index = [kept[f"train/clusters/{site}"] for site in (before, after)]
            rule, script = (_joined(*map(sets, index)) for sets in (_unions, first_clusters))
            counts = index[0].max(axis=1) + 1
            row = {"seed": run.experiment.seed, "layer": split_site(after)[0], "clusters": counts.sum() / len(counts)}
            row |= {"density": rule.mean(), "script": script.mean(), "wrong": (rule != script).mean()}
            rows.append(row | {"silent": kept[f"silent/{after}"].sum(), "silent_untrained": untrained[f"silent/{after}"].sum()})
    return pd.DataFrame(rows)


def first_clusters(index: Int[np.ndarray, "filter label"]) -> Bool[np.ndarray, "filter label"]:
    """The clusters of a layer in a row, as many as it has filters, in place of what each recognises: a slip of the released script."""
    flat = [row == c for row in index for c in range(row.max(initial=-1) + 1)][: len(index)]
    return np.array([*flat, *[np.zeros(index.shape[1], dtype=bool)] * (len(index) - len(flat))])


def _unions(index: Int[np.ndarray, "filter label"]) -> Bool[np.ndarray, "filter label"]:
    return index >= 0


def _joined(before: Bool[np.ndarray, "filter label"], after: Bool[np.ndarray, "other label"]) -> Bool[np.ndarray, "other filter"]:
    """Whether two filters share a label."""
    return after.astype(np.int64) @ before.T.astype(np.int64) > 0


def three_units(filters: Sequence[Run], nodes: Sequence[Run], *, theta: float = THETA, share: float = 0.03) -> pd.DataFrame:
    """Filters, nodes and heads on the same axes, trained and untrained: one row per seed, unit, network and layer.

    Args:
        filters: runs of a VGG.
        nodes: runs of a compact transformer, whose hidden nodes and heads are read.
        share: of the elements of a matrix that a unit keeps where the density is equal.

    Returns:
        Columns seed, unit, network, depth (the layer over the last one), snr at θ, and at_density, with that share of ones, NaN where
        a record keeps no matrices of the untrained network.
    """
    tables = []
    wide, curves = filter_statistics(filters, thetas=(theta,)), filter_curves(filters)
    for run in filters[:1]:
        ones = min(ones_for(len(run.class_names)), key=lambda count: abs(count - share * len(run.class_names) ** 2))
    keys = ["seed", "network", "block"]
    table = wide[wide.outputs == CONTROLS[0]].merge(curves[(curves.outputs == CONTROLS[0]) & (curves.ones == ones)], on=keys)
    tables.append(table.assign(unit="filters", snr=table.snr_x, at_density=table.snr_y))
    for unit, kind in (("nodes", "ff_hidden"), ("heads", HEADS)):
        at_density = operating_curves(nodes, kinds=(kind,), counts=(ones,))
        statistics = _ends(nodes, kind, theta)
        table = statistics.merge(at_density.rename(columns={"snr": "at_density"}), on=keys, how="left")
        tables.append(table.assign(unit=unit))
    whole = pd.concat(tables, ignore_index=True)
    whole["depth"] = whole.block / whole.groupby("unit").block.transform("max")
    return whole[["seed", "unit", "network", "depth", "snr", "at_density"]]


def _ends(runs: Sequence[Run], kind: str, theta: float) -> pd.DataFrame:
    """SNR at θ of the nodes of one kind, or of heads, before and after the training."""
    unit: Unit = "head" if kind == HEADS else "node"
    site = "mha" if kind == HEADS else kind
    tables = []
    for run in runs:
        ends = {0: "untrained", run.experiment.recipe.epochs: "trained"}
        table = statistics_at_stages([run], thetas=(theta,), epochs=list(ends), unit=unit)
        tables.append(table[table.kind == site].assign(network=table.epoch.map(ends)))
    return pd.concat(tables)[["seed", "network", "block", "snr"]]


def _kept(runs: Sequence[Run]) -> Iterator[tuple[Run, str, Arrays]]:
    for run in runs:
        for untrained, network in ((False, "trained"), (True, "untrained")):
            yield run, network, Filters(untrained=untrained).read(run)


def _recipe(run: Run) -> ReadoutRecipe:
    return replace(run.experiment.readout, pooling="flat")


@torch.no_grad()
def _calibrated(setting: Setting, batches: int = 20) -> Network:
    """The untrained network in eval mode, its batch normalisation with the mean statistics of the first training images."""
    model = setting.network_at(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a mean over all batches
    model.train()
    for inputs, _ in itertools.islice(setting.dataset.train.batches(measuring_batch(setting.torch_device)), batches):
        model(setting.prepare(inputs.to(setting.torch_device)))
    return model.eval()
