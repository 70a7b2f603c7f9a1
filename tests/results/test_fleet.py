"""Many runs by many workers: all there, nothing twice, whatever dies on the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shared import installed, shortened, unchecked

from snp_lib import cli, experiments, store
from snp_lib.results import fleet as fleets
from snp_lib.results.fleet import Finished, FleetError, fleet
from snp_lib.store import derived


def collected(generator: Iterator[Finished]) -> tuple[threading.Thread, list[Finished]]:
    """What a fleet yields, gathered in a thread that is started."""
    results: list[Finished] = []
    thread = threading.Thread(target=lambda: results.extend(generator))
    thread.start()
    return thread, results


def test_runs_are_made_and_measured_and_then_only_read(catalogue: Path) -> None:
    chosen = [shortened(seed=seed) for seed in (0, 1)]
    first = list(fleet(chosen, engine="here", measured=["ablation"], device="cpu"))
    assert {each.experiment.id for each in first} == {experiment.id for experiment in chosen}
    assert all(each.run is not None and not each.error for each in first)
    stamps = {path: path.stat().st_mtime_ns for path in catalogue.rglob("manifest.json")}
    assert len(stamps) == 2
    for each in first:
        assert each.run is not None
        assert [path.name for path in derived.of_run(each.run)] == ["ablation-zero.json"]
    again = list(fleet(chosen, engine="processes", workers=2, device="cpu"))
    assert [each.experiment for each in again] == chosen
    assert {path: path.stat().st_mtime_ns for path in catalogue.rglob("manifest.json")} == stamps


def test_a_worker_that_is_killed_loses_nothing_and_makes_nothing_twice(catalogue: Path) -> None:
    chosen = [shortened(seed=seed) for seed in (0, 1)]
    thread, results = collected(fleet(chosen, engine="processes", workers=2, measured=["ablation"], device="cpu"))
    deadline = time.monotonic() + 100
    while not (begun := list(catalogue.glob("runs/.partial/*/*"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    victim = multiprocessing.active_children()[0]
    assert begun, "no worker began"
    os.kill(int(victim.pid or 0), signal.SIGKILL)
    thread.join(150)
    assert not thread.is_alive()
    assert sorted(each.experiment.seed for each in results) == [0, 1]
    assert all(each.run is not None for each in results), results
    assert not list(catalogue.glob("runs/.partial/*"))
    expected = store.run(chosen[0], device="cpu")
    assert expected.record == next(each.run.record for each in results if each.run and each.experiment == chosen[0])


def test_a_run_whose_workers_always_die_is_given_up_and_the_others_go_on(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets, "ATTEMPTS", 2)
    monkeypatch.setattr(fleets, "_in_a_process", die_of_seed_one)
    chosen = [shortened(seed=seed) for seed in (0, 1)]
    results = {each.experiment.seed: each for each in fleet(chosen, engine="processes", workers=1, device="cpu")}
    assert results[1].error == "its worker died 2 times (exit code -9)"
    assert results[0].error == "no more cores"


def die_of_seed_one(experiment: experiments.Experiment, *given: Any) -> None:
    if experiment.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    given[-1].send("no more cores")
    os._exit(1)


def test_what_fails_is_said_and_the_rest_is_made(
    catalogue: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [shortened(seed=0), shortened(seed=1)]
    monkeypatch.setattr(experiments, "members", lambda name, scale: members)
    real = fleets._make

    def make(experiment: experiments.Experiment, *given: Any) -> store.Run:
        if experiment.seed == 0:
            raise ValueError("the data went away")
        return real(experiment, *given)

    monkeypatch.setattr(fleets, "_make", make)
    assert cli.main(["fleet", "cct", "--scale", "smoke", "--engine", "here", "--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert f"{members[0].id}: the data went away" in said
    assert f"{members[1].id}: test accuracy" in said


@pytest.mark.parametrize(
    ("chosen", "engine", "message"),
    [
        ([shortened()], "slurm", "engine must be here, processes, ray, got 'slurm'"),
        ([experiments.get("cct", "smoke", 0)] * 2, "here", "an experiment is given twice"),
        ([experiments.get("cct", "smoke", 0).vary("cct", lean=True)], "here", "cct-smoke-s0 is not as the catalogue has it"),
    ],
)
def test_what_cannot_be_made_is_refused(chosen: Any, engine: Any, message: str, own_folders: Path) -> None:
    with unchecked(), pytest.raises(ValueError, match=message):
        list(fleet(chosen, engine=engine))


def test_ray_is_asked_for_by_name_where_it_is_missing(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FleetError, match=r"pip install 'snp-lib\[fleet\]'; engine processes needs nothing more"):
        list(fleet([experiments.get("cct", "smoke", 0)], engine="ray"))


@pytest.mark.timeout(300)
def test_two_machines_of_a_ray_cluster_share_a_set_and_one_dies(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = installed("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        _, dying = (cluster.add_node(num_cpus=1) for _ in range(2))
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        chosen = [experiments.get("cct", "smoke", seed) for seed in (0, 1, 2)]
        thread, results = collected(fleet(chosen, engine="ray", device="cpu"))
        time.sleep(12)  # both are at work
        cluster.remove_node(dying, allow_graceful=False)
        thread.join(200)
        assert not thread.is_alive()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert sorted(each.experiment.seed for each in results) == [0, 1, 2]
    assert all(each.run is not None for each in results), results
    manifests = list((own_folders / "runs").glob("*/manifest.json"))
    assert sorted(json.loads(path.read_text(encoding="utf-8"))["experiment"]["seed"] for path in manifests) == [0, 1, 2]
