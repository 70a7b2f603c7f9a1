"""The verbs of the command ``snp`` about what is kept: records, sets, transport files."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from snp_lib.cli import options as take
from snp_lib.cli.verbs import accuracy, finished_run, verb

if TYPE_CHECKING:
    from snp_lib.store import Run


@verb(
    "record",
    "promote finished runs to the committed records in data/records/, or pack them to carry them elsewhere",
    take.EXPERIMENT,
    take.SCALE,
    take.SEEDS,
    take.DEVICE,
    take.MEASURE,
    take.TO_DIR,
    take.WEIGHTS,
)
def _record(options: Namespace) -> int:
    from snp_lib.results import measure
    from snp_lib.store import records

    _check_weights(options)
    for finished in [finished_run(options, seed) for seed in options.seeds]:
        measure([finished], *options.measure, device=options.device)
        path = records.keep(finished, options.to, weights=options.weights)
        print(f"{finished.experiment.id}: {path} ({_megabytes(path)})")
    return 0


@verb(
    "make",
    "make the missing runs of a set, the most valuable first, and keep each as soon as it is whole",
    take.SET,
    take.SCALE,
    take.DEVICE,
    take.COMPILE,
    take.BUDGET,
    take.MEASURE,
    take.TO_DIR,
    take.WEIGHTS,
    take.BUNDLE,
)
def _make(options: Namespace) -> int:
    from snp_lib.results import measure
    from snp_lib.store import records

    _check_weights(options)
    if options.bundle and not options.to:
        raise ValueError("--bundle goes with --to DIR; a committed record is a folder")

    def measured(finished: Run, deadline: float) -> None:
        measure([finished], *options.measure, device=options.device, deadline=deadline)

    chosen = {"budget": options.budget, "device": options.device, "compiled": options.compile, "to": options.to}
    chosen |= {"weights": options.weights, "bundled": options.bundle}
    for finished, path in records.make_set(options.set, options.scale, **chosen, measure=measured):
        print(f"{accuracy(finished)}, {path.parent if options.bundle else f'{path} ({_megabytes(path)})'}", flush=True)
    return 0


@verb(
    "fleet",
    "make the missing runs of a set by many workers: processes of this machine, a card each, or a Ray cluster",
    take.SET,
    take.SCALE,
    take.ENGINE,
    take.WORKERS,
    take.MEASURE,
    take.DEVICE,
    take.ADDRESS,
)
def _fleet(options: Namespace) -> int:
    from tqdm.auto import tqdm

    from snp_lib import experiments
    from snp_lib.results.fleet import fleet

    chosen, code = experiments.members(options.set, options.scale), 0
    how = {"engine": options.engine, "workers": options.workers, "measured": options.measure}
    for each in tqdm(fleet(chosen, **how, device=options.device, address=options.address), total=len(chosen), unit="run"):
        code |= each.run is None
        tqdm.write(accuracy(each.run) if each.run is not None else f"{each.experiment.id}: {each.error}")
    return int(code)


@verb("import", "check transport files and put their runs in place", take.FILES, take.TO_PLACE, take.REPLACE, take.APART)
def _import(options: Namespace) -> int:
    from tempfile import TemporaryDirectory

    from snp_lib.store import bundle, transport

    if options.weights and len(options.files) != 1:
        raise ValueError(f"--weights is of one run: give one FILE with it, not {len(options.files)}")

    def one(path: Path) -> str:
        finished = transport.unpack(path, to=options.to, replace=options.replace, weights=options.weights)
        return f"{finished.experiment.id}: {finished.path} ({_megabytes(finished.path)})"

    parts = [path for path in options.files if path.suffix == bundle.SUFFIX]
    with TemporaryDirectory() as folder:
        inside = []
        for number, group in enumerate(bundle.bundles(parts)):
            target = Path(folder) / str(number)
            target.mkdir()
            inside += bundle.unpack(group, target)
        return _each([path for path in options.files if path not in parts] + inside, one)


@verb("verify", "check every byte of transport files, runs, records and what was measured of them; write nothing", take.PATHS)
def _verify(options: Namespace) -> int:
    from snp_lib.store import upkeep

    return _each(_stored(options), lambda path: f"{_label(path)}: {upkeep.verify(path)}, {_megabytes(path)}, OK")


@verb("upgrade", "check runs, records and what was measured of them, and give manifests from before digests theirs", take.FOLDERS)
def _upgrade(options: Namespace) -> int:
    from snp_lib.store import upkeep

    return _each(_stored(options), lambda path: f"{_label(path)}: {upkeep.upgrade(path)}")


def _check_weights(options: Namespace) -> None:
    if options.weights and not options.to:
        raise ValueError("--weights goes with --to DIR; a committed record holds no weights")


def _stored(options: Namespace) -> list[Path]:
    from snp_lib import store
    from snp_lib.store import upkeep

    if not (paths := upkeep.stored(options.paths)):
        raise store.StoreError(f"there is nothing to check in {store.root('runs')} and {store.root('records')}")
    return paths


def _each(paths: Iterable[Path], one: Callable[[Path], str]) -> int:
    """Print one line a path, the reason where it is refused, and return 1 if any was."""
    from snp_lib.store import StoreError

    code = 0
    for path in paths:
        try:
            print(one(path))
        except StoreError as error:
            print(f"{_label(path)}: {error}")
            code = 1
    return code


def _label(path: Path) -> str:
    return f"derived/{path.name}" if path.parent.name == "derived" else path.stem


def _megabytes(path: Path) -> str:
    return f"{sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path])) / 1e6:.1f} MB"
