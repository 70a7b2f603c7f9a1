"""Tables of chapter 3 against the measurements they gather."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import shortened

from snp_lib import plots, sharpening, stages, store, tables
from snp_lib.store import Run


@pytest.fixture(scope="module")
def run_with_stages(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("sharpening")))
        return store.run(replace(shortened("sharpening"), snapshots=(1,)), device="cpu", progress=False)


@pytest.fixture
def run(run_with_stages: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Its measurements are kept beside it, and no record is in reach."""
    monkeypatch.setenv("SNP_RUNS_DIR", str(run_with_stages.path.parent))
    monkeypatch.setattr(store, "RECORDS", tmp_path / "records")
    return run_with_stages


def test_every_stage_of_the_run_is_there_and_its_end_is_the_run_itself(run: Run) -> None:
    table = sharpening.statistics_at_stages([run], thetas=(0.3, 0.5), device="cpu")
    assert table.epoch.drop_duplicates().tolist() == [0, 1, 2]
    assert len(table) == 3 * len(run.sites) * 2
    last, whole = table[table.epoch == 2], tables.site_statistics([run], thetas=(0.3, 0.5))
    shared = ["seed", "block", "kind", "theta", *stages.STATISTICS]
    pd.testing.assert_frame_equal(last[shared].reset_index(drop=True), whole[shared])
    assert last[last.theta == 0.5].accuracy.tolist() == [run.metrics["readout_accuracy"][site] for site in run.sites]
    early = stages.stage(run, 1, device="cpu")
    row = table[(table.epoch == 1) & (table.block == 2) & (table.kind == "mha") & (table.theta == 0.5)].iloc[0]
    assert row[list(stages.STATISTICS)].to_numpy(float).tolist() == early["statistics"][4, 3].tolist()
    assert row.accuracy == early["readout_accuracy"][4]
    with pytest.raises(ValueError, match="stages are kept for"):
        sharpening.statistics_at_stages([run], thetas=[0.33], device="cpu")


def test_all_readouts_before_and_after_the_training(run: Run) -> None:
    table = sharpening.statistics_by_readout([run], device="cpu")
    assert len(table) == 3 * 2 * len(run.sites)
    for name, pooling in (("mean pooling", "mean"), ("flattened", "flat")):
        rows = table[(table.readout == name) & (table.epoch == 2)]
        assert rows.accuracy.tolist() == stages.stage(run, 2, pooling, device="cpu")["readout_accuracy"].tolist()  # type: ignore[arg-type]


def test_both_ways_of_silencing_stand_side_by_side(run: Run) -> None:
    table = sharpening.silencing([run], thetas=[0.4], device="cpu")
    found = stages.silenced_first(run, device="cpu")
    for way, name, accuracy in (("after the pooling", "after", "readout_accuracy"), ("before the pooling", "statistics", "accuracy")):
        rows = table[table.silenced == way]
        np.testing.assert_array_equal(rows[list(stages.STATISTICS)], found[name][:, 2])
        assert rows.accuracy.tolist() == found[accuracy].tolist()
        assert rows.jaccard.tolist() == found["jaccard"][:, 2].tolist()


def made_up() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame([{"seed": s, "epoch": e, "block": b, "kind": k, "theta": t, "readout": r, "snr": rng.random(), "accuracy": 0.5}
                         for s in (0, 1) for e in (0, 1, 9) for b in (1, 2, 3) for k in ("mha", "ff")
                         for t in (0.2, 0.3) for r in ("a", "b")])  # fmt: skip


def test_rises_and_what_of_them_is_learned() -> None:
    table, runs = made_up(), [store.Run(replace(shortened(seed=s)), Path(), {}) for s in (1, 0)]
    rises = tables.rises(table)
    assert len(rises) == 2 * 3 * 2 * 2 * 2
    learned = sharpening.learned(rises)
    assert len(learned) == 2 * 2 * 2 * 2

    def snr(epoch: int, block: int, **place: float | str) -> float:
        rows = table[(table.epoch == epoch) & (table.block == block)]
        return float(rows[(rows[list(place)] == pd.Series(place)).all(axis=1)].snr.item())

    for row in learned.itertuples():
        place = {"seed": row.seed, "kind": row.kind, "theta": row.theta, "readout": row.readout}
        assert row.learned == pytest.approx(snr(9, 3, **place) / snr(9, 1, **place) - snr(0, 3, **place) / snr(0, 1, **place))
    found = sharpening.smallest(learned, "learned", runs, "ff")
    assert found == [learned[(learned.kind == "ff") & (learned.seed == s)].learned.min() for s in (1, 0)]
    learned.loc[(learned.kind == "ff") & (learned.seed == 1) & (learned.theta == 0.3), "learned"] = np.nan
    assert np.isnan(sharpening.smallest(learned, "learned", runs, "ff")).tolist() == [True, False]


def test_figures_draw_every_row() -> None:
    table = made_up()
    one = table[(table.theta == 0.2) & (table.readout == "a")]
    ends = one[one.epoch != 1]
    figure = plots.trained_and_untrained(ends, {"snr": "SNR", "accuracy": "accuracy"}, kinds=("mha", "ff"))
    assert [len(axis.lines) for axis in figure.axes] == [2] * 4
    trained = one[(one.kind == "ff") & (one.epoch == 9)].groupby("block").snr.mean()
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), trained)
    figure = plots.by_kind(one, "epoch", "snr", kinds=("mha", "ff"), xlabel="x", ylabel="y", at=1)
    assert len(figure.axes[0].lines) == 2 + 1  # one per kind, and the line to compare with
    figure = plots.along_blocks_by(table[table.theta == 0.2], "snr", "readout", kinds=("mha", "ff"), ylabel="y")
    assert [len(axis.lines) for axis in figure.axes] == [2 * 2] * 2  # readouts, trained and untrained
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), one[(one.kind == "mha") & (one.epoch == 9)].groupby("block").snr.mean())
    plt.close("all")
