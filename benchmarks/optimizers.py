"""What Muon brings on a CPU: test accuracy and seconds of `cct` small by AdamW and by Muon, seed by seed in turn.

    python benchmarks/optimizers.py [--epochs 6] [--seeds 0,1,2] [--device cpu] [--threads 1] [--record NAME]

Both have the same schedule, augmentation and order of images; only the optimiser, and its rates, differ.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from typing import Any

import keeping
import torch

from snp_lib import data, experiments, machine
from snp_lib.training import train
from snp_lib.training.recipe import FAST_50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="(default: 6)")
    parser.add_argument("--seeds", default="0,1,2", help="(default: 0,1,2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU (default: torch's own choice)")
    parser.add_argument("--only", choices=("AdamW", "Muon"), help="one of the two")
    parser.add_argument("--record", metavar="NAME", help="keep the numbers in data/records/benchmarks/NAME.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = machine.choose_device(options.device)
    base = experiments.get("cct", "small", 0)
    dataset = data.load(base.dataset, size=base.dataset_size)
    short = replace(base.recipe, epochs=options.epochs, eval_every=options.epochs)
    muon = {name: getattr(FAST_50, name) for name in ("optimizer", "lr", "weight_decay", "adam_lr", "adam_weight_decay")}
    recipes = {"AdamW": short, "Muon": replace(short, **muon)}
    recipes = {name: recipe for name, recipe in recipes.items() if options.only in (None, name)}
    rows: dict[str, dict[str, list[float]]] = {name: {"accuracy": [], "seconds": []} for name in recipes}
    for seed in experiments.parse_seeds(options.seeds):
        for name, recipe in recipes.items():
            model = experiments.initial_model(replace(base, seed=seed), dataset.num_classes)
            history = train(model, dataset, recipe, seed=seed, device=device, progress=False)
            rows[name]["accuracy"].append(history[-1]["test_accuracy"])
            rows[name]["seconds"].append(round(sum(row["seconds"] for row in history), 1))
            print(f"seed {seed} {name:6} {rows[name]['accuracy'][-1]:.4f} {rows[name]['seconds'][-1]:8.0f} s", flush=True)
    for name, row in rows.items():
        spread = statistics.stdev(row["accuracy"]) if len(row["accuracy"]) > 1 else float("nan")
        print(f"{name}: {statistics.fmean(row['accuracy']):.4f} ± {spread:.4f} in {statistics.median(row['seconds']):.0f} s")
    if options.record:
        kept: dict[str, Any] = {"epochs": options.epochs, "seeds": options.seeds, "rows": rows}
        keeping.keep(keeping.conditions(device) | kept, options.record)


if __name__ == "__main__":
    main()
