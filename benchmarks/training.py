"""Images a second of training, evaluation and augmentation: this project's trainer against the usual loop, measure by measure.

    python benchmarks/training.py [--scale small] [--device cpu] [--rounds 5] [--record NAME]

Every row is timed once in each round, one after the other in one process, and compared with the usual loop of the same
round, so a machine whose speed drifts changes the images a second and not the ratios. `--accuracy EPOCHS` also trains
both to the end, seed by seed, and compares test accuracy and time. `--record NAME` keeps the numbers in
data/records/benchmarks/NAME.json, from which the book draws its table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keeping
import torch
import usual_loop
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from snp_lib import data, experiments, machine
from snp_lib.data import Dataset, Split
from snp_lib.experiments import Experiment
from snp_lib.models import cct, create_model, encoder
from snp_lib.training.loop import train
from snp_lib.training.prediction import predict
from snp_lib.training.preparation import ImagePreparation
from snp_lib.training.recipe import Recipe

Rows = dict[str, Callable[[], float]]


@contextmanager
def fused_attention() -> Iterator[None]:
    """torch's fused attention also where the model would write out the two products."""

    def fused(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0, mask: Tensor | None = None) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)

    ours, encoder.attend = encoder.attend, fused  # type: ignore[assignment]
    try:
        yield
    finally:
        encoder.attend = ours


def built(experiment: Experiment, dataset: Dataset) -> cct.CCT:
    torch.manual_seed(experiment.seed)
    return create_model(experiment.model, num_classes=dataset.num_classes, **experiment.model_options)


def grey_levels(images: Tensor) -> tuple[list[float], list[float]]:
    values = images[:5000].double()
    return values.mean((0, 2, 3)).tolist(), values.std((0, 2, 3)).tolist()


def usual(model: nn.Module, dataset: Dataset, recipe: Recipe, device: torch.device) -> Iterator[float]:
    mean, deviation = grey_levels(dataset.train.inputs)
    prepare = usual_loop.transform(recipe, dataset.train.inputs.shape[-1], mean, deviation, train=True)
    batches = usual_loop.loader(dataset.train, recipe.batch_size, prepare, True, device)
    return usual_loop.epochs(model.to(device), batches, recipe, device)


def training_rows(experiment: Experiment, dataset: Dataset, device: torch.device, compiled: bool = False) -> Rows:
    """Each measure on top of the ones before it, with ``compiled`` torch.compile as the last."""
    recipe = experiment.recipe
    full, half = replace(recipe, precision="float32"), replace(recipe, precision="bfloat16")

    def ours(model: nn.Module, recipe: Recipe) -> Callable[[], float]:
        def once() -> float:
            history = train(model, dataset, replace(recipe, epochs=1, warmup_epochs=0, eval_every=1), seed=0, device=device, progress=False)
            return float(history[0]["images_per_second"])

        return once

    def with_fused(task: Callable[[], float]) -> Callable[[], float]:
        def once() -> float:
            with fused_attention():
                return task()

        return once

    shape = built(experiment, dataset).config
    loader = usual(usual_loop.network(shape), dataset, recipe, device)
    rows = {
        "the usual loop, CCT of vit-pytorch": lambda: next(loader),
        "images in memory, augmented in batches": ours(usual_loop.network(shape), full),
        "our CCT: fused attention and optimiser": with_fused(ours(built(experiment, dataset), full)),
        "bfloat16 matrix products": with_fused(ours(built(experiment, dataset), half)),
        "attention as two products": ours(built(experiment, dataset), half),
    }
    if compiled:
        rows["torch.compile"] = ours(torch.compile(built(experiment, dataset)), half)  # the round that is not counted compiles
    return rows


def evaluation_rows(experiment: Experiment, dataset: Dataset, device: torch.device) -> Rows:
    mean, deviation = grey_levels(dataset.train.inputs)
    model, public = built(experiment, dataset).to(device), usual_loop.network(built(experiment, dataset).config).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    prepare = usual_loop.transform(experiment.recipe, dataset.test.inputs.shape[-1], mean, deviation, train=False)
    batches = usual_loop.loader(dataset.test, 256, prepare, False, device)
    normalize = ImagePreparation(experiment.recipe, dataset.train.inputs.to(device), dataset.num_classes).normalize

    def rate(task: Callable[[], object]) -> float:
        started = time.perf_counter()
        task()
        return len(dataset.test) / (time.perf_counter() - started)

    return {
        "the usual loop, CCT of vit-pytorch": lambda: rate(lambda: usual_loop.evaluate(public, batches, device)),
        "ours in float32": lambda: rate(lambda: predict(model, dataset.test, normalize)),
        "ours in bfloat16": lambda: rate(lambda: predict(model, dataset.test, normalize, bfloat16=True)),
    }


def augmentation_rows(recipe: Recipe, split: Split, device: torch.device) -> Rows:
    mean, deviation = grey_levels(split.inputs)
    size, batch = split.inputs.shape[-1], recipe.batch_size
    one_by_one = usual_loop.Pictures(split, usual_loop.transform(recipe, size, mean, deviation, train=True))
    images = split.inputs.to(device)
    augmentation, generator = ImagePreparation(recipe, images, 100), torch.Generator(device).manual_seed(0)

    def rate(task: Callable[[], object], count: int) -> float:
        started = time.perf_counter()
        task()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return count / (time.perf_counter() - started)

    return {
        "torchvision, image by image, one process": lambda: rate(lambda: [one_by_one[i] for i in range(512)], 512),
        "ours, in batches on the device": lambda: rate(
            lambda: [augmentation.augmented(part, generator) for part in images.split(batch)], len(images)
        ),
    }


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-adds times two a second of a large matrix product: what the hardware gives, measured."""
    a, b = (torch.randn(2048, 2048, device=device, dtype=dtype) for _ in range(2))
    repeats = 10 if device.type == "cpu" else 1000
    for _ in range(3):
        a @ b
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 2 * 2048**3 * repeats / (time.perf_counter() - started)


def operations(experiment: Experiment, dataset: Dataset) -> int:
    """Multiply-adds times two of one image, forward and backward, as torch's counter has them."""
    model = built(experiment, dataset)
    images = torch.randn(8, *dataset.train.inputs.shape[1:])
    # in bfloat16 attention is two products, which the counter sees; it knows nothing of the CPU's fused attention
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        model(images).sum().backward()
    return counter.get_total_flops() // 8


def timed(rows: Rows, rounds: int) -> dict[str, dict[str, Any]]:
    """Images a second of every row in every round, after one round that is not counted, and the ratio to the first row."""
    found: dict[str, list[float]] = {name: [] for name in rows}
    for round_ in range(rounds + 1):
        for name, task in rows.items():
            value = task()
            if round_:
                found[name].append(value)
    first = found[next(iter(rows))]
    return {
        name: {
            "images_per_second": [round(v, 1) for v in values],
            "ratio": [round(v / base, 4) for v, base in zip(values, first, strict=True)],
        }
        for name, values in found.items()
    }


def to_the_end(
    experiment: Experiment, dataset: Dataset, device: torch.device, epochs: int, seeds: int
) -> dict[str, dict[str, list[float]]]:
    """Test accuracy and seconds of both loops, seed by seed in turn."""
    found: dict[str, dict[str, list[float]]] = {name: {"accuracy": [], "seconds": []} for name in ("the usual loop", "ours")}
    mean, deviation = grey_levels(dataset.train.inputs)
    recipe = replace(experiment.recipe, epochs=epochs, eval_every=epochs, precision="auto")
    prepare = usual_loop.transform(recipe, dataset.test.inputs.shape[-1], mean, deviation, train=False)
    tests = usual_loop.loader(dataset.test, 256, prepare, False, device)
    shape = built(experiment, dataset).config
    for seed in range(seeds):
        torch.manual_seed(seed)
        public = usual_loop.network(shape)
        started = time.perf_counter()
        running = usual(public, dataset, recipe, device)
        for _ in range(epochs):
            next(running)
        found["the usual loop"]["seconds"].append(time.perf_counter() - started)
        found["the usual loop"]["accuracy"].append(usual_loop.evaluate(public, tests, device))
        model = built(replace(experiment, seed=seed), dataset)
        history = train(model, dataset, recipe, seed=seed, device=device, progress=False)
        found["ours"]["seconds"].append(sum(row["seconds"] for row in history))  # as for the usual loop, without evaluation
        found["ours"]["accuracy"].append(history[-1]["test_accuracy"])
    return found


def measured(experiment: Experiment, dataset: Dataset, device: torch.device, rounds: int, compiled: bool) -> dict[str, Any]:
    """Everything that is timed round by round, with what the hardware gives beside it."""
    policies: dict[str, Any] = {
        "crop, flip": {},
        "crop, flip, AutoAugment": {"policy": "autoaugment"},
        "crop, flip, RandAugment": {"policy": "rand-m9-mstd0.5-inc1"},
    }
    return {
        "flop_per_image": operations(experiment, dataset),
        "peak": {str(dtype).removeprefix("torch."): peak(device, dtype) for dtype in (torch.float32, torch.bfloat16)},
        "train": timed(training_rows(experiment, dataset, device, compiled), rounds),
        "evaluate": timed(evaluation_rows(experiment, dataset, device), rounds),
    } | {
        f"augment: {name}": timed(augmentation_rows(replace(experiment.recipe, **policy), dataset.train, device), rounds)
        for name, policy in policies.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=experiments.SCALES, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="rounds counted (default: 5; 0: only --accuracy)")
    parser.add_argument("--images", type=int, default=3840, help="training and test images of a round (default: 3840)")
    parser.add_argument("--compile", action="store_true", help="also train through torch.compile, as one more row")
    parser.add_argument("--accuracy", type=int, default=0, metavar="EPOCHS", help="also train both to the end, on all images")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of --accuracy (default: 3)")
    parser.add_argument("--record", metavar="NAME", help="keep the numbers in data/records/benchmarks/NAME.json")
    options = parser.parse_args()
    device = machine.choose_device(options.device)
    experiment = experiments.get("cct", options.scale, 0)
    whole = data.load(experiment.dataset, size=experiment.dataset_size)
    parts = {name: whole.split(name) for name in ("train", "test")}
    few = replace(whole, **{name: Split(part.inputs[: options.images], part.labels[: options.images]) for name, part in parts.items()})
    result: dict[str, Any] = {
        **keeping.conditions(device),
        "model": experiment.model,
        "batch_size": experiment.recipe.batch_size,
    }
    if options.rounds:
        result |= measured(experiment, few, device, options.rounds, options.compile)
    if options.accuracy:
        result["accuracy"] = to_the_end(experiment, whole, device, options.accuracy, options.seeds) | {"epochs": options.accuracy}
    show(result)
    if options.record:
        keeping.keep(result, options.record)


def show(result: dict[str, Any]) -> None:
    print(", ".join(f"{key} {result[key]}" for key in ("model", "batch_size", "device", "threads", "torch")))
    print(f"{'':50}{'images/s':>10}{'ratio':>8}{'from':>8}{'to':>8}")
    for part, rows in result.items():
        if part in ("train", "evaluate") or part.startswith("augment"):
            print(part)
            for name, row in rows.items():
                rate, ratio = row["images_per_second"], row["ratio"]
                print(f"  {name:48}{statistics.median(rate):10,.0f}{statistics.median(ratio):8.2f}{min(ratio):8.2f}{max(ratio):8.2f}")
    for name, row in result.get("accuracy", {}).items():
        if name != "epochs":
            print(f"{name}: test accuracy {row['accuracy']}, seconds {row['seconds']}")


if __name__ == "__main__":
    main()
