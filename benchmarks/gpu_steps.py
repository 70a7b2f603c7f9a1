"""Images a second of a training step on a GPU: kernel by kernel, as one recorded graph, and with compiled encoders.

    python benchmarks/gpu_steps.py [--experiments cct,cct-h64] [--scale medium] [--steps 50] [--rounds 5] [--record NAME]

Images are random, so no data set is needed; every way is timed once in each round, warm-up apart. `first` are the seconds
of the first step, compiling and recording included.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from typing import Any

import keeping
import torch

from snp_lib import experiments, machine
from snp_lib.data import Dataset, Split
from snp_lib.experiments import Experiment
from snp_lib.training.execution import compiled_encoders
from snp_lib.training.loop import Training

WAYS = {"kernel by kernel": (False, False), "one graph": (True, False), "one graph, encoders compiled": (True, True)}
WARM_UP = 10


def random_images(count: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 100, (count,), generator=generator)
    split, names = Split(images, labels), tuple(map(str, range(100)))
    return Dataset(name="random", train=split, test=split, class_names=names, checksum="")


def timed(
    experiment: Experiment, dataset: Dataset, device: torch.device, steps: int, *, captured: bool, compiled: bool
) -> tuple[float, float]:
    """Seconds of the first step, and images a second of those behind the warm-up."""
    model = experiments.initial_model(experiment, dataset.num_classes)
    training = Training(model, dataset, experiment.recipe, 0, device, "", None)
    batches = training.batches()
    model.train()
    with compiled_encoders(model) if compiled else contextlib.nullcontext():
        started = time.perf_counter()
        for step in range(WARM_UP + steps):
            inputs = training.inputs(batches[step % len(batches)])
            if captured and training.captured is None:
                training.capture(model, *inputs)
            training.step(model, *inputs)
            if step == 0:
                torch.cuda.synchronize()
                first = time.perf_counter() - started
            if step == WARM_UP - 1:
                torch.cuda.synchronize()
                started = time.perf_counter()
        torch.cuda.synchronize()
    return first, steps * experiment.recipe.batch_size / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", default="cct", help="names, separated by commas (default: cct)")
    parser.add_argument("--scale", choices=("small", "medium", "paper"), default="medium", help="(default: medium)")
    parser.add_argument("--steps", type=int, default=50, help="steps timed (default: 50)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--record", metavar="NAME", help="keep the numbers in data/records/benchmarks/NAME.json")
    options = parser.parse_args()
    device = machine.choose_device("cuda")
    dataset, parts = random_images(8192), {}
    for name in options.experiments.split(","):
        experiment = experiments.get(name, options.scale, 0)
        rows: dict[str, dict[str, Any]] = {way: {"first": [], "images_per_second": []} for way in WAYS}
        for _ in range(options.rounds):
            for way, (captured, compiled) in WAYS.items():
                first, rate = timed(experiment, dataset, device, options.steps, captured=captured, compiled=compiled)
                rows[way]["first"].append(round(first, 2))
                rows[way]["images_per_second"].append(round(rate))
        base = rows["kernel by kernel"]["images_per_second"]
        for row in rows.values():
            row["ratio"] = [round(own / plain, 3) for own, plain in zip(row["images_per_second"], base, strict=True)]
        parts[f"{name} {options.scale}"] = rows
        for way, row in rows.items():
            print(f"{name:16}{way:32}{statistics.median(row['images_per_second']):10,.0f} images/s{statistics.median(row['ratio']):7.2f}")
    if options.record:
        keeping.keep(keeping.conditions(device) | {"parts": parts}, options.record)


if __name__ == "__main__":
    main()
