"""The command ``snp``."""

from __future__ import annotations

import argparse
import contextlib
import math
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import torch

import snp_lib
from snp_lib import data, experiments, latency, making, recording, reproduce, store, transport
from snp_lib.paths import RECORDS, data_dir, runs_dir
from snp_lib.performance import THETA, summarize
from snp_lib.reporting import ReportError
from snp_lib.training import Stopped, TrainingError, team
from snp_lib.training.checkpoint import CheckpointError

EXPECTED_ERRORS = (
    data.DataError, store.StoreError, TrainingError, CheckpointError, ReportError, reproduce.ReproduceError, ValueError, OSError
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """A wrong option gets one line, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed or a check did not hold, 2 wrong usage, 3 stopped early."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except EXPECTED_ERRORS as error:
        print(f"snp: {error}", file=sys.stderr)
        return 1
    except Stopped as stop:
        print(f"snp: {stop}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("snp: interrupted; a training goes on from its last checkpoint when asked for again", file=sys.stderr)
        return 130
    finally:
        team.stop()


def _parser() -> _Parser:
    parser = _Parser(prog="snp", description=snp_lib.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"snp {snp_lib.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> _Parser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    add("experiments", _experiments, "list the experiments: what exists, at which scale, its cost and expected result")
    for name, function, text in (
        ("train", _train, "train an experiment, or read it where it is stored"),
        ("measure", _measure, "print clusters, noise and SNR at every site of a finished experiment"),
        ("record", _record, "promote finished runs to the committed records in data/records/"),
    ):
        sub = add(name, function, text)
        sub.add_argument(
            "experiment",
            nargs="?" if name == "record" else None,
            type=_experiment,
            metavar="EXPERIMENT",
            help="name, see `snp experiments`; also a variant such as cct-k2-full2",
        )
        _scale_and_seeds(sub, default="small")
        if name in ("train", "record"):
            _device(sub)
            sub.add_argument("--compile", action="store_true", help="let torch.compile make the encoders; for long trainings on a GPU")
        if name == "train":
            sub.add_argument(
                "--time-limit", type=_duration, default=math.inf, metavar="TIME", help="stop at a checkpoint after 30s, 9m, 2h"
            )
            sub.add_argument("--refresh", action="store_true", help="train anew even if a run or record exists")
            _threads(sub)
        if name == "measure":
            sub.add_argument("--theta", type=_theta, default=THETA, help=f"threshold in [0, 1) (default {THETA})")
            sub.add_argument("--unit", choices=("node", "head"), default="node", help="nodes of every site, or heads of the mha sites")
        if name == "record":
            sub.set_defaults(seeds=None)
            sub.add_argument("--to", type=Path, metavar="DIR", help="write one file a run to DIR, for `snp import`; promote nothing")
            sub.add_argument("--weights", action="store_true", help="with --to: the trained weights too")
            sub.add_argument(
                "--set", choices=experiments.SETS, metavar="NAME", help="in place of EXPERIMENT: make the missing runs of a set"
            )
            sub.add_argument(
                "--budget", type=_duration, default=math.inf, metavar="TIME", help="with --set: such as 9m; only whole runs are kept"
            )
    sub = add("latency", _latency, "time forward passes of an experiment's network, untrained: weights do not change how long they take")
    sub.add_argument("experiment", type=_experiment, metavar="EXPERIMENT", help="name, see `snp experiments`")
    _scale(sub, default="small")
    _device(sub)
    _threads(sub)
    sub.add_argument("--batch", type=_batches, default=[1, 128], metavar="SIZES", help="images of a pass, such as 1,128 (default: 1,128)")
    sub.add_argument("--compile", action="store_true", help="also as torch.compile makes it, against the network as it is")
    sub.add_argument("--time-limit", type=_duration, default=60.0, metavar="TIME", help="of each batch size, warm-up apart (default: 60s)")
    sub = add("import", _import, "check transport files and put their runs in place")
    sub.add_argument("files", nargs="+", type=Path, metavar="FILE", help="made by `snp record EXPERIMENT --to DIR`")
    sub.add_argument("--to", choices=("runs", "records"), default="runs", help="your own runs or the committed records (default: runs)")
    sub.add_argument("--replace", action="store_true", help="replace another run of the same id")
    sub = add("verify", _verify, "check every byte of transport files, runs and records; write nothing")
    sub.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="file or folder (default: all records and runs)")
    sub = add("data", _data, "load a data set, downloading it if needed, and print what it holds")
    sub.add_argument("name", choices=data.DATASETS, metavar="NAME", help=f"one of {', '.join(data.DATASETS)}")
    sub.add_argument("--root", type=Path, help="folder (default: SNP_DATA_DIR, else data/cache/)")
    sub.add_argument("--size", type=_positive, help="side of the images in pixels")
    sub = add("reproduce", _reproduce, "run chapters with papermill and print a table of their claims")
    sub.add_argument("chapters", nargs="*", metavar="CHAPTER", help="numbers or names, such as 01 or 02_snp (default: all)")
    _scale_and_seeds(sub, default=None)
    _device(sub)
    sub.add_argument("--dataset", choices=experiments.BY_DATASET, help="of the chapters that know several (default: each chapter's own)")
    sub.add_argument("--refresh", action="store_true", help="train anew even where a run or record exists")
    sub.add_argument("--accept", action="store_true", help="make the numbers found the published ones")
    sub.add_argument("--in-place", action="store_true", help="store the executed chapters in book/ (default: runs/chapters/)")
    sub.add_argument("--jobs", type=_positive, default=1, help="chapters executed at a time, which share the cores (default: 1)")
    add("doctor", _doctor, "print versions, device, data and disk")
    return parser


OWN = "each chapter's own"


def _scale(sub: argparse.ArgumentParser, default: str | None) -> None:
    sub.add_argument("--scale", choices=experiments.SCALES, default=default, help=f"size of data and networks (default: {default or OWN})")


def _scale_and_seeds(sub: argparse.ArgumentParser, default: str | None) -> None:
    _scale(sub, default)
    seeds, shown = (None, OWN) if default is None else ([0], "0")
    sub.add_argument("--seeds", type=_seeds, default=seeds, help=f"such as 0,1,2 (default: {shown})")


def _device(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: auto)")


def _threads(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--threads", type=_positive, help="CPU threads (default: torch's own choice)")


def _experiment(text: str) -> str:
    """A name that some scale has."""
    for scale in experiments.SCALES:
        with contextlib.suppress(ValueError):
            return experiments.get(text, scale, 0).name
    raise argparse.ArgumentTypeError(
        f"no experiment {text!r}; there are {', '.join(experiments.CATALOGUE)}, and variants named as these are"
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _batches(text: str) -> list[int]:
    return [_positive(part.strip()) for part in text.split(",")]


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"expected a time such as 30s, 9m or 2h, got {text!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _theta(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number in [0, 1), got {text!r}")
    return value


def _seeds(text: str) -> list[int]:
    try:
        return experiments.parse_seeds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _experiments(options: argparse.Namespace) -> int:
    for name, entry in experiments.CATALOGUE.items():
        print(f"{name}: {entry.summary}")
        for scale, cost in entry.cost.items():
            print(f"  {scale:6} {cost}; {entry.expected[scale]}")
    return 0


def _train(options: argparse.Namespace) -> int:
    if options.threads:
        torch.set_num_threads(options.threads)
    deadline = time.monotonic() + options.time_limit
    for seed in options.seeds:
        experiment = experiments.get(options.experiment, options.scale, seed)
        finished = store.run(experiment, device=options.device, refresh=options.refresh, deadline=deadline, compiled=options.compile)
        if team.rank() > 0:
            continue
        metrics = finished.metrics
        print(
            f"{finished.experiment.id}: test accuracy {metrics['test_accuracy']:.2%}, {metrics['parameters']:,} parameters, {finished.path}"
        )
    return 0


def _finished(options: argparse.Namespace, seed: int) -> store.Run:
    experiment = experiments.get(options.experiment, options.scale, seed)
    finished = store.find(experiment)
    if finished is None:
        command = f"snp train {experiment.name} --scale {experiment.scale} --seeds {seed}"
        raise store.StoreError(f"{experiment.id} has no finished run; make it with `{command}`")
    return finished


def _measure(options: argparse.Namespace) -> int:
    for seed in options.seeds:
        finished = _finished(options, seed)
        print(f"{finished.experiment.id} · {options.unit}s · θ = {options.theta} · record {finished.record}")
        print(f"{'site':18}{'accuracy':>9}{'labels':>9}{'clusters':>9}{'size':>7}{'noise':>9}{'signal':>8}{'SNR':>7}")
        for site in finished.sites:
            if options.unit == "head" and not site.endswith(".mha"):
                continue
            s = summarize(finished.matrices(site, unit=options.unit), options.theta)
            print(
                f"{site:18}{finished.metrics['readout_accuracy'][site]:9.2%}{s.labels_per_unit():9.2f}"
                f"{s.clusters_per_unit():9.2f}{s.cluster_size:7.2f}{s.noise_per_unit():9.2f}{s.signal:8.2f}{s.snr:7.3f}"
            )
    return 0


def _record(options: argparse.Namespace) -> int:
    if options.weights and not options.to:
        raise ValueError("--weights goes with --to DIR; a committed record holds no weights")
    if (options.set is None) == (options.experiment is None):
        raise ValueError("name an EXPERIMENT or a --set NAME, not both")
    if options.set is not None and options.seeds is not None:
        raise ValueError("--seeds goes with an EXPERIMENT; a set names its own")
    if options.set is None and options.budget < math.inf:
        raise ValueError("--budget goes with --set NAME")
    if options.set is None and options.compile:
        raise ValueError("--compile goes with --set NAME, which trains; a finished EXPERIMENT is only read")
    if options.set is not None and options.weights:
        raise ValueError("--weights goes with an EXPERIMENT; a set is recorded without")
    if options.set is not None:
        choices = {"budget": options.budget, "device": options.device, "compiled": options.compile, "to": options.to}
        for finished, path in recording.record_set(options.set, options.scale, **choices):
            print(
                f"{finished.experiment.id}: test accuracy {finished.metrics['test_accuracy']:.2%}, {path} ({_megabytes(path)})", flush=True
            )
        return 0
    for finished in [_finished(options, seed) for seed in options.seeds or [0]]:
        path = transport.pack(finished, options.to, weights=options.weights) if options.to else recording.keep(finished)
        print(f"{finished.experiment.id}: {path} ({_megabytes(path)})")
    return 0


def _latency(options: argparse.Namespace) -> int:
    if options.threads:
        torch.set_num_threads(options.threads)
    experiment, device = experiments.get(options.experiment, options.scale, 0), making.choose_device(options.device)
    network = making.initial_model(experiment, data.LABELS[experiment.dataset]).to(memory_format=torch.channels_last)
    models = {experiment.model: network}
    if options.compile:
        models["compiled"] = torch.compile(network, dynamic=False)
    machine = f"{making.device_name(device)}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
    print(f"{experiment.name} {experiment.scale}, untrained · {machine}\n{latency.HEADER}")
    for batch in options.batch:
        print(latency.table(latency.compare(models, batch, device, limit=options.time_limit)), flush=True)
    return 0


def _import(options: argparse.Namespace) -> int:
    def one(path: Path) -> str:
        finished = transport.unpack(path, to=options.to, replace=options.replace)
        return f"{finished.experiment.id}: {finished.path} ({_megabytes(finished.path)})"

    return _each(options.files, one)


def _verify(options: argparse.Namespace) -> int:
    def one(path: Path) -> str:
        return f"{path.stem}: test accuracy {transport.verify(path)['metrics']['test_accuracy']:.2%}, {_megabytes(path)}, OK"

    return _each(options.paths or store.folders(), one)


def _each(paths: Iterable[Path], one: Callable[[Path], str]) -> int:
    """Print one line a path, the reason where it is refused, and return 1 if any was."""
    code = 0
    for path in paths:
        try:
            print(one(path))
        except store.StoreError as error:
            print(f"{path.stem}: {error}")
            code = 1
    return code


def _megabytes(path: Path) -> str:
    return f"{sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path])) / 1e6:.1f} MB"


def _data(options: argparse.Namespace) -> int:
    dataset = data.load(options.name, options.root, size=options.size)
    print(f"{dataset.name}: {dataset.num_classes} labels, SHA-256 {dataset.checksum}")
    for name in ("train", "validation", "test"):
        if (split := getattr(dataset, name)) is not None:
            print(f"  {name:10} {len(split):6,} images of {' x '.join(map(str, split.images.shape[1:]))}")
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    return reproduce.reproduce(
        options.chapters,
        scale=options.scale,
        seeds=options.seeds,
        dataset=options.dataset,
        device=options.device,
        refresh=options.refresh,
        accept=options.accept,
        in_place=options.in_place,
        jobs=options.jobs,
    )


def _doctor(options: argparse.Namespace) -> int:
    print(f"snp_lib      {making.code_version()}")
    print(f"python       {platform.python_version()} on {platform.machine()}")
    for package in ("torch", "torchvision", "numpy", "jupyter-book", "papermill", "nbval", "ipywidgets"):
        try:
            print(f"{package:12} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"{package:12} not installed")
    device = making.choose_device()
    print(f"device       {torch.cuda.get_device_name(device) if device.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'}")
    for name in ("cifar100", "flowers102"):
        folder = {"cifar100": "cifar-100-python", "flowers102": "flowers-102"}[name]
        there = (data_dir() / folder).is_dir()
        print(f"{name:12} {'in' if there else 'not yet in'} {data_dir()}")
    print(f"records      {len(list(RECORDS.glob('*/manifest.json')))} in {RECORDS}")
    print(f"runs         {len(list(runs_dir().glob('*/manifest.json')))} in {runs_dir()}")
    nearest = next(folder for folder in (runs_dir(), *runs_dir().parents) if folder.exists())
    print(f"disk         {shutil.disk_usage(nearest).free / 1e9:.0f} GB free")
    return 0


if __name__ == "__main__":
    sys.exit(main())
