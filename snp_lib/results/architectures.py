"""Beyond VGG-11: what pruning can save where, EfficientNet-B0, the linear layers of VGG-16, and two methods on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import nn

from snp_lib import experiments, store
from snp_lib.experiments import Scale
from snp_lib.latency import count_macs
from snp_lib.models import create_model
from snp_lib.models.sites import split_site
from snp_lib.performance import THETA, summarize
from snp_lib.performance.density import operating_curve
from snp_lib.pruning import compact
from snp_lib.results.afcc import Afcc, connected_by_clusters, pruned_layers
from snp_lib.results.pruning import table_of
from snp_lib.store import Run


def layer_costs(model: str, labels: int = 100, **options: Any) -> pd.DataFrame:
    """What the pruned layers of a VGG hold of the whole network: one row a layer, a row for all of them, and one for the network.

    Returns:
        Columns layer, parameters, macs of one image, and both as shares of the network (parameter share, mac share).
    """
    network = create_model(model, num_classes=labels, **options)
    rows: list[dict[str, Any]] = []
    for name in pruned_layers(network):
        layer, weights = network.layers[name], network.get_parameter(name).numel()
        title = "classifier" if layer.block is None else f"layer {layer.block}"
        rows.append({"layer": title, "parameters": weights, "macs": layer.places * weights})
    rows.append({"layer": "all of them"} | {key: sum(row[key] for row in rows) for key in ("parameters", "macs")})
    rows.append({"layer": "whole network", "parameters": _parameters(network), "macs": count_macs(network)})
    table = pd.DataFrame(rows)
    return table.assign(**{"parameter share": table.parameters / rows[-1]["parameters"], "mac share": table.macs / rows[-1]["macs"]})


def made_smaller(runs: Sequence[Run], thetas: Sequence[float]) -> pd.DataFrame:
    """The whole network after dead filters are removed, pruned by AFCC: one row per seed and θ.

    Returns:
        Columns seed, theta, filters (removed), parameters and macs as shares of the dense network's.
    """
    rows = []
    for run in runs:
        dense = run.network(0)  # the shapes depend on no weight
        for theta in thetas:
            small = compact(dense, connected_by_clusters(run, theta, dense))[0]
            gone = sum(dense.sites.values()) - sum(small.sites.values())
            shares = {"parameters": _parameters(small) / _parameters(dense), "macs": count_macs(small) / count_macs(dense)}
            rows.append({"seed": run.experiment.seed, "theta": theta, "filters": gone} | shares)
    return pd.DataFrame(rows)


def relative_accuracy(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Accuracy of pruned networks after fine-tuning over that of the intact network of the same seed, against the density.

    Args:
        tables: name of a method → its rows and those of ``dense``, as :func:`snp_lib.results.pruning.pruned_accuracy` has them.

    Returns:
        Columns method, seed, theta, density (mean over seeds at that θ) and relative.
    """
    rows = []
    for method, table in tables.items():
        intact = table[table.arm == "dense"].set_index("seed").after
        pruned = table[table.arm != "dense"]
        density = pruned.groupby("theta").density.transform("mean")
        rows.append(pruned.assign(method=method, density=density, relative=pruned.after / pruned.seed.map(intact)))
    return pd.concat(rows, ignore_index=True)[["method", "seed", "theta", "density", "relative"]]


def there(name: str, scale: Scale, seeds: Sequence[int]) -> list[Run]:
    """Those of the runs of an experiment that are finished, here or among the records."""
    found = [store.find(experiments.get(name, scale, seed)) for seed in seeds]
    return [run for run in found if run is not None]


def kinds_of_filters(runs: Sequence[Run], *, theta: float = THETA, share: float = 0.03) -> pd.DataFrame:
    """SNR of the filters of every measured site at θ, and where each keeps a share of its elements: one row per seed and site.

    Returns:
        Columns seed, block, kind (of an EfficientNet expansion, depthwise and block, its projection), snr and at_density.
    """
    rows = []
    for run in runs:
        for site in run.sites:
            (block, kind), matrices = split_site(site), run.matrices(site)
            ones = max(1, round(share * matrices[0].size))
            where = {"seed": run.experiment.seed, "block": block, "kind": kind}
            rows.append(where | {"snr": summarize(matrices, theta).snr, "at_density": operating_curve(matrices, [ones])[0]})
    return pd.DataFrame(rows)


def rise_of_expansions(runs: Sequence[Run]) -> list[float]:
    """SNR at equal density of the last expansion over that of the first, for each run."""
    table = kinds_of_filters(runs)
    expansions = table[table.kind == "expansion"].sort_values("block").groupby("seed").at_density
    rise = expansions.last() / expansions.first()
    return [float(rise[run.experiment.seed]) for run in runs]


def linear_layers(run: Run) -> list[Afcc]:
    """AFCC on each linear layer of a VGG-16 alone, and the intact network beside it."""
    depth = run.depth
    first = len(run.network(0).config.pooled) + 1
    return [Afcc(arm=arm, only=layer) for layer in range(first, depth + 2) for arm in ("afcc", "dense")]


def spared_by_linear_layers(runs: Sequence[Run], theta: float) -> list[float]:
    """Accuracy of a pruned VGG-16 minus the intact one, each linear layer alone, the smallest of the three, for each run."""
    spared = []
    for run in runs:
        both = linear_layers(run)
        tables = [table_of([run], both[start : start + 2]) for start in range(0, len(both), 2)]
        gaps = [table[table.theta == theta].after.item() - table[table.arm == "dense"].after.item() for table in tables]
        spared.append(min(gaps))
    return spared


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
