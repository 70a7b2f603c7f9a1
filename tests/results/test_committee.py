"""Tables of committees against committees counted one by one, and latency of several runs kept with the first."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from shared import shortened
from torch import Tensor, nn

from snp_lib import latency, store
from snp_lib.analysis import committee
from snp_lib.performance import summarize
from snp_lib.results import committee as committee_of
from snp_lib.results.committee import (
    by_size,
    claimed_gains,
    committees,
    diagonals,
    gain_and_distance,
    gain_of_labels,
    half_against_whole,
)
from snp_lib.results.latency import Comparison, latencies
from snp_lib.store import Run, StoreError


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Trained for an epoch each, with two and four heads and two seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("members")))
        found = []
        for seed in (0, 1):
            for heads in (2, 4):
                base = shortened(f"members-h{heads}", seed)
                options = base.model_options | {"num_heads": heads}
                short = replace(
                    base, model_options=options, recipe=replace(base.recipe, epochs=1), readout=replace(base.readout, kinds=("mha",))
                )
                found.append(store.run(short, device="cpu", progress=False))
        return found


def test_every_committee_of_every_pool_is_counted(four: list[Run]) -> None:
    table = committees({"all": [four], "heads": [four[:2], four[2:]]})
    assert table.groupby(["kind", "size"]).size().to_dict() == {
        ("all", 1): 12, ("all", 2): 18, ("all", 3): 12, ("all", 4): 3, ("heads", 1): 12, ("heads", 2): 6,
    }  # fmt: skip
    labels = four[0].labels
    for chosen in combinations(four, 3):
        row = table[(table.members == ", ".join(run.experiment.id for run in chosen)) & (table.rule == "majority vote")].iloc[0]
        logits = np.stack([run.logits for run in chosen]).astype(np.float64)
        alone = [(run.logits.argmax(1) == labels).mean() for run in chosen]
        together = (committee.decide(logits, "majority vote") == labels).mean()
        assert row.accuracy == together
        assert row.gain == pytest.approx(together - np.mean(alone))
        assert row.gain_best == pytest.approx(together - max(alone))
        assert row.disagreement == committee.disagreement(logits)
        held, decided = committee.probabilities(logits, "majority vote"), committee.decide(logits, "majority vote")
        assert (held.argmax(axis=-1) != decided).any()  # where votes tie
        assert row.ece == pytest.approx(committee.calibration_error(held, labels.astype(np.int64), decided=decided))
        assert row.confidence == pytest.approx(held.max(axis=-1).mean())
    single = table[table["size"] == 1]
    assert single.gain.abs().max() == single.gain_best.abs().max() == 0


def test_diagonals_never_share_a_pool(four: list[Run]) -> None:
    mixed = diagonals([four[:2], four[2:]])
    assert [[run.experiment.id for run in pool] for pool in mixed] == [
        ["members-h2-smoke-s0", "members-h4-smoke-s1"],
        ["members-h2-smoke-s1", "members-h4-smoke-s0"],
    ]
    assert diagonals([four]) == []
    seeds = [[replace(four[0], experiment=replace(four[0].experiment, name=f"h{h}", seed=s)) for h in range(5)] for s in range(3)]
    for pool in diagonals(seeds):
        assert [run.experiment.name for run in pool] == ["h0", "h2", "h4"]
        assert sorted(run.experiment.seed for run in pool) == [0, 1, 2]


def test_gain_and_company_of_labels_label_by_label(four: list[Run]) -> None:
    table = gain_of_labels(four[:2], theta=0.4)
    assert table.label.tolist() == list("0123456789")
    recognised = []  # per network a list of the label sets of all its heads
    for run in four[:2]:
        heads = [summarize(run.matrices(f"block{b}.mha", unit="head"), 0.4).diagonal for b in (1, 2, 3)]
        recognised.append([set(np.flatnonzero(head)) for site in heads for head in site])
    together = committee.decide(np.stack([run.logits for run in four[:2]]).astype(np.float64))
    for label in range(10):
        of = four[0].labels == label
        row = table.iloc[label]
        assert row.together == (together[of] == label).mean()
        assert row.alone == pytest.approx(np.mean([(run.logits[of].argmax(1) == label).mean() for run in four[:2]]))
        others = [other for other in range(10) if other != label]
        companies = [[np.mean([label in head and other in head for head in heads]) for other in others] for heads in recognised]
        if all(np.std(company) > 0 for company in companies):
            assert row.apart == pytest.approx(1 - np.corrcoef(companies)[0, 1])
        else:
            assert np.isnan(row.apart)


def timed(networks: dict[str, list[Run]], label: str = "committee", batches: tuple[int, ...] = (1, 4)) -> pd.DataFrame:
    comparison = Comparison(networks=networks, label=label, batches=batches, device="cpu")
    comparison.make(comparison.reference, device="cpu", progress=False)
    return latencies(comparison)


def test_latency_of_several_runs_is_kept_with_the_first(four: list[Run], own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snp_lib.results.latency.SECONDS", {"smoke": 0.2})
    networks = {"one": four[:1], "three": four[:3]}
    table = timed(networks)
    assert table[["network", "batch"]].to_numpy().tolist() == [["one", 1], ["three", 1], ["one", 4], ["three", 4]]
    assert table[table.network == "one"].ratio.tolist() == [1, 1]
    assert (table[table.network == "three"].macs == 3 * latency.count_macs(four[0].network(0))).all()
    assert (table.seconds > 0).all()
    assert (table.noise_low <= table.noise_high).all()
    compare = latency.compare
    monkeypatch.setattr("snp_lib.latency.compare", None)
    assert timed(networks).equals(table)
    assert (own_folders / "runs" / "derived" / four[0].experiment.id / "latency-committee-cpu.npz").exists()
    for others in ({"one": four[:1]}, {"one": four[:1], "other": four[:3]}):
        with pytest.raises(StoreError, match="has no measurement latency-committee-cpu"):
            latencies(Comparison(networks=others, label="committee", batches=(1, 4), device="cpu"))
        with pytest.raises(TypeError):  # other networks are timed anew
            timed(others)
    monkeypatch.setattr("snp_lib.latency.compare", compare)
    both = {"one": four[:1], "two": four[:2], "three": four[:3]}
    for order in (["one", "two", "three"], ["one", "three", "two"]):  # what is stored in another order is not taken for this one
        macs = timed({name: both[name] for name in order}, "order", (1,)).set_index("network").macs
        assert (macs / macs["one"]).to_dict() == {"one": 1, "two": 2, "three": 3}
    with pytest.raises(ValueError, match="at least one network"):
        timed({})


def test_members_of_the_chapter_are_in_the_catalogue_and_mixed_behind_the_first() -> None:
    chosen = committee_of.members("small", [2, 4, 8], seeds=[0, 1], head_seeds=[0, 1, 2], half_seeds=[0, 3])
    ids = {kind: [[one.id for one in pool] for pool in of] for kind, of in chosen.items()}
    assert ids[committee_of.OTHER_HEADS][1] == ["cct-h2-small-s1", "cct-small-s1", "cct-h8-small-s1"]
    assert ids[committee_of.HALF] == [["cct-h2-wide-small-s0", "cct-h2-wide-small-s3"]]
    assert ids[committee_of.PATCHES] == [["vit-small-s0", "vit-small-s1"]]
    assert [len(pools) for pools in ids.values()] == [3, 2, 1, 1, 1, 1]
    pools = {kind: [[Run(one, Path("nowhere"), {}) for one in pool] for pool in of] for kind, of in chosen.items()}
    mixed = committee_of.with_mixed(pools)
    assert list(mixed)[:3] == [committee_of.OTHER_HEADS, committee_of.MIXED, committee_of.OTHER_FRONTS]
    assert mixed[committee_of.MIXED] == diagonals(pools[committee_of.OTHER_HEADS])
    alone = committee_of.with_mixed(pools | {committee_of.OTHER_HEADS: pools[committee_of.OTHER_HEADS][:1]})
    assert committee_of.MIXED not in alone


def test_claimed_gains_committee_by_committee(four: list[Run]) -> None:
    pools = {
        committee_of.OTHER_HEADS: [four[:2], four[2:]],
        committee_of.OTHER_SEEDS: [[four[0], four[2]]],
        committee_of.CONVOLUTIONAL: [[four[1], four[3]]],
        committee_of.HALF: [four],
    }
    table = committees(pools)
    found = claimed_gains(table)

    def together(*runs: Run) -> float:
        decided = committee.decide(np.stack([run.logits for run in runs]).astype(np.float64))
        return float((decided == runs[0].labels).mean())

    alone = [together(run) for run in four]
    gains = {
        pair: together(four[pair[0]], four[pair[1]]) - (alone[pair[0]] + alone[pair[1]]) / 2 for pair in ((0, 1), (2, 3), (0, 2), (1, 3))
    }
    assert found["committee-gain"] == pytest.approx([together(*four[:2]) - max(alone[:2]), together(*four[2:]) - max(alone[2:])])
    assert found["committee-heads"] == pytest.approx([gains[0, 1] - gains[0, 2], gains[2, 3] - gains[0, 2]])
    assert found["committee-cnn"] == pytest.approx([gains[0, 2] - gains[1, 3]])
    assert found["committee-cnn-none"] == pytest.approx([together(four[1], four[3]) - max(alone[1], alone[3])])
    single = committees({kind: [runs[:1] for runs in of] if kind != committee_of.OTHER_HEADS else of for kind, of in pools.items()})
    assert list(claimed_gains(single)) == ["committee-gain"]
    rival, words = half_against_whole(table, four[:2])
    accuracies = [run.metrics["test_accuracy"] for run in four[:2]]
    assert rival == pytest.approx([together(*four) - accuracy for accuracy in accuracies])
    assert words == f"one of half the width {100 * np.mean(alone):.1f} %, 4 together {100 * together(*four):.1f} %"
    shown = by_size(table, ["gain", "ece"], digits=1)
    assert shown.columns.tolist() == [(column, rule) for column in ("gain", "ece") for rule in committee.RULES]
    assert shown.loc[(committee_of.OTHER_SEEDS, 2), ("gain", "mean logit")] == round(100 * gains[0, 2], 1)


def test_labels_that_stand_apart_and_gain_go_together() -> None:
    table = pd.DataFrame({"gain": [0.1, 0.2, 0.3, 0.9], "apart": [1.0, 2.0, 5.0, np.nan]})
    assert gain_and_distance(table) == pytest.approx(1)
    assert gain_and_distance(table.assign(apart=-table.apart)) == pytest.approx(-1)


def test_a_dozen_networks_of_one_class_are_all_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    class Layer(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.linear = nn.Linear(4, width)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).relu()

    graphs = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    networks = {str(width): Layer(width) for width in range(1, 13)}
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: plain(model, backend=count, **options))  # needs no compiler
    with latency.compiled(networks) as forms:
        for _ in range(2):
            for name, form in forms.items():
                x = torch.randn(3, 4)
                assert torch.equal(form(x), networks[name](x))
    assert len(graphs) == 12
