"""Pairs of labels within clusters against superclasses: by hand, and by chance."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from snp_lib.performance.superclasses import cluster_pairs, kinship


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(2, 9))
def test_pairs_one_cluster_at_a_time(seed: int, units: int, labels: int) -> None:
    cluster_of = np.random.default_rng(seed).integers(-1, 3, (units, labels))
    superclass = np.arange(labels) % 3
    expected, same, total = np.zeros((labels, labels), dtype=int), 0, 0
    for row in cluster_of:
        for i, j in combinations(range(labels), 2):
            if row[i] == row[j] >= 0:
                expected[i, j] += 1
                expected[j, i] += 1
                same, total = same + int(superclass[i] == superclass[j]), total + 1
    found = cluster_pairs(cluster_of)
    assert np.array_equal(found, expected)
    kin = kinship(found, superclass, permutations=5)
    assert kin.pairs == total
    np.testing.assert_allclose(kin.share, same / total if total else np.nan)


def test_clusters_that_are_superclasses_share_all_and_shuffled_ones_what_chance_gives() -> None:
    superclass = np.repeat(np.arange(10), 15)
    clusters = np.where(np.arange(150) < 45, superclass, -1)[None]
    kin = kinship(cluster_pairs(clusters), superclass, permutations=2000, seed=1)
    assert (kin.share, kin.pairs) == (1.0, 3 * 15 * 14 // 2)
    assert kin.expected == pytest.approx(14 / 149, rel=0.02)
    assert kin.ratio == pytest.approx(149 / 14, rel=0.02)
    assert kin.p == pytest.approx(1 / 2001)
    low, high = kin.chance
    assert low < 1 < high < 2


def test_clusters_without_regard_to_superclasses_are_no_more_alike_than_chance() -> None:
    rng = np.random.default_rng(0)
    ps = [kinship(cluster_pairs(rng.integers(-1, 4, (20, 40))), np.arange(40) % 5, permutations=200, seed=s).p for s in range(60)]
    assert 0.3 < np.mean(ps) < 0.7
    assert 0 <= np.mean(np.array(ps) < 0.05) < 0.15


def test_without_a_pair_there_is_no_share() -> None:
    kin = kinship(cluster_pairs(np.full((3, 4), -1)), np.arange(4) % 2, permutations=3)
    assert kin.pairs == 0
    assert np.isnan([kin.share, kin.p]).all()
