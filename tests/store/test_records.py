"""Sets of records: in order, within a budget, whole or not at all."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pretended
import pytest
from shared import shortened

from snp_lib import cli, experiments, store
from snp_lib.performance import readout
from snp_lib.store import derived, transport, upkeep
from snp_lib.store.records import make_set
from snp_lib.training import Stopped, loop


@pytest.fixture
def short_set(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of two seeds of a short experiment, in a catalogue of its own."""
    entry = experiments.CATALOGUE["cct"]
    short = {seed: shortened("cct", seed) for seed in range(3)}
    monkeypatch.setitem(experiments.CATALOGUE, "cct", replace(entry, build=lambda scale, seed: short[seed]))
    monkeypatch.setitem(experiments.SETS, "cct", (("cct", 1), ("cct", 0)))
    return own_folders


def test_a_set_is_recorded_in_its_order(short_set: Path) -> None:
    found = list(make_set("cct", "smoke", budget=600, device="cpu", progress=False))
    assert [finished.experiment.seed for finished, _ in found] == [1, 0]
    assert [path for _, path in found] == [short_set / "records" / "cct-smoke-s1", short_set / "records" / "cct-smoke-s0"]
    for _, path in found:
        assert upkeep.verify(path).startswith("test accuracy ")


def test_the_budget_leaves_whole_records_only_and_the_rest_goes_on(short_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, packed = time.monotonic, short_set / "packed"
    made = make_set("cct", "smoke", budget=1e6, device="cpu", to=packed, progress=False)
    next(made)
    monkeypatch.setattr(time, "monotonic", lambda: now() + 2e6)  # the budget is used up after the first run
    with pytest.raises(Stopped, match="stopped by its time limit after 0 of 2 epochs"):
        next(made)
    assert [path.name for path in packed.iterdir()] == ["cct-smoke-s1.snprun"]
    assert not (short_set / "records").exists()
    assert (short_set / "runs" / ".partial" / "cct-smoke-s0" / "checkpoint.safetensors").exists()
    monkeypatch.setattr(time, "monotonic", now)
    found = list(make_set("cct", "smoke", budget=600, device="cpu", to=packed, progress=False))
    assert sorted(path.name for _, path in found) == ["cct-smoke-s0.snprun", "cct-smoke-s1.snprun"]


def test_a_run_of_an_older_definition_is_made_again(short_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(experiments.SETS, "cct", (("cct", 0),))
    ((first, _),) = make_set("cct", "smoke", budget=600, device="cpu", progress=False)
    entry = experiments.CATALOGUE["cct"]

    def changed(scale: experiments.Scale, seed: int) -> experiments.Experiment:
        return entry.build(scale, seed).vary("cct", readout=readout.ReadoutRecipe(epochs=1, batch_size=64))

    monkeypatch.setitem(experiments.CATALOGUE, "cct", replace(entry, build=changed))
    ((second, path),) = make_set("cct", "smoke", budget=600, device="cpu", progress=False)
    assert second.experiment.hash != first.experiment.hash
    assert store.read(path).record == second.record


def test_a_newer_run_is_not_replaced_unasked(short_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((finished, _), _) = make_set("cct", "smoke", budget=600, device="cpu", progress=False)
    manifest = finished.path / "manifest.json"
    newer = manifest.read_text(encoding="utf-8").replace('"snp-run-1"', '"snp-run-9"')
    manifest.write_text(newer, encoding="utf-8")
    with pytest.raises(store.StoreError, match=r"newer than 'snp-run-1'.*Update snp_lib here"):
        list(make_set("cct", "smoke", budget=600, device="cpu", progress=False))
    assert manifest.read_text(encoding="utf-8") == newer


def test_the_command_records_a_set_and_says_when_the_budget_ended(
    short_set: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["make", "cct", "--scale", "smoke", "--budget", "0.001s", "--device", "cpu"]) == 3
    assert "stopped by its time limit" in capsys.readouterr().err
    assert not (short_set / "records").exists()
    packed = short_set / "packed"
    assert cli.main(["make", "cct", "--scale", "smoke", "--budget", "2h", "--device", "cpu", "--to", str(packed), "--weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["cct-smoke-s1", "cct-smoke-s0"]
    assert not (short_set / "records").exists()
    shutil.rmtree(short_set / "runs")
    assert transport.unpack(packed / "cct-smoke-s0.snprun").readouts()
    assert cli.main(["train", "cct", "--scale", "smoke", "--seeds", "2", "--time-limit", "0.001s"]) == 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["make", "cct", "--weights"], "--weights goes with --to DIR"),
        (["make", "nothing"], "no set 'nothing'; there are cct"),
        (["make", "cct", "--budget", "9"], "expected a time such as 30s, 9m or 2h, got '9'"),
        (["train", "cct", "--time-limit", "0m"], "expected a time such as 30s, 9m or 2h, got '0m'"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code in (1, 2)
    assert reason in capsys.readouterr().err


def test_an_unknown_set_is_named() -> None:
    with pytest.raises(ValueError, match="unknown set 'nothing'; there are cct"):
        experiments.members("nothing", "smoke")


def test_the_variants_of_paper_b_come_in_order_of_value() -> None:
    ids = [experiment.id for experiment in experiments.members("variants", "paper")]
    assert ids[:3] == ["cct-h16-paper-s0", "cct-h64-paper-s0", "cct-h32-paper-s0"]
    assert ids.index("cct-k3-paper-s0") < ids.index("cct-h16-paper-s1") < ids.index("cct-k1-full1-shortcut-paper-s0")
    known = {name for name, entry in experiments.CATALOGUE.items() if name.startswith(("cct-h", "cct-k")) and "paper" in entry.cost}
    assert set(ids) == {f"{name}-paper-s{seed}" for name in known for seed in range(3)}
    smoke = [experiment.id for experiment in experiments.members("variants", "smoke")]
    assert "cct-h16-smoke-s2" in smoke
    assert "cct-h8-smoke-s0" not in smoke


@pytest.mark.parametrize("name", sorted(experiments.SETS))
def test_every_set_is_in_the_catalogue(name: str) -> None:
    for scale in experiments.SCALES:
        ids = [experiment.id for experiment in experiments.members(name, scale)]
        assert len(set(ids)) == len(ids)


def test_a_set_made_on_a_gpu_and_cut_three_times_is_complete_with_nothing_twice(short_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, made, work = random.Random(0), [], []
    real, steps, learns = time.monotonic, loop.Training.step, readout.Learning.step

    def step(training: loop.Training, *given: Any) -> None:
        made.append((training.seed, training.done))
        work.append(1)
        steps(training, *given)

    def learn(learning: Any, *given: Any) -> None:
        work.append(1)
        learns(learning, *given)

    monkeypatch.setattr(loop.Training, "step", step)
    monkeypatch.setattr(readout.Learning, "step", learn)
    command = ["make", "cct", "--scale", "smoke", "--device", "cuda", "--measure", "stages,ablation"]
    command += ["--to", str(short_set / "out"), "--bundle", "--budget", "1000s"]
    codes = []
    for cut in (*(draw.randrange(10, 110) for _ in range(3)), 10**9):  # steps of trainings and readouts before the time is up
        work.clear()
        monkeypatch.setattr(time, "monotonic", lambda cut=cut: real() + 1e6 * (len(work) > cut))
        with pretended.gpu():
            codes.append(cli.main(command))
    assert codes[-1] == 0
    assert codes[:-1] == [3, 3, 3]
    assert len(made) == len(set(made))  # no step was taken twice
    parts = sorted((short_set / "out").iterdir())
    monkeypatch.setattr(time, "monotonic", real)
    monkeypatch.setenv("SNP_RUNS_DIR", str(short_set / "elsewhere"))
    assert cli.main(["import", *map(str, parts)]) == 0
    for seed in (0, 1):
        run = store.find(experiments.get("cct", "smoke", seed))
        assert run is not None
        names = {path.name for path in derived.of_run(run)}
        assert names == {"stage-000.json", "ablation-zero.json"}
