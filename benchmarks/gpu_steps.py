"""What a GPU makes of a training step, of the readouts and of the measurements: each way in turn, in one process.

    python benchmarks/gpu_steps.py [--experiments cct,cct-h16,cct-h64] [--scale medium] [--steps 50] [--rounds 5] [--usual] [--brief]
                                   [--record NAME]

Images are random, so no data set is needed; every way is timed once in each round, warm-up apart. `first` are the seconds
of the first step, compiling and recording included. With `--usual` the usual loop is timed as well, as the first way. With
`--brief` only the fastest way of the library is, nothing is measured of readouts and heads, and the kernels of a step are listed.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keeping
import numpy as np
import torch

from snp_lib import experiments, machine
from snp_lib.analysis.ablation import ablate_heads, kept_heads
from snp_lib.data import Dataset, Split
from snp_lib.experiments import Experiment
from snp_lib.models import configuration
from snp_lib.performance.class_means import measure
from snp_lib.performance.readout import train_readouts
from snp_lib.training.execution import compiled_parts
from snp_lib.training.loop import Training
from snp_lib.training.preparation import preparation
from snp_lib.training.step import RecordedStep

WAYS = {"kernel by kernel": (False, False), "recorded": (True, False), "recorded, parts compiled": (True, True)}
WARM_UP = 10


def random_images(count: int) -> Dataset:
    """Images whose labels can be learned, so that no loss explodes."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(0, 200, (100, 3, 32, 32), generator=generator)
    labels = torch.arange(count) % 100
    images = (base[labels] + torch.randint(0, 56, (count, 3, 32, 32), generator=generator)).to(torch.uint8)
    split, names = Split(images, labels), tuple(map(str, range(100)))
    return Dataset(name="random", train=split, test=split, class_names=names, checksum="")


def timed(
    experiment: Experiment,
    dataset: Dataset,
    device: torch.device,
    steps: int,
    *,
    recorded: bool,
    compiled: bool,
    kernels: dict[str, float] | None = None,
) -> tuple[float, float]:
    """Seconds of the first step, and images a second of those behind the warm-up; ``kernels`` is given the times of the kernels."""
    model = experiments.initial_model(experiment, dataset.num_classes)
    training = Training(model, dataset, replace(experiment.recipe, epochs=1000), 0, device, "", None)
    step = RecordedStep(training, capture=recorded)
    batches = list(training.batches())
    model.train()
    with compiled_parts(step.twin) if compiled else contextlib.nullcontext():
        started = time.perf_counter()
        for i in range(WARM_UP + steps):
            step(*batches[i % len(batches)])
            if i == 0:
                torch.cuda.synchronize()
                first = time.perf_counter() - started
            if i == WARM_UP - 1:
                torch.cuda.synchronize()
                started = time.perf_counter()
        torch.cuda.synchronize()
        rate = steps * experiment.recipe.batch_size / (time.perf_counter() - started)
        if kernels is not None:
            kernels |= kernel_times(lambda: step(*batches[0]))
    return first, rate


def kernel_times(step: Callable[[], Any], steps: int = 5) -> dict[str, float]:
    """Microseconds of a step that each kernel takes, by its name, the longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    spent = {event.key[:120]: event.self_device_time_total / steps for event in profile.key_averages()}
    return {name: round(time, 1) for name, time in sorted(spent.items(), key=lambda item: -item[1]) if time >= 5}


def usual(experiment: Experiment, dataset: Dataset, device: torch.device) -> float:
    """Images a second of the second epoch of the usual loop, with AdamW."""
    import usual_loop  # needs vit-pytorch

    recipe = replace(experiment.recipe, optimizer="adamw", lr=1e-3, adam_lr=None, adam_weight_decay=None)
    shape = configuration(experiment.model, num_classes=dataset.num_classes, **experiment.model_options)
    values = dataset.train.inputs[:5000].double()
    levels = values.mean((0, 2, 3)).tolist(), values.std((0, 2, 3)).tolist()
    prepare = usual_loop.transform(recipe, 32, *levels, train=True)
    batches = usual_loop.loader(dataset.train, 128, prepare, True, device)
    epochs = usual_loop.epochs(usual_loop.network(shape).to(device), batches, recipe, device)
    next(epochs)
    return next(epochs)


def measuring(experiment: Experiment, dataset: Dataset, device: torch.device) -> dict[str, float]:
    """Milliseconds a step of all readouts, and seconds that 60,000 images take to be measured and 10,000 without each head."""
    model = experiments.initial_model(experiment, dataset.num_classes).to(device, memory_format=torch.channels_last).eval()
    recipe, prepare = experiment.readout, preparation(experiment.recipe, dataset.train.inputs.to(device), dataset.num_classes).plain

    def seconds(task: Callable[[], Any]) -> tuple[float, Any]:
        torch.cuda.synchronize()
        started = time.perf_counter()
        found = task()
        torch.cuda.synchronize()
        return time.perf_counter() - started, found

    def learned(epochs: int) -> tuple[float, Any]:
        return seconds(
            lambda: train_readouts(
                model, dataset, list(model.sites), replace(recipe, epochs=epochs), experiment.recipe, seed=0, progress=False
            )
        )

    learned(1)  # compiles
    (short, _), (long, readouts) = learned(1), learned(3)
    options: dict[str, Any] = {"batch_size": machine.measuring_batch(device), "bfloat16": True}
    kept = np.concatenate([kept_heads(variants, model.config.num_heads) for variants in ("removed", "alone", "pairs")])
    measured = [seconds(lambda: measure(model, readouts, dataset.test, prepare, num_classes=100, **options))[0] for _ in range(2)]
    ablated = [seconds(lambda: ablate_heads(model, dataset.test, prepare, kept, **options))[0] for _ in range(2)]
    steps = len(dataset.train) // recipe.batch_size
    return {
        "readouts, ms a step": 1000 * (long - short) / (2 * steps),
        "class means of 60,000 images, s": measured[1] * 60_000 / len(dataset.test),
        "heads switched off, 10,000 images, s": ablated[1] * 10_000 / len(dataset.test),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", default="cct,cct-h16,cct-h64", help="names, separated by commas (default: cct,cct-h16,cct-h64)")
    parser.add_argument("--scale", choices=("small", "medium", "paper"), default="medium", help="(default: medium)")
    parser.add_argument("--steps", type=int, default=50, help="steps timed (default: 50)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--usual", action="store_true", help="the usual loop too")
    parser.add_argument("--brief", action="store_true", help="the fastest way alone, and the kernels of its step")
    parser.add_argument("--record", metavar="NAME", help="keep the numbers in data/records/benchmarks/NAME.json")
    options = parser.parse_args()
    device = machine.choose_device("cuda")
    dataset, parts, kernels = random_images(8192), {}, {}
    ways = dict(list(WAYS.items())[-1:]) if options.brief else WAYS
    for name in options.experiments.split(","):
        experiment = experiments.get(name, options.scale, 0)
        rows: dict[str, dict[str, Any]] = {way: {"first": [], "images_per_second": []} for way in ways}
        if options.usual:
            rows = {"the usual loop": {"images_per_second": []}} | rows
        listed: dict[str, float] | None = {} if options.brief else None
        for _ in range(options.rounds):
            if options.usual:
                rows["the usual loop"]["images_per_second"].append(round(usual(experiment, dataset, device)))
            for way, (recorded, compiled) in ways.items():
                todo = listed if listed == {} else None  # once
                first, rate = timed(experiment, dataset, device, options.steps, recorded=recorded, compiled=compiled, kernels=todo)
                rows[way]["first"].append(round(first, 2))
                rows[way]["images_per_second"].append(round(rate))
        base = next(iter(rows.values()))["images_per_second"]
        for row in rows.values():
            row["ratio"] = [round(rate / plain, 3) for rate, plain in zip(row["images_per_second"], base, strict=True)]
        parts[f"{name} {options.scale}"] = rows
        for way, row in rows.items():
            print(f"{name:16}{way:32}{statistics.median(row['images_per_second']):10,.0f} images/s{statistics.median(row['ratio']):7.2f}")
        if listed:
            kernels[f"{name} {options.scale}"] = listed
            print("\n".join(f"{time:10.1f} us  {kernel}" for kernel, time in listed.items()))
    found = {} if options.brief else measuring(experiments.get("cct", options.scale, 0), dataset, device)
    for what, value in found.items():
        print(f"{what:48}{value:8.2f}")
    if options.record:
        kept = {"parts": parts, "measuring": found, "kernels, microseconds of a step": kernels}
        keeping.keep(keeping.conditions(device) | {name: part for name, part in kept.items() if part}, options.record)


if __name__ == "__main__":
    main()
