"""Clusters, pruning masks and head ablation against the plain way of doing each: seconds and ratios, round by round.

    python benchmarks/measurements.py [--rounds 5] [--threads 1] [--record NAME]

The plain ways are those that the tests hold the library to (tests/twins.py); here, too, both must find the same. All
ways of a part are timed in turn in every round, so a machine whose speed drifts changes the seconds and not the ratios.

- Clusters and statistics of a site of 512 nodes and 100 labels: real matrices of the record cct-small-s0, each node of a
  site of 256 twice. The loop over labels is timed reading arrays and stopping at the first zero of a square, and reading
  tensors and adding up every square, as the released code of paper C does.
- Masks of all layers of cct_7_3x1, from random diagonal sets with the real share of labels per node.
- Ablation of each of the 28 heads of cct_7_3x1, untrained, its weights made lively so that every head shows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import keeping
import numpy as np
import torch
from torch import Tensor, nn

from snp_lib import experiments, store
from snp_lib.analysis.ablation import ablated_logits, kept_heads
from snp_lib.latency import count_macs
from snp_lib.machine import PROJECT
from snp_lib.models import create_model
from snp_lib.models.cct import CCT
from snp_lib.performance import Summary, binarize, diagonal_sets, summarize
from snp_lib.pruning.masks import andc, magnitude, random_clusters, shuffled

sys.path.insert(0, str(PROJECT / "tests"))
import twins

SITES = ("block1.ff_hidden", "block3.ff_hidden", "block5.ff_hidden")


def timed(rows: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, dict[str, list[float]]], list[Any]]:
    """Seconds of every row in every round, after one that is not counted; how many times faster than the first; results."""
    found: dict[str, list[float]] = {name: [] for name in rows}
    results: dict[str, Any] = {}
    for round_ in range(rounds + 1):
        for name, task in rows.items():
            took = keeping.seconds(lambda n=name, t=task: results.update({n: t()}))
            if round_:
                found[name].append(took)
    first = found[next(iter(rows))]
    times = {
        name: {"seconds": values, "ratio": [base / v for base, v in zip(first, values, strict=True)]} for name, values in found.items()
    }
    return times, list(results.values())


def clusters(site: str, rounds: int) -> tuple[dict[str, Any], str]:
    run = store.run(experiments.get("cct", "small", 0), progress=False)
    matrices = np.concatenate([run.matrices(site)] * 2)

    def loop(square: Callable[[Any, list[int]], bool], as_tensor: bool) -> tuple[list[list[list[int]]], list[int]]:
        binary = binarize(matrices)
        units = list(torch.from_numpy(binary).float()) if as_tensor else list(binary)
        found = [twins.clusters(unit, square) for unit in units]
        return found, [int(unit.sum()) - sum(len(c) ** 2 for c in own) for unit, own in zip(units, found, strict=True)]

    def ours() -> Summary:
        summary = summarize(matrices)
        summary.averages()
        return summary

    rows = {
        "loop over labels, tensors, every square added up": lambda: loop(twins.counted_square, True),
        "loop over labels, arrays, stopping at a zero": lambda: loop(twins.is_square, False),
        "all nodes at once, with the statistics": ours,
    }
    times, (added, stopped, summary) = timed(rows, rounds)
    assert added == stopped == (summary.clusters, summary.noise.tolist())
    return times, f"{len(matrices)} nodes, {matrices.shape[1]} labels, {summary.labels_per_unit():.1f} labels per node"


def network() -> CCT:
    torch.manual_seed(0)
    model = create_model("cct_7_3x1", num_classes=100).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def masks(rounds: int) -> tuple[dict[str, Any], str]:
    model, rng = network(), np.random.default_rng(0)
    run = store.run(experiments.get("cct", "small", 0), progress=False)
    share = float(np.mean([diagonal_sets(binarize(run.matrices(site, split="train"))).mean() for site in run.sites]))
    sets = {site: rng.random((units, 100)) < share for site, units in model.sites.items()}
    like = andc(sets, model)
    rows = {
        "ANDC, weight by weight with sets of labels": lambda: twins.andc(sets, model),
        "ANDC": lambda: andc(sets, model),
        "random clusters": lambda: random_clusters(sets, model, like, seed=0),
        "largest weights": lambda: magnitude(model, like),
        "shuffled": lambda: shuffled(like, seed=0),
    }
    times, results = timed(rows, rounds)
    assert all(torch.equal(results[0][name], mask) for name, mask in like.items())
    return times, f"{len(like)} layers, {sum(mask.numel() for mask in like.values()):,} weights, {100 * share:.1f} labels per node"


class Ablation(nn.Module):
    """All variants of all sites as one module, so that their multiply-accumulates can be counted."""

    def __init__(self, model: CCT, kept: np.ndarray) -> None:
        super().__init__()
        self.model, self.kept = model, kept

    def forward(self, images: Tensor) -> Tensor:
        intact, ablated = ablated_logits(self.model, images, self.kept)
        return torch.cat([intact[None], *ablated.values()])


@torch.no_grad()
def ablation(images: int, rounds: int) -> tuple[dict[str, Any], str]:
    model = network()
    kept = kept_heads("removed", model.config.num_heads)
    batch = torch.randn(images, 3, 32, 32)
    sites = [site for site in model.sites if site.endswith(".mha")]
    ours = Ablation(model, kept)

    def whole_passes() -> Tensor:
        logits = [model(batch)]
        for site in sites:
            for variant in kept:
                with twins.heads_off(model, site, variant):
                    logits.append(model(batch))
        return torch.stack(logits)

    rows = {
        "a whole pass for every head": whole_passes,
        "from behind the head on": lambda: ours(batch),
        "one whole pass": lambda: model(batch),
    }
    times, (expected, found, intact) = timed(rows, rounds)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found[1:] - intact).abs().amax((1, 2)).min() > 1e-2  # every head shows
    times["from behind the head on"]["macs"] = count_macs(ours, (3, 32, 32)) / count_macs(model)
    times["a whole pass for every head"]["macs"] = 1 + len(sites) * len(kept)
    return times, f"{len(sites) * len(kept)} heads, {images} images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds counted (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--images", type=int, default=16, help="images of the head ablation (default: 16)")
    parser.add_argument("--record", metavar="NAME", help="keep the numbers in data/records/benchmarks/NAME.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = keeping.conditions(torch.device("cpu")) | {"parts": {}}
    parts: dict[str, Callable[[], tuple[dict[str, Any], str]]] = {
        **{f"clusters of {site}": lambda s=site: clusters(s, options.rounds) for site in SITES},  # type: ignore[misc]
        "masks of cct_7_3x1": lambda: masks(options.rounds),
        "heads of cct_7_3x1 switched off": lambda: ablation(options.images, options.rounds),
    }
    for name, part in parts.items():
        result["parts"][name], what = part()
        result["parts"][name] = {"what": what, "ways": result["parts"][name]}
        print(f"{name}: {what}")
        for way, row in result["parts"][name]["ways"].items():
            ratio = row["ratio"]
            print(f"  {way:50}{statistics.median(row['seconds']):9.3f} s{statistics.median(ratio):8.1f}{min(ratio):8.1f}{max(ratio):8.1f}")
    if options.record:
        keeping.keep(result, options.record)


if __name__ == "__main__":
    main()
