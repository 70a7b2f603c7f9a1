"""The verbs of the command ``snp`` about experiments, data and chapters, each beside its options.

What a verb needs is imported when it runs, so that help comes at once."""

from __future__ import annotations

import argparse
import time
from argparse import Namespace
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any

from snp_lib.cli import options as take
from snp_lib.cli.options import Option

if TYPE_CHECKING:
    from snp_lib.latency import Comparison
    from snp_lib.store import Run

Verb = Callable[[Namespace], int]
VERBS: dict[str, tuple[Verb, str, Callable[[argparse.ArgumentParser], None]]] = {}


def verb(name: str, text: str, *options: Option) -> Callable[[Verb], Verb]:
    """Make a function the verb of that name, with these options in their order."""

    def register(function: Verb) -> Verb:
        def declare(sub: argparse.ArgumentParser) -> None:
            for add in options:
                add(sub)

        VERBS[name] = function, text, declare
        return function

    return register


@verb("experiments", "list the experiments: what exists, at which scale, its cost and expected result")
def _list_experiments(options: Namespace) -> int:
    from snp_lib import experiments
    from snp_lib.store.records import expected

    for name, entry in experiments.CATALOGUE.items():
        print(f"{name}: {entry.summary}")
        for scale, cost in entry.cost.items():
            print(f"  {scale:6} {cost}; {expected(name, scale) or entry.published.get(scale, 'not yet measured')}")
    return 0


@verb(
    "train",
    "train an experiment, or read it where it is stored",
    take.EXPERIMENT_OR_TEXT,
    take.OWN_TABLE,
    take.SCALE,
    take.SEEDS,
    take.DEVICE,
    take.COMPILE,
    take.TIME_LIMIT,
    take.REFRESH,
    take.THREADS,
)
def _train(options: Namespace) -> int:
    from snp_lib import experiments, store
    from snp_lib.training import team

    _use_threads(options)
    if (options.data is None) != (options.experiment != take.TEXT):
        raise ValueError(f"`snp train {take.TEXT} --data FILE` trains on a table of your own: give both, or another experiment")
    name = experiments.keep_own(options.data) if options.data is not None else options.experiment
    deadline = time.monotonic() + options.time_limit
    for seed in options.seeds:
        experiment = experiments.get(name, options.scale, seed)
        finished = store.run(
            experiment, device=options.device, refresh=options.refresh, deadline=deadline, compiled=options.compile, train=True
        )
        if team.rank() == 0:
            print(f"{accuracy(finished)}, {finished.metrics['parameters']:,} parameters, {finished.path}")
    return 0


@verb(
    "measure",
    "print clusters, noise and SNR at every site of a finished experiment, or make what else is measured of it",
    take.EXPERIMENT,
    take.SCALE,
    take.SEEDS,
    take.THETA,
    take.UNIT,
    take.WHAT,
    take.DEVICE,
)
def _measure(options: Namespace) -> int:
    from snp_lib.results import measure, measurements_of

    if options.what is not None and (options.theta is not None or options.unit != "node"):
        raise ValueError("--theta and --unit go with the printed table; what --what makes has its own (heads before training: heads)")
    for seed in options.seeds:
        finished = finished_run(options, seed)
        if options.what is None:
            _print_sites(finished, options.unit, options.theta)
        measure([finished], *(options.what or ()), device=options.device)
        for name in options.what or ():
            names = ", ".join(each.on(options.device).name(finished) for each in measurements_of(finished, name))
            print(f"{finished.experiment.id}: {names or f'has no {name} to measure'}", flush=True)
    return 0


def _print_sites(finished: Run, unit: Any, threshold: float | None) -> None:
    from snp_lib.performance import THETA, summarize
    from snp_lib.results.setting import heads_needed

    threshold = THETA if threshold is None else threshold
    sites = list(finished.sites) if unit == "node" else heads_needed(finished)
    print(f"{finished.experiment.id} · {unit}s · θ = {threshold} · record {finished.record}")
    print(f"{'site':18}{'accuracy':>9}{'labels':>9}{'clusters':>9}{'size':>7}{'noise':>9}{'signal':>8}{'SNR':>7}")
    for site in sites:
        s = summarize(finished.matrices(site, unit=unit), threshold)
        print(
            f"{site:18}{finished.metrics['readout_accuracy'][site]:9.2%}{s.labels_per_unit():9.2f}"
            f"{s.clusters_per_unit():9.2f}{s.cluster_size:7.2f}{s.noise_per_unit():9.2f}{s.signal:8.2f}{s.snr:7.3f}"
        )


@verb(
    "latency",
    "time forward passes of an experiment's network, untrained: weights do not change how long they take",
    take.EXPERIMENT,
    take.SCALE,
    take.DEVICE,
    take.THREADS,
    take.BATCHES,
    take.COMPILED_TOO,
    take.EACH_TIME_LIMIT,
)
def _latency(options: Namespace) -> int:
    import torch

    from snp_lib import data, experiments, latency, machine

    _use_threads(options)
    experiment, device = experiments.get(options.experiment, options.scale, 0), machine.choose_device(options.device)
    network = experiments.initial_model(experiment, data.source(experiment.dataset).labels).to(memory_format=torch.channels_last)
    models = {experiment.model: network} | ({"compiled": torch.compile(network, dynamic=False)} if options.compile else {})
    where = f"{machine.device_name(device)}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
    print(f"{experiment.name} {experiment.scale}, untrained · {where}")
    columns = (("ms", 10), ("5 %", 9), ("95 %", 9), ("inputs/s", 10), ("ratio", 7), ("5 %", 7), ("95 %", 7))
    print(f"{'network':12}{'batch':>6}{'MMACs':>8}{'passes':>7}" + "".join(f"{name:>{width}}" for name, width in columns))
    for batch in options.batch:
        _print_latency(latency.compare(models, batch, device, limit=options.time_limit))
    return 0


def _print_latency(comparison: Comparison) -> None:
    """Milliseconds a pass; the last line is the noise of the ratios above it."""
    for row in comparison.rows():
        milliseconds = "".join(f"{1000 * row[name]:{width}.2f}" for name, width in (("seconds", 10), ("low", 9), ("high", 9)))
        start = f"{row['model']:12}{row['batch']:6}{row['macs'] / 1e6:8.1f}{row['passes']:7}{milliseconds}"
        start += f"{row['batch'] / row['seconds']:10,.0f}"
        print(f"{start}{row['ratio']:7.2f}{row['ratio_low']:7.2f}{row['ratio_high']:7.2f}")
    noise = comparison.noise
    print(f"{'the first once more: noise':71}{noise.median:7.2f}{noise.low:7.2f}{noise.high:7.2f}", flush=True)


@verb("data", "load a data set, downloading it if needed, and print what it holds", take.DATA_SET, take.ROOT, take.SIZE)
def _data(options: Namespace) -> int:
    from snp_lib import data

    dataset = data.load(options.name, options.root, size=options.size)
    print(f"{dataset.name}: {dataset.num_classes} labels, SHA-256 {dataset.checksum}")
    for name in ("train", "validation", "test"):
        if (split := getattr(dataset, name)) is not None:
            print(f"  {name:10} {len(split):6,} inputs of {' x '.join(map(str, split.inputs.shape[1:]))}")
    if dataset.vocabulary is not None:
        print(f"  {len(dataset.vocabulary):,} tokens; {data.hygiene(dataset)}")
    return 0


@verb(
    "reproduce",
    "run chapters with papermill and print a table of their claims",
    take.CHAPTERS,
    take.OWN_SCALE,
    take.OWN_SEEDS,
    take.DEVICE,
    take.DATASET,
    take.REFRESH,
    take.ACCEPT,
    take.IN_PLACE,
    take.JOBS,
)
def _reproduce(options: Namespace) -> int:
    from snp_lib.book.chapters import reproduce

    names = ("scale", "seeds", "dataset", "device", "refresh", "accept", "in_place", "jobs")
    return reproduce(options.chapters, **{name: getattr(options, name) for name in names})


@verb("doctor", "print versions, device, data and disk")
def _doctor(options: Namespace) -> int:
    import platform
    import shutil

    import torch

    from snp_lib import data, machine

    print(f"snp_lib      {machine.code_version()}")
    print(f"python       {platform.python_version()} on {platform.machine()}")
    for package in ("torch", "torchvision", "numpy", "jupyter-book", "papermill", "nbval", "ipywidgets"):
        try:
            print(f"{package:12} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"{package:12} not installed")
    if not machine.torchvision_fits():
        print("             torchvision was built for another torch: this library goes round that, other programs will not")
    device, folder = machine.choose_device(), machine.data_dir()
    print(f"device       {machine.device_name(device) if device.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'}")
    for name, source in data.SOURCES.items():
        if source.folder is not None:
            print(f"{name:12} {'in' if (folder / source.folder).is_dir() else 'not yet in'} {folder}")
    for name, folder in (("records", machine.records_dir()), ("runs", machine.runs_dir())):
        print(f"{name:12} {len(list(folder.glob('*/manifest.json')))} in {folder}")
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    print(f"disk         {shutil.disk_usage(nearest).free / 1e9:.0f} GB free")
    return 0


def finished_run(options: Namespace, seed: int) -> Run:
    """The finished run that the options name at a seed; raises StoreError, saying how to make it."""
    from snp_lib import experiments, store

    experiment = experiments.get(options.experiment, options.scale, seed)
    if (finished := store.find(experiment)) is None:
        raise store.StoreError(f"{experiment.id} has no finished run; make it with `{experiment.command('train')}`")
    return finished


def accuracy(finished: Run) -> str:
    """Name and test accuracy of a run, in words."""
    return f"{finished.experiment.id}: test accuracy {finished.metrics['test_accuracy']:.2%}"


def _use_threads(options: Namespace) -> None:
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
