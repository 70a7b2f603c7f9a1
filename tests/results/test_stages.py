"""Tables of chapter A3 against the measurements they gather."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shared import shortened

from snp_lib import store
from snp_lib.performance import summarize
from snp_lib.results import measure
from snp_lib.results.sites import site_statistics, snr_rise
from snp_lib.results.stages import (
    STATISTICS,
    SilencedNodes,
    Stage,
    learned_rise,
    matrices_at,
    silencing,
    smallest,
    statistics_at_stages,
    statistics_by_readout,
)
from snp_lib.store import Run, StoreError


def test_a_table_trains_nothing_and_says_what_to_run(staged: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path))
    with pytest.raises(StoreError, match="`snp measure staged --scale smoke --seeds 0 --what stages`"):
        statistics_at_stages([staged])


def test_every_stage_of_the_run_is_there_and_its_end_is_the_run_itself(staged: Run) -> None:
    measure([staged], "stages", device="cpu", progress=False)
    table = statistics_at_stages([staged], thetas=(0.3, 0.5))
    assert table.epoch.drop_duplicates().tolist() == [0, 1, 2]
    assert len(table) == 3 * len(staged.sites) * 2
    last, whole = table[table.epoch == 2], site_statistics([staged], thetas=(0.3, 0.5))
    shared = ["seed", "block", "kind", "theta", *STATISTICS]
    pd.testing.assert_frame_equal(last[shared].reset_index(drop=True), whole[shared])
    assert last[last.theta == 0.5].accuracy.tolist() == [staged.metrics["readout_accuracy"][site] for site in staged.sites]
    early = Stage(epoch=1).read(staged)
    row = table[(table.epoch == 1) & (table.block == 2) & (table.kind == "mha") & (table.theta == 0.5)].iloc[0]
    assert row[list(STATISTICS)].to_numpy(float).tolist() == early["statistics"][4, 3].tolist()
    assert row.accuracy == early["readout_accuracy"][4]
    with pytest.raises(ValueError, match="stages are kept for"):
        statistics_at_stages([staged], thetas=[0.33])


def test_the_untrained_control_keeps_what_its_matrices_are_made_of(staged: Run) -> None:
    arrays = Stage(epoch=0).make(staged, device="cpu", progress=False)
    for s, (site, nodes) in enumerate(staged.sites.items()):
        averages = summarize(matrices_at(arrays, site, nodes), 0.3).averages()
        expected = dict(zip(STATISTICS, arrays["statistics"][s, 1], strict=True))
        assert {name: averages[name] for name in STATISTICS} == pytest.approx(expected, rel=0.05)  # kept in half precision
    with pytest.raises(ValueError, match=r"keeps no class means of block1\.mha"):
        matrices_at(Stage(epoch=1).make(staged, device="cpu", progress=False), "block1.mha", 48)


def test_all_readouts_before_and_after_the_training(staged: Run) -> None:
    measure([staged], "stages", "readouts", device="cpu", progress=False)
    table = statistics_by_readout([staged])
    assert len(table) == 3 * 2 * len(staged.sites)
    for name, pooling in (("mean pooling", "mean"), ("flattened", "flat")):
        rows = table[(table.readout == name) & (table.epoch == 2)]
        assert rows.accuracy.tolist() == Stage(epoch=2, pooling=pooling).read(staged)["readout_accuracy"].tolist()  # type: ignore[arg-type]


def test_both_ways_of_silencing_stand_side_by_side(staged: Run) -> None:
    measure([staged], "silencing", device="cpu", progress=False)
    table = silencing([staged], thetas=[0.4])
    found = SilencedNodes().read(staged)
    for way, name, accuracy in (("after the pooling", "after", "readout_accuracy"), ("before the pooling", "statistics", "accuracy")):
        rows = table[table.silenced == way]
        np.testing.assert_array_equal(rows[list(STATISTICS)], found[name][:, 2])
        assert rows.accuracy.tolist() == found[accuracy].tolist()
        assert rows.jaccard.tolist() == found["jaccard"][:, 2].tolist()


def made_up() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame([{"seed": s, "epoch": e, "block": b, "kind": k, "theta": t, "readout": r, "snr": rng.random(), "accuracy": 0.5}
                         for s in (0, 1) for e in (0, 1, 9) for b in (1, 2, 3) for k in ("mha", "ff")
                         for t in (0.2, 0.3) for r in ("a", "b")])  # fmt: skip


def test_rises_and_what_of_them_is_learned() -> None:
    table, runs = made_up(), [store.Run(replace(shortened(seed=s)), Path(), {}) for s in (1, 0)]
    rises = snr_rise(table)
    assert len(rises) == 2 * 3 * 2 * 2 * 2
    learned = learned_rise(rises)
    assert len(learned) == 2 * 2 * 2 * 2

    def snr(epoch: int, block: int, **place: float | str) -> float:
        rows = table[(table.epoch == epoch) & (table.block == block)]
        return float(rows[(rows[list(place)] == pd.Series(place)).all(axis=1)].snr.item())

    for row in learned.itertuples():
        place = {"seed": row.seed, "kind": row.kind, "theta": row.theta, "readout": row.readout}
        assert row.learned == pytest.approx(snr(9, 3, **place) / snr(9, 1, **place) - snr(0, 3, **place) / snr(0, 1, **place))
    found = smallest(learned, "learned", runs, "ff")
    assert found == [learned[(learned.kind == "ff") & (learned.seed == s)].learned.min() for s in (1, 0)]
    learned.loc[(learned.kind == "ff") & (learned.seed == 1) & (learned.theta == 0.3), "learned"] = np.nan
    assert np.isnan(smallest(learned, "learned", runs, "ff")).tolist() == [True, False]
