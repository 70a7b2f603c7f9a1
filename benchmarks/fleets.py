"""How the cost of a fleet grows with its runs and its workers: the driver's work is measured, the rest simulated.

    python benchmarks/fleets.py [--experiment cct] [--scale medium] [--seconds 104] [--record NAME]

A worker trains for as long as is said; what it made comes to the one driver, which checks it and writes it (`snp_lib.results.fleet`, engine
ray). That is measured here on a real record: packed, unpacked into an empty store. Then runs go to whichever worker is free, and each
result waits until the driver is.
"""

from __future__ import annotations

import argparse
import heapq
import os
import statistics
import tempfile
import time
from pathlib import Path

import keeping
import torch

from snp_lib import experiments, store
from snp_lib.store import transport

RUNS, WORKERS = (1, 10, 100, 1000), (1, 4, 16, 64)


def driver_seconds(finished: store.Run, rounds: int) -> list[float]:
    """What the driver does with one result that has come home, several times."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        path = transport.pack(finished, folder)
        for number in range(rounds):
            os.environ["SNP_RUNS_DIR"] = str(Path(folder) / str(number))
            started = time.perf_counter()
            transport.unpack(path)
            times.append(time.perf_counter() - started)
    return times


def simulated(runs: int, workers: int, training: float, driver: float) -> float:
    """Seconds until the last of so many runs is kept."""
    free, driver_free = [0.0] * workers, 0.0
    for _ in range(runs):
        done = heapq.heappop(free) + training
        driver_free = max(driver_free, done) + driver
        heapq.heappush(free, done)  # the worker takes the next run while its result is written
    return driver_free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="cct")
    parser.add_argument("--scale", choices=experiments.SCALES, default="medium", help="(default: medium)")
    parser.add_argument("--seconds", type=float, default=104.0, help="of a worker for one run (default: 104, cct at medium on one H200)")
    parser.add_argument("--rounds", type=int, default=7, help="of the driver's work (default: 7)")
    parser.add_argument("--record", metavar="NAME", help="keep the numbers in data/records/benchmarks/NAME.json")
    options = parser.parse_args()
    finished = store.find(experiments.get(options.experiment, options.scale, 0))
    if finished is None:
        raise SystemExit(f"no run of {options.experiment} at {options.scale}, seed 0; make it first")
    times = driver_seconds(finished, options.rounds)
    driver = statistics.median(times)
    print(f"the driver takes {driver:.2f} s a run ({min(times):.2f} to {max(times):.2f}), a worker {options.seconds:g} s")
    print("runs " + "".join(f"{workers:>12} w" for workers in WORKERS))
    rows = []
    for runs in RUNS:
        took = [simulated(runs, workers, options.seconds, driver) for workers in WORKERS]
        rows += [{"runs": runs, "workers": workers, "seconds": seconds} for workers, seconds in zip(WORKERS, took, strict=True)]
        print(f"{runs:4} " + "".join(f"{seconds / 60:10.1f} min" for seconds in took))
    if options.record:
        result = keeping.conditions(torch.device("cpu")) | {"driver": times, "worker": options.seconds, "rows": rows}
        keeping.keep(result, options.record)


if __name__ == "__main__":
    main()
