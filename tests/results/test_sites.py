"""Tables of several runs, and the shuffled control."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from snp_lib.book.claims import load_claims
from snp_lib.book.reporting import Reported
from snp_lib.performance import binarize, summarize
from snp_lib.results import families as fam
from snp_lib.results.claims import claims_side_by_side, claims_table
from snp_lib.results.families import head_statistics, side_by_side
from snp_lib.results.heads import expert_agreement
from snp_lib.results.sites import (
    accuracy_while_training,
    dealt_heads,
    distributions,
    per_run,
    readout_accuracy,
    shuffle_outputs,
    site_statistics,
    snr_rise,
    training_history,
)
from snp_lib.store import Run


@pytest.fixture
def two_runs(smoke_run: Run) -> list[Run]:
    """The same run under two seeds: what a table does with several does not depend on their numbers."""
    return [smoke_run, replace(smoke_run, experiment=replace(smoke_run.experiment, seed=5))]


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 9))
def test_shuffling_keeps_every_row_and_moves_all_rows_of_a_unit_alike(seed: int, units: int, labels: int) -> None:
    matrices = np.random.default_rng(seed).normal(size=(units, labels, labels))
    shuffled = shuffle_outputs(matrices, seed=seed)
    assert np.array_equal(np.sort(shuffled, axis=2), np.sort(matrices, axis=2))
    assert np.array_equal(shuffled.max((1, 2)), matrices.max((1, 2)))
    assert np.array_equal(binarize(shuffled).sum((1, 2)), binarize(matrices).sum((1, 2)))
    assert {tuple(c) for c in shuffled[0].T} == {tuple(c) for c in matrices[0].T}
    assert np.array_equal(shuffled, shuffle_outputs(matrices, seed=seed))


def test_units_are_shuffled_apart_and_seeds_differ() -> None:
    matrices = np.tile(np.arange(50.0), (3, 50, 1))
    shuffled = shuffle_outputs(matrices, seed=0)
    assert not np.array_equal(shuffled[0], shuffled[1])
    assert not np.array_equal(shuffled, shuffle_outputs(matrices, seed=1))


def test_site_statistics_are_those_of_each_site(two_runs: list[Run]) -> None:
    table = site_statistics(two_runs, kinds=("mha", "block"), thetas=(0.3, 0.5))
    assert len(table) == 2 * 3 * 2 * 2  # runs, encoders, kinds, thresholds
    assert list(table.columns[:4]) == ["seed", "block", "kind", "theta"]
    row = table[(table.seed == 5) & (table.block == 2) & (table.kind == "mha") & (table.theta == 0.5)].iloc[0]
    s = summarize(two_runs[0].matrices("block2.mha"), 0.5)
    expected = {
        "labels": s.labels_per_unit(),
        "labels_clustered": s.labels_per_unit(clustered_only=True),
        "clusters": s.clusters_per_unit(),
        "cluster_size": s.cluster_size,
        "unit_clusters": np.mean([len(cluster) == 1 for clusters in s.clusters for cluster in clusters]),
        "noise": s.noise_per_unit(),
        "noise_clustered": s.noise_per_unit(clustered_only=True),
        "unclustered": np.mean([len(clusters) == 0 for clusters in s.clusters]),
        "signal": s.signal,
        "internal_noise": s.internal_noise,
        "external_noise": s.external_noise,
        "snr": s.snr,
    }
    assert set(table.columns[4:]) == set(expected)
    assert row[list(expected)].astype(float).to_dict() == pytest.approx(expected)


def test_heads_and_the_shuffled_control(two_runs: list[Run]) -> None:
    heads = site_statistics(two_runs[:1], kinds=("mha",), unit="head")
    assert heads.labels.tolist() == [summarize(two_runs[0].matrices(f"block{b}.mha", unit="head")).labels_per_unit() for b in (1, 2, 3)]
    control = site_statistics(two_runs[:1], kinds=("ff",), shuffle=True)
    matrices = shuffle_outputs(two_runs[0].matrices("block3.ff"), seed=0)
    assert control.noise.iloc[2] == summarize(matrices).noise_per_unit()


def test_heads_of_nodes_dealt_anew_have_the_same_nodes_and_other_company(two_runs: list[Run]) -> None:
    run = two_runs[0]
    deals, own, nodes = dict(dealt_heads(run, "block2.mha", 2)), run.matrices("block2.mha", unit="head"), run.matrices("block2.mha")
    order = np.random.default_rng((run.experiment.seed, 1)).permutation(48)
    for head in range(4):
        np.testing.assert_allclose(deals[1][head], sum(nodes[node] for node in order[12 * head : 12 * head + 12]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(deals[1].sum(0), own.sum(0), rtol=1e-4, atol=1e-4)
    assert not np.allclose(deals[1], own)
    assert not np.allclose(deals[1], deals[2])
    control = site_statistics(two_runs, kinds=("mha",), unit="head", deals=2)
    assert control[["seed", "block", "deal"]].to_numpy().tolist() == [
        [r.experiment.seed, b, d] for r in two_runs for b in (1, 2, 3) for d in (1, 2)
    ]
    assert control.noise.tolist() == [
        summarize(matrices).noise_per_unit() for r in two_runs for b in (1, 2, 3) for _, matrices in dealt_heads(r, f"block{b}.mha", 2)
    ]
    with pytest.raises(ValueError, match='ask for unit="head"'):
        site_statistics(two_runs, kinds=("mha",), deals=1)


def test_shares_of_heads_and_of_noise(two_runs: list[Run]) -> None:
    table = head_statistics(two_runs, thetas=(0.3, 0.5))
    row = table[(table.seed == 5) & (table.block == 3) & (table.theta == 0.5)].iloc[0]
    heads = summarize(two_runs[0].matrices("block3.mha", unit="head"), 0.5)
    assert row.share == pytest.approx(heads.diagonal.mean())  # heads that recognise a label, over four heads
    assert row.noise_share == pytest.approx(heads.noise.mean() / 90)
    assert set(table.kind) == {"mha"}


def test_families_stand_one_under_the_other(two_runs: list[Run]) -> None:
    families = {2: two_runs, 16: two_runs[:1]}
    table = side_by_side(families, head_statistics, "heads", thetas=(0.4,))
    assert table.groupby("heads").size().to_dict() == {2: 6, 16: 3}
    reached = side_by_side(families, fam.test_accuracy, "heads")
    assert reached.accuracy.tolist() == [two_runs[0].metrics["test_accuracy"]] * 3
    assert reached[["seed", "heads"]].to_numpy().tolist() == [[0, 2], [5, 2], [0, 16]]
    rises = snr_rise(table)
    assert len(rises) == 3
    own = table[(table.heads == 2) & (table.seed == 5)].set_index("block").snr
    assert per_run(rises, two_runs, "rise", heads=2)[1] == own[3] / own[1]


def test_histories_and_accuracies_in_long_form(two_runs: list[Run]) -> None:
    history = training_history(two_runs)
    assert history[["seed", "epoch"]].to_numpy().tolist() == [[0, 1], [0, 2], [5, 1], [5, 2]]
    accuracy = readout_accuracy(two_runs)
    assert len(accuracy) == 2 * 12
    chosen = accuracy[(accuracy.seed == 5) & (accuracy.block == 3) & (accuracy.kind == "block")]
    assert chosen.accuracy.tolist() == [two_runs[0].metrics["readout_accuracy"]["block3"]]


def test_the_claims_table_keeps_the_order_asked_for_and_every_claim() -> None:
    table = claims_table(["D", "A"])
    assert table.paper.drop_duplicates().tolist() == ["D", "A"]
    assert len(table) == sum(claim.paper in ("A", "D") for claim in load_claims().values())
    assert set(table.verdict) <= {"reproduced", "undecided", "not reproduced", "not yet measured"}


def test_one_value_per_run_in_the_order_of_the_runs(two_runs: list[Run]) -> None:
    table = site_statistics(two_runs, kinds=("ff", "mha"), thetas=(0.3, 0.5))
    table.loc[table.seed == 5, "labels"] += 100
    first, second = per_run(table, two_runs[::-1], "labels", kind="ff", block=2, theta=0.5)
    assert first == second + 100 == 100 + summarize(two_runs[0].matrices("block2.ff"), 0.5).labels_per_unit()
    with pytest.raises(
        ValueError, match=r"expected one row with .*'kind': 'ff'.* for each of the seeds \[0, 5\], got rows of \[0, 0, 5, 5\]"
    ):
        per_run(table, two_runs, "labels", kind="ff", block=2)
    with pytest.raises(ValueError, match=r"got rows of \[0, 5\]"):
        per_run(table, two_runs[:1], "labels", kind="ff", block=2, theta=0.5)


def test_the_rise_is_last_over_first(two_runs: list[Run]) -> None:
    table = site_statistics(two_runs, kinds=("ff", "mha"), thetas=(0.3, 0.5))
    rises = snr_rise(table)
    assert len(rises) == 2 * 2 * 2
    first, last = (summarize(two_runs[0].matrices(f"block{block}.ff"), 0.5).snr for block in (1, 3))
    assert per_run(rises, two_runs, "rise", kind="ff", theta=0.5).tolist() == [last / first] * 2
    by_epoch = snr_rise(pd.concat([table.assign(epoch=epoch) for epoch in (0, 2)]))
    assert by_epoch.groupby("epoch").size().tolist() == [8, 8]


def test_claims_of_two_experiments_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    def board(experiment: str | None) -> list[dict[str, object]]:
        measured = {"cct": ["A.clusters-small", "A.snr-rises-ff"], "flowers": ["A.snr-rises-ff", "A.snr-rises-mha"]}[experiment or ""]
        number = Reported(
            name="",
            mean=1.5,
            sd=0.25,
            n=2,
            tol=0.1,
            seeds=[0, 1],
            scale="small",
            experiment=experiment or "",
            record="",
            verdict="undecided",
        )
        return [{"claim": claim, "reported": number if claim.id in measured else None} for claim in load_claims().values()]

    monkeypatch.setattr("snp_lib.results.claims.scoreboard", board)
    table = claims_side_by_side(["A"], {"photographs": "cct", "petals": "flowers"})
    assert list(table.columns) == ["claim", "photographs", "photographs: verdict", "petals", "petals: verdict"]
    assert table.claim.tolist() == [load_claims()[name].statement for name in ("A.clusters-small", "A.snr-rises-ff")]
    assert table["petals"].tolist() == ["", "1.5 ± 0.25 (n = 2, small)"]
    assert table["petals: verdict"].tolist() == ["not yet measured", "undecided"]


def test_a_single_seed_agrees_with_nobody(two_runs: list[Run]) -> None:
    alone, both = (expert_agreement(runs) for runs in (two_runs[:1], two_runs))
    assert len(alone) == 0
    assert list(alone.columns) == list(both.columns)
    assert (both.same == 1).all()


def test_rises_are_those_of_each_network_over_its_own_encoders() -> None:
    snr = {"deep": {1: 2.0, 2: 9.0, 3: 3.0}, "short": {2: 4.0, 1: 2.0}}  # in whatever order
    rows = [{"seed": 0, "kind": "mha", "network": name, "block": b, "snr": v} for name, of in snr.items() for b, v in of.items()]
    found = snr_rise(pd.DataFrame(rows)).set_index("network").rise
    assert found.to_dict() == {"deep": 1.5, "short": 2.0}


def test_accuracy_while_training_has_a_row_for_each_kind_of_images(two_runs: list[Run]) -> None:
    table = accuracy_while_training(two_runs)
    assert len(table) == 2 * 2 * 2  # runs, epochs, kinds of images
    history = two_runs[1].history
    augmented = table[(table.seed == 5) & (table.images == "training images, augmented")]
    assert augmented.percent.tolist() == [100 * row["train_accuracy"] for row in history]
    tested = table[(table.seed == 5) & (table.images == "test images")]
    assert tested.percent.tolist() == [100 * row["test_accuracy"] for row in history]


def test_distributions_hold_every_node_and_every_cluster_of_all_runs(two_runs: list[Run]) -> None:
    values = distributions(two_runs, {"first": "block1.ff", "last": "block3.ff"}, theta=0.4)
    summary = summarize(two_runs[0].matrices("block3.ff"), 0.4)
    assert [list(groups) for groups in values.values()] == [["first", "last"]] * 3
    assert values["labels per node"]["last"].tolist() == summary.labels_of_unit.tolist() * 2
    assert values["noise per node"]["last"].tolist() == summary.noise.tolist() * 2
    sizes = [len(cluster) for clusters in summary.clusters for cluster in clusters]
    assert sorted(values["labels per cluster"]["last"].tolist()) == sorted(sizes * 2)


def test_a_rise_is_told_apart_by_any_column_and_never_by_none() -> None:
    rows = [{"seed": 0, "kind": "mha", "dropout": d, "block": b, "snr": d * b} for d in (1.0, 2.0) for b in (1, 2)]
    table = pd.DataFrame(rows)
    assert snr_rise(table)[["dropout", "rise"]].to_numpy().tolist() == [[1.0, 2.0], [2.0, 2.0]]
    with pytest.raises(ValueError, match="several rows of one encoder agree in seed, kind"):
        snr_rise(table.drop(columns="dropout"))
    with pytest.raises(ValueError, match="some encoders agree with no other in seed, kind, dropout, percent"):
        snr_rise(table.assign(percent=range(4)))  # a measured column that nobody knows would tell every encoder apart
