"""Tables of heads alone and of their fields against the functions they gather."""

from __future__ import annotations

import numpy as np
import pytest

from snp_lib.analysis.ablation import kept_heads
from snp_lib.performance.expertise import expert_advantage, standing_out
from snp_lib.performance.heads import claims, experts
from snp_lib.performance.statistics import claims_explain
from snp_lib.results import measure
from snp_lib.results.expertise import beyond_dealt, heads_alone, heads_in_their_fields, node_sets
from snp_lib.results.heads import head_ablation
from snp_lib.results.sites import dealt
from snp_lib.results.stages import Stage, diagonal_sets_at, matrices_at
from snp_lib.store import Run

HEADS, SITE = 4, "block2.mha"


def test_heads_alone_are_compared_on_the_same_labels(staged: Run) -> None:
    measure([staged], "ablation", device="cpu", progress=False)
    ablation = head_ablation(staged)
    table = heads_alone([staged], [ablation], theta=0.4, permutations=50)
    assert table.block.tolist() == [1, 2, 3]
    alone = ablation.accuracy_of(SITE, kept_heads("alone", HEADS))
    claimed = claims(staged.matrices(SITE), HEADS, 0.4)
    found = expert_advantage(alone, experts(claimed), permutations=50, seed=0)
    row = table.iloc[1]
    assert row[["labels", "expert", "others", "excess", "p"]].tolist() == pytest.approx(
        [found.labels, found.expert, found.others, found.excess, found.p]
    )
    assert (row.null_low, row.null_high) == pytest.approx(found.null_interval)
    ranks = claims_explain(claimed, alone, within_label=True)
    assert row.correlation == pytest.approx(ranks.correlation, nan_ok=True)
    elsewhere = heads_alone([staged], [ablation], theta=0.4, split="train", permutations=50).iloc[1]
    chosen = experts(claims(staged.matrices(SITE, split="train"), HEADS, 0.4))
    assert elsewhere.excess == pytest.approx(expert_advantage(alone, chosen, permutations=50).excess)


def test_fields_are_those_of_whole_heads_before_and_after_training(staged: Run) -> None:
    measure([staged], "stages", device="cpu", progress=False)
    table = heads_in_their_fields([staged], deals=2).set_index(["network", "block", "heads"]).sort_index()
    assert len(table) == 2 * staged.depth * 2
    arrays = Stage(epoch=0).read(staged)
    for network, nodes in (("trained", staged.matrices(SITE)), ("untrained", matrices_at(arrays, SITE, staged.sites[SITE]))):
        sets = node_sets(staged, SITE, network, 0.3)
        whole = nodes.reshape(HEADS, -1, *nodes.shape[1:]).sum(1)
        own = expert_advantage(standing_out(whole), experts(claims(sets, HEADS)), permutations=1)
        assert table.loc[(network, 2, "as they are"), "expert"] == pytest.approx(own.expert)
        others = []
        for deal in (1, 2):
            order = np.random.default_rng((0, deal)).permutation(len(nodes))
            counts = claims(sets[order], HEADS)
            found = expert_advantage(standing_out(dealt(nodes, HEADS, seed=(0, deal))), experts(counts), permutations=1)
            others.append(found.excess)
        assert table.loc[(network, 2, "dealt anew"), "excess"] == pytest.approx(np.mean(others))
    beyond = beyond_dealt(table.reset_index()).set_index(["network", "block"]).beyond
    pair = table.loc[("trained", 2)].excess
    assert beyond["trained", 2] == pytest.approx(pair["as they are"] - pair["dealt anew"])


def test_a_whole_head_is_that_of_the_run(staged: Run) -> None:
    nodes = staged.matrices(SITE)
    np.testing.assert_allclose(nodes.reshape(HEADS, -1, *nodes.shape[1:]).sum(1), staged.matrices(SITE, unit="head"), rtol=1e-3, atol=1e-5)


def test_sets_are_those_of_the_network_asked_for(staged: Run) -> None:
    measure([staged], "stages", device="cpu", progress=False)
    early = diagonal_sets_at(Stage(epoch=0).read(staged), SITE, 0.4, 10)
    assert np.array_equal(node_sets(staged, SITE, "untrained", 0.4), early)
    assert np.array_equal(claims(node_sets(staged, SITE, "trained", 0.4), HEADS), claims(staged.matrices(SITE), HEADS, 0.4))
