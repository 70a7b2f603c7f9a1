"""What is kept of attention, and its tables, against the pass and the functions they gather."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from snp_lib.analysis.attention import Attention, attend_to, decoded, explained_by_chance, explained_by_label, uniform_distance
from snp_lib.performance.expertise import expert_advantage
from snp_lib.performance.heads import claims, experts, symmetry_breaking
from snp_lib.results import measure
from snp_lib.results.attention import (
    AttentionByLabel,
    attention_of,
    examples,
    experts_attend,
    label_in_attention,
    measured,
    nearest_and_farthest,
    reach,
)
from snp_lib.results.expertise import node_sets
from snp_lib.results.setting import Setting
from snp_lib.store import Run
from snp_lib.store.derived import Arrays

HEADS = 4


@pytest.fixture
def looked(staged: Run) -> Run:
    measure([staged], "attention", "stages", device="cpu", progress=False)
    return staged


def passed(run: Run) -> tuple[Attention, np.ndarray]:
    """The whole pass over the test split once more, and the labels."""
    setting = Setting(run, "cpu", progress=False)
    return attend_to(setting.network, setting.dataset.test, setting.prepare, **setting.passes), run.labels.astype(np.int64)


def test_what_is_kept_is_what_the_pass_found_by_label(looked: Run) -> None:
    kept, (found, labels) = AttentionByLabel().read(looked), passed(looked)
    assert kept["images"].tolist() == np.bincount(labels).tolist()
    tokens, of_seven = kept["grid"].prod(), labels == 7
    assert kept["entropy"][1, 2, 7] == pytest.approx(found.entropy[1, 2, of_seven].mean(), rel=1e-4)
    assert kept["distance"][0, 3, 7] == pytest.approx(found.distance[0, 3, of_seven].mean(), rel=2e-3)
    mean = tokens * found.maps[-1, 1, of_seven].mean(0)
    assert kept["maps"].shape[2:] == tuple(kept["grid"])  # a small grid is kept as it is
    np.testing.assert_allclose(kept["maps"][1, 7].ravel(), mean, rtol=2e-3)
    np.testing.assert_allclose(kept["explained"][2, 0], explained_by_label(found.maps[2, 0], labels, 10), rtol=1e-4)
    for name, whitened in (("hits", False), ("hits_whitened", True)):
        assert kept[name][2, 0].tolist() == decoded(found.maps[2, 0], labels, 10, whitened=whitened).tolist()
    shuffled = np.random.default_rng(0).permutation(labels)
    assert kept["shuffled_hits"][0, 1] == decoded(found.maps[0, 1], shuffled, 10).sum()


def test_the_untrained_network_is_another_measurement(looked: Run) -> None:
    assert [each.name(looked) for each in attention_of(looked)] == ["attention-002", "attention-000"]
    before = AttentionByLabel(epoch=0).read(looked)
    assert not np.array_equal(before["entropy"], AttentionByLabel().read(looked)["entropy"])


def test_the_label_in_a_map_is_counted_beyond_chance(looked: Run) -> None:
    table = label_in_attention([looked])
    assert len(table) == 3 * looked.depth * HEADS
    kept = AttentionByLabel().read(looked)
    row = table[(table.network == "trained") & (table.block == 2) & (table["head"] == 3)].iloc[0]
    chance = explained_by_chance(kept["images"]).sum()
    assert row.explained == pytest.approx((kept["explained"][1, 2].sum() - chance) / (1 - chance))
    assert row.decoded == kept["hits"][1, 2].sum() / kept["images"].sum()
    assert row.whitened == kept["hits_whitened"][1, 2].sum() / kept["images"].sum()
    shuffled = table[table.network == "labels shuffled"]
    assert abs(shuffled.explained.mean()) < 0.005
    assert shuffled.decoded.mean() == pytest.approx(0.1, abs=0.03)


def test_experts_are_those_of_the_claims_of_each_network(looked: Run) -> None:
    table = experts_attend([looked], theta=0.4, permutations=30).set_index(["network", "block", "property"])
    for network, kept in (("trained", AttentionByLabel().read(looked)), ("untrained", AttentionByLabel(epoch=0).read(looked))):
        chosen = experts(claims(node_sets(looked, "block3.mha", network, 0.4), HEADS))
        focus = np.log2(kept["grid"].prod()) - kept["entropy"][2]
        found = expert_advantage(focus, chosen, permutations=30)
        assert table.loc[(network, 3, "focus"), ["excess", "p"]].tolist() == pytest.approx([found.excess, found.p])
        recall = expert_advantage(kept["hits"][2] / kept["images"], chosen, permutations=30)
        assert table.loc[(network, 3, "decoded"), "difference"] == pytest.approx(recall.difference)


def test_reach_is_a_mean_over_labels(looked: Run) -> None:
    table = reach([looked])
    kept = AttentionByLabel(epoch=0).read(looked)
    row = table[(table.network == "untrained") & (table.block == 1) & (table["head"] == 2)].iloc[0]
    assert row.distance == pytest.approx(kept["distance"][0, 1].astype(float).mean())
    assert row.entropy == pytest.approx(kept["entropy"][0, 1].mean())
    assert row.uniform == uniform_distance(*kept["grid"].tolist())
    ends = nearest_and_farthest(table)
    assert len(ends) == 2 * 2 * looked.depth
    first = ends[(ends.network == "trained") & (ends.block == 1)].distance
    of_heads = table[(table.network == "trained") & (table.block == 1)].distance
    assert sorted(first) == [of_heads.min(), of_heads.max()]


def test_examples_are_chosen_by_the_claims(looked: Run) -> None:
    shown = examples(looked, theta=0.4)
    z = symmetry_breaking(looked.matrices("block3.mha"), HEADS, permutations=1, threshold=0.4).z
    assert shown.labels == [looked.class_names[label] for label in z.argmax(axis=1)]
    kept: Arrays = AttentionByLabel().read(looked)
    np.testing.assert_array_equal(shown.maps["trained"][3, 1], kept["maps"][3, z[1].argmax()])


def test_runs_without_weights_are_left_out_unless_it_is_kept(staged: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    able = measured([staged], device="cpu", progress=False)
    assert able == [staged]
    monkeypatch.setattr(type(staged), "require_weights", _no_weights)
    assert measured([staged]) == [staged]  # kept by now
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "none"))
    assert measured([staged]) == []


def _no_weights(run: Run, epoch: int | None = None) -> None:
    from snp_lib.store import StoreError

    raise StoreError("no weights here")
