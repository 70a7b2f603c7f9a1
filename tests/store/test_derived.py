"""Measurements that hang off a run are used for that very run and those options, or made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shared import unchecked

from snp_lib import store
from snp_lib.experiments import get
from snp_lib.results.stages import Stage
from snp_lib.store import Run, StoreError, derived
from snp_lib.store.manifest import seal

OPTIONS = {"theta": 0.3, "heads": [0, 1]}


class Count:
    """A measurement that counts how often it is made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Mapping[str, np.ndarray]:
        self.made += 1
        return {"x": np.arange(5) * self.made, "y": np.eye(2)}


def test_a_measurement_is_made_once(own_folders: Path, smoke_run: Run) -> None:
    count = Count()
    first = derived.derived(smoke_run, "count", OPTIONS, count)
    again = derived.derived(smoke_run, "count", OPTIONS, count)
    assert count.made == 1
    assert first.keys() == again.keys() == {"x", "y"}
    assert all(np.array_equal(first[name], again[name]) for name in first)
    derived.derived(smoke_run, "count", OPTIONS, count, refresh=True)
    assert count.made == 2
    assert derived.derived(smoke_run, "count", OPTIONS, count)["x"][1] == 2
    assert sorted(path.name for path in (own_folders / "runs" / "derived" / smoke_run.experiment.id).iterdir()) == [
        "count.json",
        "count.npz",
    ]


def test_other_options_or_another_training_are_another_measurement(own_folders: Path, smoke_run: Run) -> None:
    count = Count()
    derived.derived(smoke_run, "count", OPTIONS, count)
    assert derived.find(smoke_run, "count", {**OPTIONS, "theta": 0.4}) is None
    files = smoke_run.manifest["files"] | {"arrays.npz": "0" * 64}
    other = replace(smoke_run, manifest=smoke_run.manifest | {"files": files})
    assert derived.find(other, "count", OPTIONS) is None
    assert derived.find(smoke_run, "another", OPTIONS) is None


def promote(run: Run) -> list[Path]:
    return derived.carry(run, derived.folder(run, "runs"), "records")


def test_promoted_measurements_are_found_and_those_of_an_older_training_go(own_folders: Path, smoke_run: Run) -> None:
    files = smoke_run.manifest["files"] | {"arrays.npz": "0" * 64}
    older = replace(smoke_run, manifest=smoke_run.manifest | {"files": files})
    derived.derived(older, "old", OPTIONS, Count())
    assert [path.name for path in promote(older)] == ["old.npz", "old.json"]
    derived.derived(smoke_run, "count", OPTIONS, Count())
    promote(smoke_run)
    records = own_folders / "records" / "derived" / smoke_run.experiment.id
    assert sorted(path.name for path in records.iterdir()) == ["count.json", "count.npz"]
    shutil.rmtree(own_folders / "runs")
    assert derived.find(smoke_run, "count", OPTIONS) is not None


def test_a_folder_of_measurements_goes_among_the_runs_and_leaves_what_stands(own_folders: Path, smoke_run: Run) -> None:
    derived.derived(smoke_run, "count", OPTIONS, Count())
    source = derived.folder(smoke_run, "runs").rename(own_folders / "elsewhere")
    assert len(derived.carry(smoke_run, source, "runs", replace=False)) == 2
    derived.derived(smoke_run, "count", OPTIONS, lambda: {"x": np.zeros(3)}, refresh=True)
    assert derived.carry(smoke_run, source, "runs", replace=False) == []
    assert derived.derived(smoke_run, "count", OPTIONS, Count()).keys() == {"x"}
    assert derived.of_run(smoke_run) == [derived.folder(smoke_run, "runs") / "count.json"]


@pytest.mark.parametrize("how", ["truncated", "one bit", "no json", "pickle"])
def test_a_damaged_measurement_is_refused(how: str, own_folders: Path, smoke_run: Run) -> None:
    derived.derived(smoke_run, "count", OPTIONS, Count())
    path = derived.folder(smoke_run, "runs") / "count.npz"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "one bit":
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    elif how == "no json":
        path.with_suffix(".json").write_text("{", encoding="utf-8")
    else:
        np.savez(path, x=np.array([{}], dtype=object))
        manifest = json.loads(path.with_suffix(".json").read_bytes())
        path.with_suffix(".json").write_bytes(seal(manifest | {"sha256": derived.sha256(path)}))
    with pytest.raises(StoreError, match=r"cannot read the measurement .*count.(npz|json): .*Delete it to make it again"):
        derived.derived(smoke_run, "count", OPTIONS, Count())


def test_a_full_disk_leaves_nothing_half_written(own_folders: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr("snp_lib.store.derived.write_durably", full)
    with pytest.raises(StoreError, match=r"cannot write the measurement .*no space left"):
        derived.derived(smoke_run, "count", OPTIONS, Count())
    assert list(derived.folder(smoke_run, "runs").iterdir()) == []


def test_a_disk_that_fills_up_in_between_leaves_what_was_there(own_folders: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    count, write, calls = Count(), derived.write_durably, []
    derived.derived(smoke_run, "count", OPTIONS, count)

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError("no space left on device")
        write(path, content)

    monkeypatch.setattr("snp_lib.store.derived.write_durably", full)
    with pytest.raises(StoreError, match="no space left"):
        derived.derived(smoke_run, "count", OPTIONS, count, refresh=True)
    assert derived.derived(smoke_run, "count", OPTIONS, count)["x"][1] == 1
    assert len(list(derived.folder(smoke_run, "runs").iterdir())) == 2
    assert not [path for path in calls if path.suffix in (".json", ".npz")]  # what a kill leaves is taken for no measurement


def test_other_options_overwrite_neither_a_measurement_nor_a_record(own_folders: Path, smoke_run: Run) -> None:
    count, other = Count(), {**OPTIONS, "theta": 0.4}
    derived.derived(smoke_run, "count", OPTIONS, count)
    promote(smoke_run)
    derived.derived(smoke_run, "count", other, count)
    assert [int(derived.derived(smoke_run, "count", options, count)["x"][1]) for options in (OPTIONS, other)] == [1, 2]
    derived.derived(smoke_run, "count", other, count, refresh=True)
    assert [int(derived.derived(smoke_run, "count", options, count)["x"][1]) for options in (OPTIONS, other)] == [1, 3]
    assert len(promote(smoke_run)) == 4
    for path in derived.folder(smoke_run, "runs").iterdir():
        path.unlink()
    derived.derived(smoke_run, "count", {**OPTIONS, "theta": 0.5}, count)
    with pytest.raises(StoreError, match=r"count.json was made with other options than .*: delete the one that is not wanted"):
        promote(smoke_run)
    assert derived.derived(smoke_run, "count", OPTIONS, count)["x"][1] == 1


def test_names_and_objects_are_refused(own_folders: Path, smoke_run: Run) -> None:
    for name in ("../x", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="plain name"):
            derived.derived(smoke_run, name, OPTIONS, Count())
    with unchecked(), pytest.raises(ValueError, match="'x' of count holds objects"):
        derived.derived(smoke_run, "count", OPTIONS, lambda: {"x": np.array([None])})


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_committed_stages_are_still_found(seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "runs"))
    record = store.run(get("cct", "small", seed), progress=False)
    for epoch in (0, 1, 4):
        assert Stage(epoch=epoch).read(record)["statistics"].shape == (20, 5, 8)
