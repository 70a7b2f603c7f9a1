"""The options of the command ``snp``, and what each of them accepts."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCALES = ("smoke", "small", "medium", "paper")
OWN = "each chapter's own"
TEXT = "text"

Option = Callable[[argparse.ArgumentParser], object]


def option(*names: str, **settings: Any) -> Option:
    """An option of a verb, as argparse takes it."""
    return lambda sub: sub.add_argument(*names, **settings)


def scale_option(default: str | None) -> Option:
    """The scale, with a default or each chapter's own."""
    return option("--scale", choices=SCALES, default=default, help=f"size of data and networks (default: {default or OWN})")


def seeds_option(default: list[int] | None, shown: str) -> Option:
    """The seeds, with a default shown in words."""
    return option("--seeds", type=seeds, default=default, help=f"such as 0,1,2 (default: {shown})")


def experiment(text: str) -> str:
    """A name that some scale has."""
    from snp_lib import experiments

    for scale in experiments.SCALES:
        with contextlib.suppress(ValueError):
            return experiments.get(text, scale, 0).name
    raise argparse.ArgumentTypeError(
        f"no experiment {text!r}; there are {', '.join(experiments.CATALOGUE)}, and variants named as these are"
    )


def experiment_or_text(text: str) -> str:
    """A name that some scale has, or ``text``, which a table of one's own makes one."""
    return text if text == TEXT else experiment(text)


def data_set(text: str) -> str:
    """A name of a data set."""
    from snp_lib.data import SOURCES, source

    try:
        source(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"no data set {text!r}; there are {', '.join(SOURCES)}") from None
    return text


def positive(text: str) -> int:
    """A positive integer."""
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def batches(text: str) -> list[int]:
    """Positive integers, separated by commas."""
    return [positive(part.strip()) for part in text.split(",")]


def duration(text: str) -> float:
    """Seconds of a time such as 30s, 9m or 2h."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"expected a time such as 30s, 9m or 2h, got {text!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def theta(text: str) -> float:
    """A threshold in [0, 1)."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number in [0, 1), got {text!r}")
    return value


def seeds(text: str) -> list[int]:
    """Distinct non-negative integers, separated by commas."""
    from snp_lib import experiments

    try:
        return experiments.parse_seeds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def measurements(text: str) -> list[str]:
    """Names of measurements, separated by commas."""
    from snp_lib.results import MEASUREMENTS

    names = [part.strip() for part in text.split(",")]
    if unknown := [name for name in names if name not in (*MEASUREMENTS, "all")]:
        raise argparse.ArgumentTypeError(f"no measurement {unknown[0]!r}; there are {', '.join(MEASUREMENTS)}, and all")
    return names


def set_name(text: str) -> str:
    """A name of a set of experiments."""
    from snp_lib.experiments import SETS

    if text not in SETS:
        raise argparse.ArgumentTypeError(f"no set {text!r}; there are {', '.join(SETS)}")
    return text


EXPERIMENT = option("experiment", type=experiment, metavar="EXPERIMENT", help="name, see `snp experiments`; also cct-k2-full2 and the like")
EXPERIMENT_OR_TEXT = option(
    "experiment",
    type=experiment_or_text,
    metavar="EXPERIMENT",
    help="name, see `snp experiments`; also cct-k2-full2 and the like; or text, with --data",
)
OWN_TABLE = option("--data", type=Path, metavar="FILE", help="with text: a CSV file of your own with the columns text and label")
SCALE, SEEDS = scale_option("small"), seeds_option([0], "0")
DEVICE = option("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: auto)")
THREADS = option("--threads", type=positive, help="CPU threads (default: torch's own choice)")
COMPILE = option("--compile", action="store_true", help="let torch.compile make the encoders; for long trainings on a GPU")
REFRESH = option("--refresh", action="store_true", help="train anew even where a run or record exists")
TO_DIR = option("--to", type=Path, metavar="DIR", help="write one file a run to DIR, for `snp import`; promote nothing")
WEIGHTS = option("--weights", action="store_true", help="with --to: the trained weights too, in half precision")
MEASURE = option(
    "--measure", type=measurements, default=[], metavar="WHAT", help="measure first, such as stages,ablation or all, and keep that too"
)
TIME_LIMIT = option("--time-limit", type=duration, default=math.inf, metavar="TIME", help="stop at a checkpoint after 30s, 9m, 2h")
THETA = option("--theta", type=theta, help="threshold in [0, 1) (default: that of the released code of paper C, 0.3)")
UNIT = option("--unit", choices=("node", "head"), default="node", help="nodes of every site, or heads of the mha sites")
WHAT = option("--what", type=measurements, metavar="WHAT", help="make these and keep them with the run, such as stages,ablation or all")
SET = option("set", type=set_name, metavar="SET", help="cct, variants, elsewhere, orders or curve")
ENGINE = option("--engine", choices=("here", "processes", "ray"), default="processes", help="where workers are (default: processes)")
WORKERS = option("--workers", type=positive, help="workers (default: one a card, or one a core)")
ADDRESS = option("--address", help="of a running Ray cluster, such as auto; without it one is started on this machine")
BUDGET = option("--budget", type=duration, default=math.inf, metavar="TIME", help="for all, such as 9m; what is whole then is kept")
BATCHES = option("--batch", type=batches, default=[1, 128], metavar="SIZES", help="inputs of a pass, such as 1,128 (default: 1,128)")
COMPILED_TOO = option("--compile", action="store_true", help="also as torch.compile makes it, against the network as it is")
EACH_TIME_LIMIT = option(
    "--time-limit", type=duration, default=60.0, metavar="TIME", help="of each batch size, after warm-up (default: 60s)"
)
FILES = option(
    "files",
    nargs="+",
    type=Path,
    metavar="FILE",
    help="made by `snp record EXPERIMENT --to DIR` or `snp make SET --to DIR`; all parts of a bundle",
)
TO_PLACE = option("--to", choices=("runs", "records"), default="runs", help="your own runs or the committed records (default: runs)")
BUNDLE = option("--bundle", action="store_true", help="with --to: all runs in as few files as there can be, of 16 MiB at most")
APART = option("--weights", type=Path, metavar="FILE", help="weights that travelled apart from the one FILE given, for runs")
REPLACE = option("--replace", action="store_true", help="replace another run of the same id")
PATHS = option("paths", nargs="*", type=Path, metavar="PATH", help="file or folder (default: all records and runs)")
FOLDERS = option("paths", nargs="*", type=Path, metavar="PATH", help="folder (default: all records and runs)")
DATA_SET = option("name", type=data_set, metavar="NAME", help="such as digits, cifar100 or flowers102")
ROOT = option("--root", type=Path, help="folder (default: SNP_DATA_DIR, else data/cache/)")
SIZE = option("--size", type=positive, help="side of the images in pixels")
CHAPTERS = option("chapters", nargs="*", metavar="CHAPTER", help="numbers or names, such as a2 or a2_snp_matrices (default: all)")
DATASET = option("--dataset", help="of the chapters that know several, such as flowers102 (default: each chapter's own)")
ACCEPT = option("--accept", action="store_true", help="make the numbers found the published ones")
IN_PLACE = option("--in-place", action="store_true", help="store the executed chapters in book/ (default: runs/chapters/)")
JOBS = option("--jobs", type=positive, default=1, help="chapters executed at a time, which share the cores (default: 1)")
OWN_SCALE, OWN_SEEDS = scale_option(None), seeds_option(None, OWN)
