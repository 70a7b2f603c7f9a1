"""Seconds of a forward pass of catalogue networks against the first of them, eager and compiled, at several batch sizes.

    python benchmarks/latencies.py [--experiments cct,cct-k1,...] [--scale medium] [--batches 1,128,512] [--precision bfloat16]
                                   [--device auto] [--limit 6] [--compiled] [--record NAME]

The weights do not matter, so the networks are as their seed initialises them. All are timed in turn in every round, the
first one twice (see `snp_lib.latency`).
"""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

import keeping

from snp_lib import experiments, latency, machine

FRONTS = "cct,cct-k1,cct-k1-full1,cct-k1-narrow2-shortcut,cct-k1-separable2-shortcut,cct-k2,cct-k2-full1,cct-k3,cct-k3-full1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", default=FRONTS, help="names, separated by commas, the reference first")
    parser.add_argument("--scale", choices=experiments.SCALES, default="medium", help="(default: medium)")
    parser.add_argument("--batches", default="1,128,512", help="(default: 1,128,512)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="(default: bfloat16)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--limit", type=float, default=6.0, help="seconds a batch size (default: 6)")
    parser.add_argument("--compiled", action="store_true", help="compiled networks as well")
    parser.add_argument("--record", metavar="NAME", help="keep the numbers in data/records/benchmarks/NAME.json")
    options = parser.parse_args()
    device, classes = machine.choose_device(options.device), 100
    networks = {
        name: experiments.initial_model(experiments.get(name, options.scale, 0), classes) for name in options.experiments.split(",")
    }
    rows: list[dict[str, Any]] = []
    for compiled in (False, True)[: 1 + options.compiled]:
        for batch in map(int, options.batches.split(",")):
            with latency.compiled(networks) if compiled else contextlib.nullcontext(networks) as forms:
                timed = latency.compare(forms, batch, device, limit=options.limit, precision=options.precision).rows()
            rows += [row | {"compiled": compiled} for row in timed]
            for row in timed:
                print(
                    f"{row['model']:28}{'compiled' if compiled else 'eager':10}{batch:5}{1000 * row['seconds']:9.3f} ms{row['ratio']:7.3f}"
                )
            if options.record:  # what was timed is kept, whatever happens to the rest
                keeping.keep(keeping.conditions(device) | {"rows": rows}, options.record)


if __name__ == "__main__":
    main()
