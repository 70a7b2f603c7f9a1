"""Tables of heads and stages against the functions they gather."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from snp_lib.analysis.ablation import kept_heads
from snp_lib.performance.heads import agreement, claims, experts, symmetry_breaking
from snp_lib.performance.statistics import claims_explain
from snp_lib.results import measure
from snp_lib.results.claims import benchmark
from snp_lib.results.heads import (
    ORIGINS,
    Ablation,
    ablated_accuracy,
    agreement_by_origin,
    claim_maps,
    expert_agreement,
    explanations,
    head_ablation,
    head_symmetry,
    symmetry_at_stages,
)
from snp_lib.results.stages import stages
from snp_lib.store import Run

HEADS = 4


def test_symmetry_is_that_of_each_site(staged: Run) -> None:
    table = head_symmetry([staged], permutations=50)
    assert table.block.tolist() == [1, 2, 3]
    for row, site in zip(table.itertuples(), ("block1.mha", "block2.mha", "block3.mha"), strict=True):
        found = symmetry_breaking(staged.matrices(site), HEADS, permutations=50, seed=0)
        assert row.information == pytest.approx(found.information)
        assert row.excess == pytest.approx(found.information - found.null_mean)
        assert row.p == found.information_p
        assert row.experts == (experts(found.claims) >= 0).sum()


def test_stages_end_in_the_run(staged: Run) -> None:
    measure([staged], "stages", device="cpu", progress=False)
    early = symmetry_at_stages([staged], permutations=20)
    assert early.epoch.tolist() == [0, 0, 0, 1, 1, 1]
    assert stages(staged) == [0, 1, 2]


def test_a_seed_agrees_with_itself(staged: Run) -> None:
    pairs = expert_agreement([staged, staged])
    assert pairs.same.tolist() == [1.0] * 3
    assert pairs.best.tolist() == [1.0] * 3
    assert (pairs.same_chance < 0.6).all()


def test_pairs_are_named_by_what_they_have_in_common(smoke_run: Run) -> None:
    """One network under other names: the numbers are those of two seeds, and only the names tell the pairs apart."""
    starts = ((0, None), (1, None), (0, 1), (1, 0))
    base = smoke_run.experiment
    runs = [replace(smoke_run, experiment=base.vary(f"cct-o{order}", seed=seed, order_seed=order)) for seed, order in starts]
    table = agreement_by_origin(runs)
    assert table.groupby("origin").pair.nunique().to_dict() == dict.fromkeys(ORIGINS.values(), 2)
    assert table.block.tolist() == [block for block in (1, 2, 3) for _ in range(6)]
    assert agreement_by_origin([runs[0], replace(runs[0])]).empty  # with everything in common there is nothing to ask
    expected = expert_agreement(runs)
    for column in ("labels", "same", "same_chance", "best", "best_chance", "best_p"):
        assert table[column].tolist() == expected[column].tolist()
    found = experts(claims(smoke_run.matrices("block1.mha"), HEADS))
    band = np.quantile(agreement(found, found, HEADS, permutations=10_000).null_best, (0.025, 0.975))
    assert table.iloc[0][["best_low", "best_high"]].tolist() == band.tolist()


def test_ablation_tables_are_means_of_what_was_measured(staged: Run) -> None:
    measure([staged], "ablation", device="cpu", progress=False)
    ablation = head_ablation(staged)
    hits = staged.logits.argmax(1) == staged.labels
    by_label = np.array([hits[staged.labels == label].mean() for label in range(10)])
    np.testing.assert_allclose(ablation.baseline, by_label, atol=0.02)  # logits are kept in half precision
    table = ablated_accuracy([staged], [ablation])
    assert table.variant.tolist() == ["intact", "one head off", "two heads off", "one head alone"] * 3
    alone = table[(table.block == 2) & (table.variant == "one head alone")].accuracy.item()
    assert alone == pytest.approx(ablation.accuracy_of("block2.mha", np.eye(HEADS, dtype=bool)).mean())
    again = head_ablation(staged)
    assert np.array_equal(again.accuracy, ablation.accuracy)
    cause = explanations([staged], [ablation])
    lost = ablation.lost("block3.mha", kept_heads("removed", HEADS))
    found = claims_explain(claims(staged.matrices("block3.mha"), HEADS), lost, within_label=True)
    assert cause.correlation.iloc[2] == pytest.approx(found.correlation, nan_ok=True)
    measure([staged], Ablation(replacement="mean"), device="cpu", progress=False)
    means = head_ablation(staged, "mean")
    assert not np.array_equal(means.accuracy, ablation.accuracy)


def test_benchmarks_are_read_as_medians_over_rounds() -> None:
    rows = {"usual": {"images_per_second": [1.0, 2.0, 9.0], "ratio": [1.0, 1.0, 1.0]}}
    rows["ours"] = {"images_per_second": [4.0, 5.0, 6.0], "ratio": [4.0, 2.5, 0.7]}
    table = benchmark({"train": rows}, "train")
    assert table["images/s"].tolist() == [2.0, 5.0]
    assert table.iloc[1][["ratio", "from", "to"]].tolist() == [2.5, 0.7, 4.0]
    seconds = benchmark({"ways": {"loop": {"seconds": [3.0, 1.0, 2.0], "ratio": [1.0, 1.0, 1.0]}}}, "ways")
    assert seconds.to_dict("records") == [{"way": "loop", "seconds": 2.0, "ratio": 1.0, "from": 1.0, "to": 1.0}]


def test_claims_are_named_by_their_encoder(smoke_run: Run) -> None:
    maps = claim_maps(smoke_run, theta=0.4)
    assert list(maps) == ["encoder 1", "encoder 2", "encoder 3", "shuffled"]
    assert maps["shuffled"].sum(axis=0).tolist() == maps["encoder 3"].sum(axis=0).tolist()  # the same nodes, other heads
    assert (maps["shuffled"] != maps["encoder 3"]).any()
    np.testing.assert_array_equal(maps["encoder 2"], claims(smoke_run.matrices("block2.mha"), HEADS, 0.4))
