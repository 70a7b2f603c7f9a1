"""Cost of the performance matrices of all nodes of all sites, against one plain forward pass and against the literal loop.

    python benchmarks/performance_matrices.py [--dataset cifar100] [--rounds 5]

All three are timed in turn in one process, round by round, and compared round by round, so a machine whose speed drifts
changes the seconds and not the ratios. The literal loop (silence every other node, run the readout, average per label) is
timed on a sample of nodes and scaled to all of them, in two ways: with the forward pass to the site that each node needs
when features are not kept, and on features kept in memory, the forward passes not charged.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from keeping import seconds
from torch import Tensor, nn

from snp_lib import data, experiments
from snp_lib.data import Split
from snp_lib.data.augment.crops import Normalize
from snp_lib.models import create_model
from snp_lib.performance import group_units, summarize, unit_matrices
from snp_lib.performance.class_means import measure
from snp_lib.performance.readout import Readout, make_readout

BATCH = 128


@torch.no_grad()
def plain(model: nn.Module, split: Split, normalize: Normalize) -> None:
    for images in split.inputs.split(BATCH):
        model(normalize(images))


def fast(model: nn.Module, readouts: dict[str, Readout], split: Split, normalize: Normalize, labels: int) -> None:
    measured = measure(model, readouts, split, normalize, num_classes=labels, batch_size=BATCH)
    for site, means in measured.class_means.items():
        weight = readouts[site].linear.weight.detach()
        unit_matrices(group_units(means, means.shape[1]), group_units(weight, means.shape[1]))


def alone(readout: Readout, features: Tensor, node: int) -> Tensor:
    """Logits of the readout with every node silenced but one."""
    pooled = readout.pool(features)
    silenced = torch.zeros_like(pooled)
    silenced[:, node] = pooled[:, node]
    return readout.linear(silenced)


@torch.no_grad()
def literal(model: nn.Module, site: str, readout: Readout, split: Split, normalize: Normalize, node: int, labels: int) -> None:
    matrix = torch.zeros(labels, labels)
    for images, truth in zip(split.inputs.split(BATCH), split.labels.split(BATCH), strict=True):
        matrix.index_add_(0, truth, alone(readout, model(normalize(images), sites=[site])[1][site], node))


@torch.no_grad()
def literal_kept(features: Tensor, readout: Readout, split: Split, node: int, labels: int) -> None:
    matrix = torch.zeros(labels, labels)
    for part, truth in zip(features.split(BATCH), split.labels.split(BATCH), strict=True):
        matrix.index_add_(0, truth, alone(readout, part, node))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("digits", "cifar100"), default="digits", help="images to measure on (default: digits)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the three timings (default: 5)")
    parser.add_argument("--images", type=int, default=4096, help="at most so many test images (default: 4096)")
    options = parser.parse_args()
    torch.manual_seed(0)
    small = experiments.get("cct", "small", 0)
    dataset = data.load(options.dataset, size=32)
    model_options = small.model_options | {"in_channels": dataset.test.inputs.shape[1]}
    model = create_model(small.model, num_classes=dataset.num_classes, **model_options)
    model.to(memory_format=torch.channels_last).eval()
    split = Split(dataset.test.inputs[: options.images], dataset.test.labels[: options.images])
    normalize = Normalize(split.inputs)
    with torch.no_grad():
        _, example = model(normalize(split.inputs[:1]), sites=list(model.sites))
        features = model(normalize(split.inputs[:512]), sites=list(model.sites))[1]
    readouts = {site: make_readout(example[site], dataset.num_classes).eval() for site in model.sites}
    part = Split(split.inputs[:512], split.labels[:512])
    share = len(part) / len(split)

    def timed_literal() -> float:
        """Seconds for every node of every site, from one node of the last site on a part of the images."""
        site = list(model.sites)[-1]
        once = seconds(lambda: literal(model, site, readouts[site], part, normalize, 0, dataset.num_classes))
        return once * sum(model.sites.values()) / share

    def timed_kept() -> float:
        """The same from two nodes of every site, on kept features."""
        return sum(
            seconds(lambda s=site, n=node: literal_kept(features[s], readouts[s], part, n, dataset.num_classes)) * width / 2 / share
            for site, width in model.sites.items()
            for node in (0, 1)
        )

    plain(model, split, normalize)
    over_forward, over_literal, over_kept, again, forward = [], [], [], [], []
    for _ in range(options.rounds):
        reference = seconds(lambda: plain(model, split, normalize))
        ours = seconds(lambda: fast(model, readouts, split, normalize, dataset.num_classes))
        second = seconds(lambda: plain(model, split, normalize))
        base = (reference + second) / 2
        forward.append(base)
        again.append(second / reference)
        over_forward.append(ours / base)
        over_literal.append(timed_literal() / ours)
        over_kept.append(timed_kept() / ours)
    widest = torch.randn(512, 100, 100, generator=torch.Generator().manual_seed(0)).numpy()
    clusters = [seconds(lambda: summarize(widest)) for _ in range(options.rounds)]

    units = sum(model.sites.values())
    print(f"{small.model}, {units:,} nodes at {len(model.sites)} sites, {len(split):,} {options.dataset} images, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}, {options.rounds} rounds")  # fmt: skip
    print(f"{'':48}{'median':>9}{'min':>9}{'max':>9}")
    for name, values in (
        ("plain forward pass (s)", forward),
        ("the same again, ratio (noise of the machine)", again),
        ("all matrices / plain forward pass", over_forward),
        ("literal loop / all matrices", over_literal),
        ("literal loop on kept features / all matrices", over_kept),
        ("clusters of 512 nodes x 100 labels (s)", clusters),
    ):
        print(f"{name:48}{statistics.median(values):9.3f}{min(values):9.3f}{max(values):9.3f}")


if __name__ == "__main__":
    main()
