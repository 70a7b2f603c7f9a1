"""What every benchmark does alike: time a task, say where it ran, keep the numbers for the book."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from snp_lib import machine
from snp_lib.machine import records_dir

machine.import_torchvision()  # also where its operators do not match a CPU-only torch


def seconds(task: Callable[[], object]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def conditions(device: torch.device) -> dict[str, Any]:
    """The command, the machine and the versions behind a record."""
    return {
        "command": " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "device": machine.device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "code": machine.code_version(),
        "date": datetime.date.today().isoformat(),
    }


def keep(result: dict[str, Any], name: str) -> None:
    """Write data/records/benchmarks/NAME.json, which ``snp_lib.results.claims.load_benchmark`` reads."""
    path = records_dir() / "benchmarks" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"kept in {path}")
