"""Tables of heads and stages against the functions they gather."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import shortened
from matplotlib.figure import Figure

from snp_lib import plots, stages, store, tables
from snp_lib.ablations import head_ablation
from snp_lib.performance import claims, claims_explain, experts, kept_heads, symmetry_breaking
from snp_lib.store import Run

HEADS = 4


@pytest.fixture(scope="module")
def run_with_stages(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("tables")))
        return store.run(replace(shortened("tables"), snapshots=(0,)), device="cpu", progress=False)


@pytest.fixture
def run(run_with_stages: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Its measurements are kept beside it, and no record is in reach."""
    monkeypatch.setenv("SNP_RUNS_DIR", str(run_with_stages.path.parent))
    monkeypatch.setattr(store, "RECORDS", tmp_path / "records")
    return run_with_stages


def test_symmetry_is_that_of_each_site(run: Run) -> None:
    table = tables.symmetry([run], permutations=50)
    assert table.block.tolist() == [1, 2, 3]
    for row, site in zip(table.itertuples(), ("block1.mha", "block2.mha", "block3.mha"), strict=True):
        found = symmetry_breaking(run.matrices(site), HEADS, permutations=50, seed=0)
        assert row.information == pytest.approx(found.information)
        assert row.excess == pytest.approx(found.information - found.null_mean)
        assert row.p == found.information_p
        assert row.experts == (experts(found.claims) >= 0).sum()


def test_stages_end_in_the_run(run: Run) -> None:
    early = tables.symmetry_at_stages([run], permutations=20, device="cpu")
    assert early.epoch.tolist() == [0, 0, 0]
    assert stages.stages(run) == [0, 2]


def test_a_seed_agrees_with_itself(run: Run) -> None:
    pairs = tables.expert_agreement([run, run])
    assert pairs.same.tolist() == [1.0] * 3
    assert pairs.best.tolist() == [1.0] * 3
    assert (pairs.same_chance < 0.6).all()


def test_ablation_tables_are_means_of_what_was_measured(run: Run) -> None:
    ablation = head_ablation(run, device="cpu", progress=False)
    hits = run.logits.argmax(1) == run.labels
    by_label = np.array([hits[run.labels == label].mean() for label in range(10)])
    np.testing.assert_allclose(ablation.baseline, by_label, atol=0.02)  # logits are kept in half precision
    table = tables.ablated_accuracy([run], [ablation])
    assert table.variant.tolist() == ["intact", "one head off", "two heads off", "one head alone"] * 3
    alone = table[(table.block == 2) & (table.variant == "one head alone")].accuracy.item()
    assert alone == pytest.approx(ablation.accuracy_of("block2.mha", np.eye(HEADS, dtype=bool)).mean())
    again = head_ablation(run, device="cpu", progress=False)
    assert np.array_equal(again.accuracy, ablation.accuracy)
    cause = tables.explanations([run], [ablation])
    lost = ablation.lost("block3.mha", kept_heads("removed", HEADS))
    found = claims_explain(claims(run.matrices("block3.mha"), HEADS), lost, within_label=True)
    assert cause.correlation.iloc[2] == pytest.approx(found.correlation, nan_ok=True)
    means = head_ablation(run, "mean", device="cpu", progress=False)
    assert not np.array_equal(means.accuracy, ablation.accuracy)


def test_figures_draw_every_row() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame([{"seed": s, "epoch": e, "block": b, "kind": k, "y": rng.random(), "chance": 0.1}
                          for s in (0, 1) for e in (0, 1, 4) for b in (1, 2, 3) for k in ("mha", "ff")])  # fmt: skip
    last = table[(table.epoch == 4) & (table.kind == "mha")]
    figure = plots.over_training(table[table.kind == "mha"], "y", ylabel="y")
    assert len(figure.axes[0].lines) == 3 + 1  # one per encoder, and zero
    figure = plots.along_blocks_at_stages(table, "y", kinds=("mha", "ff"), ylabel="y")
    assert [len(axis.lines) for axis in figure.axes] == [3, 3]
    figure = plots.against_chance(last, "block", "y", "chance", xlabel="x", ylabel="y", names=("ours", "chance"))
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), last.groupby("block").y.mean())
    figure = plots.claim_maps({"a": rng.integers(0, 9, (4, 30)), "b": np.zeros((4, 30), dtype=int)})
    shares = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(np.asarray(shares).sum(axis=0), 1)
    cause = last.assign(correlation=last.y, low=last.y - 0.1, high=last.y + 0.1)
    assert isinstance(plots.correlations(cause), Figure)
    off = pd.concat([last.assign(variant=name, accuracy=last.y) for name in ("intact", "one off", "two off", "alone")])
    assert len(plots.ablation_accuracy(off).axes[0].lines) == 4
    ways = pd.DataFrame({"way": ["a", "b"], "ratio": [1.0, 2.0], "from": [1.0, 1.8], "to": [1.0, 2.2]})
    assert [patch.get_width() for patch in plots.ladder(ways).axes[0].patches] == [1.0, 2.0]
    plt.close("all")


def test_benchmarks_are_read_as_medians_over_rounds() -> None:
    rows = {"usual": {"images_per_second": [1.0, 2.0, 9.0], "ratio": [1.0, 1.0, 1.0]}}
    rows["ours"] = {"images_per_second": [4.0, 5.0, 6.0], "ratio": [4.0, 2.5, 0.7]}
    table = tables.benchmark({"train": rows}, "train")
    assert table["images/s"].tolist() == [2.0, 5.0]
    assert table.iloc[1][["ratio", "from", "to"]].tolist() == [2.5, 0.7, 4.0]
    seconds = tables.benchmark({"ways": {"loop": {"seconds": [3.0, 1.0, 2.0], "ratio": [1.0, 1.0, 1.0]}}}, "ways")
    assert seconds.to_dict("records") == [{"way": "loop", "seconds": 2.0, "ratio": 1.0, "from": 1.0, "to": 1.0}]
