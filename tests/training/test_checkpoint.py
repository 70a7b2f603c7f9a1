"""Trainings that are killed, stopped, or out of time go on to the same bits."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from snp_lib.data import Dataset
from snp_lib.training import Stopped, checkpoint as checkpoints
from snp_lib.training.loop import train
from snp_lib.training.recipe import Recipe
from tests.training.test_loop import RECIPE, assert_same_bits, fit, network, timeless

Outcome = tuple[dict[str, Tensor], list[dict[str, Any]]]
CPU = torch.device("cpu")
MUON = replace(RECIPE, optimizer="muon", lr=2.5e-3, adam_lr=1e-3, adam_weight_decay=0.03)


@pytest.fixture(scope="module")
def uninterrupted(few_digits: Dataset) -> Outcome:
    model = network()
    history = fit(model, few_digits)
    return model.state_dict(), timeless(history)


def in_a_child(work: Callable[[], object]) -> int:
    """Start work in a process of its own and return its number."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def assert_resumes(path: Path, dataset: Dataset, expected: Outcome, recipe: Recipe = RECIPE) -> None:
    resumed = network(seed=99) if checkpoints.exists(path) else network()  # killed before its first checkpoint: it begins again
    assert timeless(fit(resumed, dataset, recipe, path=path)) == expected[1]
    assert_same_bits(resumed, expected[0])


def steps_in(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        steps: int = json.loads(file.metadata()["state"])["steps"]
    return steps


@pytest.mark.filterwarnings("ignore:.*Going on from the one before it")  # a kill between the two renamings
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")  # the child only trains, on one thread
@pytest.mark.parametrize("recipe", [RECIPE, MUON], ids=["adamw", "muon"])
def test_killed_at_twenty_random_moments(recipe: Recipe, few_digits: Dataset, tmp_path: Path) -> None:
    model = network()
    expected = timeless(fit(model, few_digits, recipe))
    started = time.monotonic()
    os.waitpid(in_a_child(lambda: fit(network(), few_digits, recipe, path=tmp_path / "whole.safetensors")), 0)
    duration = time.monotonic() - started
    moments, stood = random.Random(0), set()
    for attempt in range(20):
        path = tmp_path / f"{attempt}.safetensors"
        child = in_a_child(lambda path=path: fit(network(), few_digits, recipe, path=path))  # type: ignore[misc]
        time.sleep(moments.uniform(0.05, 1.0) * duration)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        stood.add(steps_in(path) if path.exists() else 0)
        assert_resumes(path, few_digits, (model.state_dict(), expected), recipe)
    assert len(stood) > 3, f"the moments were not random enough: {stood}"


def test_sigterm_stops_after_the_step_with_a_checkpoint(uninterrupted: Outcome, few_digits: Dataset, tmp_path: Path) -> None:
    path, before = tmp_path / "checkpoint.safetensors", signal.getsignal(signal.SIGTERM)

    def terminate(epoch: int) -> None:
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match=r"stopped by SIGTERM after 2 of 4 epochs; everything so far is in .*the same command goes on"):
        train(network(), few_digits, RECIPE, seed=0, device=CPU, fingerprint="one", checkpoint=path, after_epoch=terminate, progress=False)
    assert steps_in(path) == 8
    assert signal.getsignal(signal.SIGTERM) is before
    assert_resumes(path, few_digits, uninterrupted)


def test_sigterm_in_the_last_epoch_stops_what_would_come_after_it(few_digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"

    def terminate(epoch: int) -> None:
        if epoch == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    options: dict[str, Any] = {"seed": 0, "device": CPU, "checkpoint": path, "progress": False}
    with pytest.raises(Stopped, match="stopped by SIGTERM after 4 of 4 epochs"):
        train(network(), few_digits, RECIPE, after_epoch=terminate, **options)
    assert len(train(network(), few_digits, RECIPE, **options)) == 4


def test_the_time_limit_stops_in_the_middle_of_an_epoch(
    uninterrupted: Outcome, few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "checkpoint.safetensors", iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: float(next(clock)))
        with pytest.raises(Stopped, match="stopped by its time limit after 1 of 4 epochs"):
            train(network(), few_digits, RECIPE, seed=0, device=CPU, fingerprint="one", checkpoint=path, deadline=11.5, progress=False)
    assert steps_in(path) in (5, 6, 7)
    assert_resumes(path, few_digits, uninterrupted)


def test_a_deadline_after_the_last_step_is_no_stop(uninterrupted: Outcome, few_digits: Dataset) -> None:
    model, epochs = network(), []
    options: dict[str, Any] = {"seed": 0, "device": CPU, "progress": False}
    history = train(model, few_digits, RECIPE, deadline=math.inf, after_epoch=epochs.append, **options)
    assert epochs == [0, 1, 2, 3, 4]
    assert timeless(history) == uninterrupted[1]
    one_step = replace(RECIPE, epochs=1, batch_size=192)
    assert len(train(network(), few_digits, one_step, deadline=0.0, **options)) == 1


def test_no_finished_epoch_is_skipped_by_after_epoch(few_digits: Dataset, tmp_path: Path) -> None:
    path, seen = tmp_path / "checkpoint.safetensors", []

    def see_and_crash(epoch: int) -> None:
        seen.append(epoch)
        if seen == [0, 1, 2]:
            raise KeyboardInterrupt  # before the checkpoint that would hold epoch 2

    options: dict[str, Any] = {
        "seed": 0,
        "device": CPU,
        "fingerprint": "one",
        "checkpoint": path,
        "checkpoint_seconds": 0,
        "progress": False,
    }
    with pytest.raises(KeyboardInterrupt):
        train(network(), few_digits, RECIPE, after_epoch=see_and_crash, **options)
    train(network(), few_digits, RECIPE, after_epoch=see_and_crash, **options)
    assert seen == [0, 1, 2, 2, 3, 4]


def test_checkpoints_come_at_intervals(few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr("snp_lib.training.checkpoint.save", lambda *args, state, **options: written.append(state["steps"]))
    options: dict[str, Any] = {"seed": 0, "device": CPU, "checkpoint": tmp_path / "c.safetensors", "progress": False}
    train(network(), few_digits, RECIPE, checkpoint_seconds=3600, **options)
    assert written == [16]
    train(network(), few_digits, RECIPE, checkpoint_seconds=0, **options)
    assert written == [16, *range(1, 17)]
