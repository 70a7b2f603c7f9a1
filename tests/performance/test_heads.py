"""Claims of heads, their null model, experts and agreement: by hand, by enumeration, and against literal twins."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats
from shared import unchecked

from snp_lib.performance import THETA, summarize
from snp_lib.performance.heads import (
    agreement,
    claims,
    experts,
    majority,
    modus_vivendi,
    mutual_information,
    shuffled_claims,
    symmetry_breaking,
)
from snp_lib.performance.statistics import p_value


def matrices_of(sets: np.ndarray) -> np.ndarray:
    """Performance matrices of nodes that recognise exactly these labels."""
    matrices = np.zeros((*sets.shape, sets.shape[1]))
    matrices[:, range(sets.shape[1]), range(sets.shape[1])] = sets
    return matrices


def random_sets(nodes: int, labels: int, density: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((nodes, labels)) < density


def specialised(heads: int, nodes_per_head: int, labels_per_head: int) -> np.ndarray:
    """Every node of head h recognises the labels of head h and no other."""
    return np.kron(np.eye(heads, dtype=bool), np.ones((nodes_per_head, labels_per_head), dtype=bool))


def twin_claims(sets: np.ndarray, heads: int) -> np.ndarray:
    """Node by node, label by label."""
    found = np.zeros((heads, sets.shape[1]), dtype=int)
    for node, label in np.argwhere(sets):
        found[node // (len(sets) // heads), label] += 1
    return found


def twin_information(counts: np.ndarray) -> float:
    """Σ p(h, l) · log2(p(h, l) / (p(h) p(l))), term by term."""
    joint = counts / counts.sum()
    terms = (
        joint[h, k] * math.log2(joint[h, k] / (joint[h].sum() * joint[:, k].sum())) for h, k in np.ndindex(*joint.shape) if joint[h, k] > 0
    )
    return math.fsum(terms)


def exact_p(total: int, observed: int, nodes: int, heads: int) -> float:
    """Two-sided p of one pair from the hypergeometric distribution that the shuffle of nodes draws its claims from."""
    possible = np.arange(nodes // heads + 1)
    extreme = np.abs(heads * possible - total) >= abs(heads * observed - total)
    return min(1.0, float(stats.hypergeom(nodes, total, nodes // heads).pmf(possible[extreme]).sum()))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 6), st.sampled_from((0.0, 0.2, 0.7, 1.0)), st.integers(0, 2**32 - 1))
def test_claims_equal_the_literal_count_from_matrices_and_from_a_summary(
    heads: int, nodes_per_head: int, labels: int, density: float, seed: int
) -> None:
    sets = random_sets(heads * nodes_per_head, labels, density, seed)
    assert np.array_equal(claims(matrices_of(sets), heads), twin_claims(sets, heads))
    assert np.array_equal(claims(summarize(matrices_of(sets)), heads), twin_claims(sets, heads))


def test_claims_follow_the_threshold() -> None:
    matrices = np.stack([np.diag([1.0, 0.5, 0.2]), np.diag([0.1, 1.0, 0.35])])
    assert claims(matrices, 2).tolist() == [[1, 1, 0], [0, 1, 1]]  # 0.5 and 0.35 exceed θ = 0.3
    assert THETA == 0.3
    assert claims(matrices, 2, 0.4).tolist() == [[1, 1, 0], [0, 1, 0]]
    assert claims(matrices, 1).tolist() == [[1, 2, 1]]


def test_shuffled_claims_equal_a_loop_over_orders_and_keep_the_claims_on_every_label() -> None:
    sets = random_sets(12, 7, 0.3)
    shuffled = shuffled_claims(matrices_of(sets), 3, permutations=300, seed=4)  # more than one chunk
    orders = np.random.default_rng(4).permuted(np.tile(np.arange(12), (300, 1)), axis=1)
    assert np.array_equal(shuffled, [twin_claims(sets[order], 3) for order in orders])
    assert (shuffled.sum(axis=1) == sets.sum(axis=0)).all()
    assert len(np.unique(shuffled, axis=0)) > 250
    assert np.array_equal(shuffled, shuffled_claims(matrices_of(sets), 3, permutations=300, seed=4))
    assert not np.array_equal(shuffled, shuffled_claims(matrices_of(sets), 3, permutations=300, seed=5))


@given(st.integers(1, 4), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_information_equals_the_sum_term_by_term(heads: int, labels: int, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 4, (3, heads, labels)) + np.eye(heads, labels, dtype=int)
    expected = [twin_information(table) for table in counts]
    assert mutual_information(counts) == pytest.approx(expected, abs=1e-12)
    assert (mutual_information(counts) >= 0).all()


def test_specialised_heads_tell_everything_about_the_label() -> None:
    found = symmetry_breaking(matrices_of(specialised(4, 8, 3)), 4, permutations=999)
    assert found.information == pytest.approx(2)  # log2 of 4 heads
    assert found.information_p == 1 / 1000
    assert found.null_mean + 5 * found.null_sd < 2
    own = specialised(4, 1, 3)
    assert np.array_equal(found.claims, 8 * own)
    assert (np.sign(found.z) == np.where(own, 1, -1)).all()
    # E = 2 of 8 nodes, and the hypergeometric variance 8 · ¼ · ¾ · 24/31
    assert found.z[own] == pytest.approx(6 / math.sqrt(8 * 0.25 * 0.75 * 24 / 31))
    assert np.array_equal(found.claimed(), own)


def test_to_avoid_a_label_is_significant_and_no_claim() -> None:
    found = symmetry_breaking(matrices_of(specialised(2, 8, 3)), 2, permutations=999)
    assert (found.q <= 0.05).all()
    assert np.array_equal(found.claimed(), specialised(2, 1, 3))
    assert not found.claimed(1e-4).any()  # q cannot fall below 1 / 1000


def test_equal_heads_tell_nothing() -> None:
    sets = np.tile(random_sets(8, 5, 0.4, seed=1), (4, 1))  # four identical heads
    found = symmetry_breaking(matrices_of(sets), 4, permutations=199)
    assert (found.z == 0).all()
    assert (found.p == 1).all()
    assert found.information == pytest.approx(0, abs=1e-12)
    assert found.information_p > 0.99
    assert not found.claimed().any()


def test_labels_that_none_or_all_recognise_say_nothing_and_are_not_tested() -> None:
    sets = specialised(2, 4, 2)
    sets = np.hstack([sets, np.zeros((8, 50), dtype=bool), np.ones((8, 50), dtype=bool)])
    found = symmetry_breaking(matrices_of(sets), 2, permutations=999)
    assert (found.z[:, 4:] == 0).all()
    assert (found.p[:, 4:] == 1).all()
    assert (found.q[:, 4:] == 1).all()
    # exact p is 2 / (8 choose 4) = 0.029 for all eight pairs; corrected for 208 pairs they would be lost
    assert (found.q[:, :4] == found.p[:, :4].max()).all()
    assert np.array_equal(found.claimed()[:, :4], specialised(2, 1, 2))


def test_without_claims_there_is_no_information_to_report() -> None:
    found = symmetry_breaking(-np.ones((4, 3, 3)), 2, permutations=9)
    assert (found.p == 1).all()
    assert (found.q == 1).all()
    assert all(math.isnan(value) for value in (found.information, found.null_mean, found.null_sd, found.information_p))


def test_the_null_equals_the_enumeration_of_all_deals() -> None:
    """Six nodes, three heads: all 720 orders, against which the shuffles are a sample."""
    sets = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)
    everything = np.array([twin_claims(sets[list(order)], 3) for order in permutations(range(6))])
    observed = twin_claims(sets, 3)
    found = symmetry_breaking(matrices_of(sets), 3, permutations=4000)
    assert found.z == pytest.approx((observed - everything.mean(axis=0)) / everything.std(axis=0))
    expected = sets.sum(axis=0) / 3
    share = (np.abs(everything - expected) >= np.abs(observed - expected) - 1e-9).mean(axis=0)
    assert share == pytest.approx(np.array([[exact_p(sets[:, k].sum(), observed[h, k], 6, 3) for k in range(4)] for h in range(3)]))
    assert found.p == pytest.approx(share, abs=4 * math.sqrt(0.25 / 4000) + 1 / 4000)
    information = np.array([twin_information(table) for table in everything])
    assert found.information == pytest.approx(twin_information(observed))
    assert found.null_mean == pytest.approx(information.mean(), abs=4 * information.std() / math.sqrt(4000))
    assert found.null_sd == pytest.approx(information.std(), rel=0.1)
    exact = (information >= found.information - 1e-9).mean()
    assert 0.05 < exact < 0.95  # else the next line proves little
    assert found.information_p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000) + 1 / 4000)


def test_p_values_of_pairs_approach_the_hypergeometric_ones_and_q_is_their_correction() -> None:
    sets = random_sets(32, 20, 0.3, seed=2)
    found = symmetry_breaking(matrices_of(sets), 4, permutations=5000, seed=1)
    exact = np.array([[exact_p(sets[:, k].sum(), found.claims[h, k], 32, 4) for k in range(20)] for h in range(4)])
    assert (np.abs(found.p - exact) <= 4.5 * np.sqrt(exact * (1 - exact) / 5000) + 1 / 5000).all()
    ordered = np.sort(found.p.ravel())
    stepped = [min(1, min(ordered[j] * 80 / (j + 1) for j in range(i, 80))) for i in range(80)]
    assert np.sort(found.q.ravel()) == pytest.approx(np.array(stepped))


def test_the_null_is_the_shuffled_claims_chunk_by_chunk() -> None:
    matrices = matrices_of(random_sets(12, 9, 0.4, seed=3))
    found = symmetry_breaking(matrices, 3, permutations=600, seed=2)
    shuffled = shuffled_claims(matrices, 3, permutations=600, seed=2)
    expected = found.claims.sum(axis=0) / 3
    assert found.p == pytest.approx(p_value(np.abs(shuffled - expected), np.abs(found.claims - expected)))
    assert np.array_equal(found.null_information, mutual_information(shuffled))


def test_p_values_of_heads_dealt_at_random_are_uniform() -> None:
    rng = np.random.default_rng(0)
    information, pairs = [], []
    for seed in range(300):
        sets = np.repeat(random_sets(8, 12, 0.35, seed), 4, axis=0)[rng.permutation(32)]  # nodes are alike in fours
        found = symmetry_breaking(matrices_of(sets), 4, permutations=99, seed=seed)
        information.append(found.information_p - rng.random() / 100)  # p is a multiple of 1/100: spread it over its step
        pairs.append(found.p)
    assert stats.kstest(information, "uniform").pvalue > 0.01
    # with ties, p of a pair is conservative: never too small too often
    for alpha in (0.01, 0.05, 0.2, 0.5):
        assert np.mean(np.array(pairs) <= alpha) <= alpha + 0.01


def test_a_p_value_counts_what_was_observed_as_one_of_the_shuffles() -> None:
    assert p_value(np.array([1.0, 2.0, 3.0]), 2.0) == 3 / 4
    assert p_value(np.array([1.0, 2.0, 3.0]), 2.0 + 1e-12) == 3 / 4  # a tie but for rounding
    assert p_value(np.array([1.0, 2.0, 3.0]), 4.0) == 1 / 4
    assert np.isnan(p_value(np.array([1.0, np.nan]), 4.0))


def test_experts_ties_and_labels_that_nobody_claims() -> None:
    counts = np.array([[3, 2, 0, 1, 0], [1, 2, 0, 4, 1], [0, 1, 0, 4, 0]])
    assert experts(counts).tolist() == [0, -1, -1, -1, 1]
    assert majority(counts).tolist() == [[True, False, False, False, False], [False, False, False, False, True], [False] * 5]
    found = modus_vivendi(counts, majority(counts))
    assert found.experts.tolist() == [0, -1, -1, -1, 1]
    assert found.labels_per_head.tolist() == [1, 1, 0]
    assert (found.tied, found.unclaimed) == (2, 1)
    assert found.coverage == pytest.approx(2 / 5)
    assert found.overlap == 0
    assert found.entropy == pytest.approx(1)  # two of three heads, one label each


def test_modus_vivendi_by_hand() -> None:
    claimed = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], dtype=bool)
    found = modus_vivendi(np.array([[5, 5, 5, 5], [0, 0, 0, 1], [0, 0, 0, 0]]), claimed)
    assert found.overlap == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert found.coverage == 3 / 4
    assert (found.entropy, found.labels_per_head.tolist()) == (0, [4, 0, 0])
    even = modus_vivendi(specialised(4, 1, 3).astype(int), specialised(4, 1, 3))
    assert (even.entropy, even.coverage, even.overlap) == pytest.approx((2, 1, 0))
    silent = modus_vivendi(np.zeros((2, 3), dtype=int), np.zeros((2, 3), dtype=bool))
    assert (silent.unclaimed, silent.tied, silent.coverage) == (3, 0, 0)
    assert math.isnan(silent.entropy)
    assert math.isnan(silent.overlap)


def twin_best(first: np.ndarray, second: np.ndarray, heads: int) -> float:
    both = (first >= 0) & (second >= 0)
    return max(float(np.mean(np.array(names)[first[both]] == second[both])) for names in permutations(range(heads)))


def test_relabelled_heads_agree_completely_but_only_after_renaming() -> None:
    first = np.repeat(np.arange(4), 10)
    renaming = np.array([2, 0, 3, 1])
    found = agreement(first, renaming[first], 4)
    assert (found.same, found.best, found.labels) == (0, 1, 40)
    assert np.array_equal(found.renaming, renaming)
    assert found.best_p == 1 / 1001
    assert found.same_p == 1
    assert found.null_same.mean() == pytest.approx(1 / 4, abs=0.02)
    assert found.null_best.mean() > found.null_same.mean() + 0.03


@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_agreement_equals_trying_all_renamings(heads: int, labels: int, seed: int) -> None:
    first, second = np.random.default_rng(seed).integers(-1, heads, (2, labels))
    both = (first >= 0) & (second >= 0)
    found = agreement(first, second, heads, permutations=20, seed=3)
    assert found.labels == both.sum()
    if not both.any():
        assert all(math.isnan(value) for value in (found.same, found.best, found.same_p, found.best_p))
        return
    assert found.same == pytest.approx(np.mean(first[both] == second[both]))
    assert found.best == pytest.approx(twin_best(first, second, heads))
    assert np.mean(found.renaming[first[both]] == second[both]) == pytest.approx(found.best)
    for order, same, best in zip(
        np.random.default_rng(3).permuted(np.tile(np.arange(both.sum()), (20, 1)), axis=1), found.null_same, found.null_best, strict=True
    ):
        assert same == pytest.approx(np.mean(first[both] == second[both][order]))
        assert best == pytest.approx(twin_best(first[both], second[both][order], heads))


def test_p_values_of_unrelated_seeds_are_not_too_small_too_often() -> None:
    rng = np.random.default_rng(1)
    found = [agreement(*rng.integers(0, 3, (2, 60)), 3, permutations=99, seed=i) for i in range(300)]
    for name in ("same_p", "best_p"):
        values = np.array([getattr(one, name) for one in found])
        for alpha in (0.05, 0.2, 0.5):
            assert np.mean(values <= alpha) <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 300), name
        assert np.mean(values <= 0.5) > 0.25, name  # and not stuck at one


def test_wrong_calls_are_refused_by_name() -> None:
    matrices = matrices_of(random_sets(6, 3, 0.5))
    for heads in (0, 4, 12):
        with pytest.raises(ValueError, match=f"6 nodes do not divide into {heads} heads"):
            claims(matrices, heads)
    with pytest.raises(ValueError, match="threshold must lie in"):
        claims(matrices, 2, 1.5)
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        symmetry_breaking(matrices, 2, permutations=0)
    with pytest.raises(ValueError, match="alpha must lie in"):
        symmetry_breaking(matrices, 2, permutations=9).claimed(5)
    with unchecked(), pytest.raises(ValueError, match=r"claims and claimed must agree .*\(2, 3\) and \(3, 2\)"):
        modus_vivendi(np.ones((2, 3), dtype=int), np.ones((3, 2), dtype=bool))
    with unchecked(), pytest.raises(ValueError, match="experts of 2 and 3 labels"):
        agreement(np.zeros(2, dtype=int), np.zeros(3, dtype=int), 2)
    with pytest.raises(ValueError, match="second names head 2; there are heads 0 to 1"):
        agreement(np.array([0, 1]), np.array([2, -1]), 2)
