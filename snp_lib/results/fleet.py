"""Many runs over many processes, cards and machines, each trained and measured where a worker is free (defined here).

Runs are independent of one another, so a fleet is no more than a list of them, workers that take the next one, and one place where
they are kept. What is finished already is read, what a dying worker had begun is given to another, nothing is kept twice.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import multiprocessing
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from snp_lib.experiments import Experiment, get
from snp_lib.results import measure
from snp_lib.store import Run, find, run, transport

Engine = Literal["here", "processes", "ray"]

ATTEMPTS = 4  # of a run whose workers die


class FleetError(RuntimeError):
    """The engine cannot be had, or a run was given up."""


@dataclass(frozen=True)
class Finished:
    """One run of a fleet, or the reason why there is none."""

    experiment: Experiment
    run: Run | None
    error: str = ""


def fleet(
    experiments: Sequence[Experiment],
    *,
    engine: Engine = "here",
    workers: int | None = None,
    measured: Sequence[str] = (),
    device: str = "auto",
    address: str | None = None,
) -> Iterator[Finished]:
    """The runs of several experiments of the catalogue, trained and measured by workers, each yielded as soon as it is kept.

    Args:
        engine: ``here``, one after the other in this process; ``processes`` of this machine, each with a card of its own where there are
            cards; or ``ray``, tasks of one card each wherever a Ray cluster has one free.
        workers: processes; of Ray, those of the cluster that is started here where there is no address. None: one a card, or one
            a core without cards.
        measured: what :func:`snp_lib.results.measure` makes of each, while the weights are there.
        device: ``auto``, ``cpu`` or ``cuda``, of the workers.
        address: of a running Ray cluster, such as ``auto``.

    Yields:
        Every experiment with its run, those first that are finished already, then as they come; a failed one with its error, which does
        not stop the others.

    Raises:
        FleetError: Ray is asked for and not installed.
        ValueError: an unknown engine, an experiment that the catalogue does not know, or one given twice.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be {', '.join(get_args(Engine))}, got {engine!r}")
    if len({experiment.id for experiment in experiments}) != len(experiments):
        raise ValueError("an experiment is given twice")
    if unknown := [each.id for each in experiments if get(each.name, each.scale, each.seed) != each]:
        raise ValueError(f"{unknown[0]} is not as the catalogue has it, and a worker knows an experiment by its name")
    missing = []
    for experiment in experiments:
        finished = find(experiment)
        if finished is None or measured:
            missing.append(experiment)  # measurements that are kept are not made again
        else:
            yield Finished(experiment, finished)
    if engine == "here":
        yield from _here(missing, measured, device)
    elif engine == "processes":
        yield from _processes(missing, workers or _slots(device), measured, device)
    else:
        yield from _ray(missing, workers, measured, device, address)


def _slots(device: str) -> int:
    return torch.cuda.device_count() if _cards(device) else os.cpu_count() or 1


def _cards(device: str) -> bool:
    return device != "cpu" and torch.cuda.is_available()


def _here(missing: Sequence[Experiment], measured: Sequence[str], device: str) -> Iterator[Finished]:
    for experiment in missing:
        yield _kept(experiment, functools.partial(_make, experiment, measured, device))


def _kept(experiment: Experiment, result: Callable[[], Any]) -> Finished:
    """The run once a result has come, or why none came."""
    try:
        result()
        finished = find(experiment)
        return Finished(experiment, finished, "" if finished else "the worker left no run")
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        return Finished(experiment, None, str(error) or type(error).__name__)


def _make(experiment: Experiment, measured: Sequence[str], device: str) -> Run:
    finished = run(experiment, device=device, progress=False, train=True)
    measure([finished], *measured, device=device, progress=False)
    return finished


# -- processes of this machine, one a run: all write to the one store, which a lock of each run keeps in order


def _processes(missing: Sequence[Experiment], workers: int, measured: Sequence[str], device: str) -> Iterator[Finished]:
    context = multiprocessing.get_context("spawn")  # a child of a process that has touched CUDA cannot use it
    waiting, deaths = list(reversed(missing)), Counter[str]()
    cards = [number % torch.cuda.device_count() if _cards(device) else None for number in range(workers)]
    working: dict[int, tuple[Any, Any, Experiment, int | None]] = {}
    try:
        while waiting or working:
            while waiting and cards:
                experiment, card = waiting.pop(), cards.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_in_a_process, args=(experiment, tuple(measured), device, card, workers, sender))
                process.start()
                sender.close()
                working[process.sentinel] = process, receiver, experiment, card
            for sentinel in connection.wait(list(working)):
                assert isinstance(sentinel, int)
                process, receiver, experiment, card = working.pop(sentinel)
                process.join()
                cards.append(card)
                if process.exitcode < 0:  # killed, as by a machine out of memory
                    deaths[experiment.id] += 1
                    if deaths[experiment.id] < ATTEMPTS:
                        waiting.append(experiment)
                        continue
                yield _kept(experiment, functools.partial(_said, process, receiver))
    finally:
        for process, *_ in working.values():
            process.terminate()  # which leaves a checkpoint
            process.join()


def _in_a_process(experiment: Experiment, measured: Sequence[str], device: str, card: int | None, workers: int, sender: Any) -> None:
    """One run on a card of its own, or on its share of the cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's goes to the driver
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(card)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        _make(experiment, measured, device)
    except BaseException as error:
        sender.send(str(error) or type(error).__name__)
        sys.exit(1)


def _said(process: Any, receiver: Any) -> None:
    if process.exitcode:
        raise FleetError(receiver.recv() if process.exitcode > 0 else f"its worker died {ATTEMPTS} times (exit code {process.exitcode})")


# -- Ray: a worker may be anywhere, so what it made comes home as the bytes of a transport file, and the driver alone writes


def _ray(
    missing: Sequence[Experiment], workers: int | None, measured: Sequence[str], device: str, address: str | None
) -> Iterator[Finished]:
    if importlib.util.find_spec("ray") is None:
        raise FleetError("engine ray needs the package ray: pip install 'snp-lib[fleet]'; engine processes needs nothing more")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = importlib.import_module("ray")
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, num_cpus=None if address else workers, log_to_driver=False, include_dashboard=False)
    yield from _here([each for each in missing if find(each)], measured, device)  # finished ones, to be measured where their weights are
    try:
        cards = device == "cuda" or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
        remote = ray.remote(num_cpus=1, num_gpus=int(cards), max_retries=ATTEMPTS - 1)(_elsewhere)
        pending = {remote.remote(each, tuple(measured), device): each for each in missing if find(each) is None}
        while pending:
            (reference,), _ = ray.wait(list(pending), num_returns=1)
            experiment = pending.pop(reference)
            yield _kept(experiment, functools.partial(_come_home, ray, reference))
    finally:
        if started:
            ray.shutdown()


def _elsewhere(experiment: Experiment, measured: Sequence[str], device: str) -> bytes:
    """Make a run in a folder that is gone afterwards; returns its transport file, with the weights in half precision."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"SNP_RUNS_DIR": f"{folder}/runs", "SNP_RECORDS_DIR": f"{folder}/records"}
        finished = _make(experiment, measured, device)
        return transport.pack(finished, folder, weights=True).read_bytes()


def _come_home(ray: Any, reference: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.snprun"
        path.write_bytes(ray.get(reference))
        transport.unpack(path)
