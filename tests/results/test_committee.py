"""Tables of committees against committees counted one by one, and latency of several runs kept with the first."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from snp_lib import experiments, latency
from snp_lib.analysis import committee
from snp_lib.experiments import initial_model
from snp_lib.performance import summarize
from snp_lib.results.committee import (
    CONVOLUTIONAL,
    FRONTS,
    HALF,
    OTHER_FRONTS,
    PATCHES,
    TRANSFORMERS,
    accuracy_and_cost,
    committees,
    families_beside,
    gain_and_distance,
    gain_of_labels,
    gains_over_best,
    half_against_whole,
    members,
    recorded,
    reordered,
    rivals,
    rules_and_confidence,
    single_networks,
)
from snp_lib.results.latency import Comparison, latencies
from snp_lib.store import Run, StoreError


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
        held, decided = committee.probabilities(logits, "majority vote"), committee.decide(logits, "majority vote")
        assert (held.argmax(axis=-1) != decided).any()  # where votes tie
        assert row.ece == pytest.approx(committee.calibration_error(held, labels.astype(np.int64), decided=decided))
        assert row.confidence == pytest.approx(held.max(axis=-1).mean())
    single = table[table["size"] == 1]
    assert single.gain.abs().max() == single.gain_best.abs().max() == 0


def test_gain_and_profile_of_labels_label_by_label(four: list[Run]) -> None:
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
        profiles = [[np.mean([label in head and other in head for head in heads]) for other in others] for heads in recognised]
        if all(np.std(profile) > 0 for profile in profiles):
            assert row.apart == pytest.approx(1 - np.corrcoef(profiles)[0, 1])
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


def together(*runs: Run) -> float:
    """Accuracy of a committee by mean logit, of one its own."""
    decided = committee.decide(np.stack([run.logits for run in runs]).astype(np.float64))
    return float((decided == runs[0].labels).mean())


def test_members_of_the_chapter_are_those_of_the_catalogue() -> None:
    chosen = members("small", [2, 4, 8], seeds=[0, 1], half_seeds=[0, 3])
    ids = {family: [one.id for one in several] for family, several in chosen.items()}
    assert ids[TRANSFORMERS][:4] == ["cct-h2-small-s0", "cct-h2-small-s1", "cct-small-s0", "cct-small-s1"]
    assert ids[HALF] == ["cct-h2-wide-small-s0", "cct-h2-wide-small-s3"]
    assert ids[FRONTS] == [f"{name}-small-s{seed}" for name in ("cct", "cct-k1", "cct-k1-full1") for seed in (0, 1)]
    assert ids[OTHER_FRONTS] == [f"cct-k1-{name}2-small-s{seed}" for name in ("narrow", "separable") for seed in (0, 1)]
    assert (ids[PATCHES], ids[CONVOLUTIONAL]) == (["vit-small-s0", "vit-small-s1"], ["resnet-small-s0", "resnet-small-s1"])
    for one in (each for several in chosen.values() for each in several):
        assert experiments.get(one.name, "small", one.seed) == one
    first, second, third, fourth = reordered("small")
    assert [(one.seed, one.order_seed) for one in (first, second, third, fourth)] == [(0, None), (1, None), (0, 1), (1, 0)]


def test_only_what_is_there_is_taken_and_the_rest_named(four: list[Run], own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {run.experiment.id: run for run in four[:2]}
    monkeypatch.setattr("snp_lib.results.committee.find", lambda experiment: there.get(experiment.id))
    found, missing = recorded({"some": [run.experiment for run in four[1:3]], "none": [four[3].experiment]})
    assert found == {"some": [four[1]]}
    assert missing == [four[2].experiment.id, four[3].experiment.id]
    assert families_beside("") == families_beside("medium") == {}


def test_rules_and_confidence_are_means_over_committees(four: list[Run]) -> None:
    table = committees({"all": [four]})
    shown = rules_and_confidence(table)
    assert shown.index.tolist() == [("all", size) for size in (1, 2, 3, 4)]
    assert set(shown.columns) == {*committee.RULES, "confidence", "calibration error"}
    trios = list(combinations(four, 3))
    assert shown.loc[("all", 3), "mean logit"] == pytest.approx(100 * np.mean([together(*trio) for trio in trios]))
    soft = table[(table.rule == "mean logit") & (table["size"] == 3)]
    assert shown.loc[("all", 3), "calibration error"] == pytest.approx(100 * soft.ece.mean())
    assert shown.loc[("all", 3), "confidence"] == pytest.approx(100 * soft.confidence.mean())


def test_the_largest_committee_of_each_pool_against_its_best_member(four: list[Run]) -> None:
    table = committees({"heads": [four[:2], four[2:]], "other": [four]})
    expected = [together(*pool) - max(map(together, pool)) for pool in (four[:2], four[2:])]
    assert gains_over_best(table, "heads") == pytest.approx(expected)


def test_the_half_against_each_whole(four: list[Run]) -> None:
    rival, words = half_against_whole(four, four[:2])
    assert rival == pytest.approx([together(*four) - run.metrics["test_accuracy"] for run in four[:2]])
    assert (
        words == f"one of half the width {100 * np.mean([together(run) for run in four]):.1f} %, 4 together {100 * together(*four):.1f} %"
    )


def test_accuracy_and_cost_committee_by_committee(four: list[Run]) -> None:
    macs = latency.count_macs(four[0].network(0))
    table = accuracy_and_cost({"all": four}).set_index("size")
    assert table.index.tolist() == [1, 2, 3, 4]
    for size in table.index:
        drawn = [together(*each) for each in combinations(four, size)]
        assert table.committees[size] == len(drawn)
        assert table.macs[size] == size * macs
        assert table.accuracy[size] == pytest.approx(np.mean(drawn))
    few = accuracy_and_cost({"all": four}, most=5).set_index("size")
    assert few.committees.tolist() == [4, 5, 4, 1]
    assert min(together(*pair) for pair in combinations(four, 2)) <= few.accuracy[2] <= max(together(*p) for p in combinations(four, 2))


def test_single_networks_are_means_over_seeds_and_stand_once(four: list[Run]) -> None:
    table = single_networks({"narrow": four[::2], "all": four})
    assert table[["family", "network", "seeds"]].to_numpy().tolist() == [["narrow", "members-h2", 2], ["all", "members-h4", 2]]
    assert table.accuracy.tolist() == pytest.approx([np.mean([run.metrics["test_accuracy"] for run in four[start::2]]) for start in (0, 1)])
    assert (table.macs == latency.count_macs(four[0].network(0))).all()


def test_rivals_cost_what_a_committee_costs() -> None:
    table = rivals("small", 100, multiples=(2, 4))
    one = latency.count_macs(initial_model(experiments.get("cct", "small", 0), 100))
    for members_of_it, rival, cost, _ in table.itertuples(index=False):
        assert cost == pytest.approx(latency.count_macs(initial_model(experiments.get(rival, "small", 0), 100)) / one)
        assert abs(cost / members_of_it - 1) < 0.1
    assert table.rival.tolist() == ["cct-h6-wide", "cct-h8-wide"]


def test_labels_that_stand_apart_and_gain_go_together() -> None:
    table = pd.DataFrame({"gain": [0.1, 0.2, 0.3, 0.4, 0.9], "apart": [1.0, 2.0, 5.0, 6.0, np.nan]})
    assert gain_and_distance(table)["correlation"] == pytest.approx(1)
    assert gain_and_distance(table)["p"] == pytest.approx(1 / 24, abs=0.02)  # one order of 4! reaches it
    assert gain_and_distance(table.assign(apart=-table.apart))["correlation"] == pytest.approx(-1)
    rng = np.random.default_rng(0)
    noisy = pd.DataFrame({"gain": rng.integers(0, 5, 60) / 10, "apart": rng.normal(size=60)})  # with ties
    found = gain_and_distance(noisy)
    assert found["correlation"] == pytest.approx(spearmanr(noisy.gain, noisy.apart).statistic)
    null = [spearmanr(noisy.gain, rng.permutation(noisy.apart)).statistic for _ in range(2000)]
    assert [found["null_low"], found["null_high"]] == pytest.approx(np.quantile(null, (0.025, 0.975)), abs=0.04)
    assert found["p"] == pytest.approx(np.mean(np.array(null) >= found["correlation"]), abs=0.04)


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
