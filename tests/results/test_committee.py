"""Tables of committees against committees counted one by one, and latency of several runs kept with the first."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shortened
from matplotlib.figure import Figure
from torch import Tensor, nn

from snp_lib import committee, latency, plots, speeds, store, tables
from snp_lib.performance import summarize
from snp_lib.store import Run


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
    table = tables.committees({"all": [four], "heads": [four[:2], four[2:]]})
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
    figure = plots.lines(table, "size", {"gain": "gain", "ece": "ece"}, by="kind", colors={"all": "red", "heads": "blue"}, xlabel="members")
    assert isinstance(figure, Figure)


def test_diagonals_never_share_a_pool(four: list[Run]) -> None:
    mixed = tables.diagonals([four[:2], four[2:]])
    assert [[run.experiment.id for run in pool] for pool in mixed] == [
        ["members-h2-smoke-s0", "members-h4-smoke-s1"],
        ["members-h2-smoke-s1", "members-h4-smoke-s0"],
    ]
    assert tables.diagonals([four]) == []
    seeds = [[replace(four[0], experiment=replace(four[0].experiment, name=f"h{h}", seed=s)) for h in range(5)] for s in range(3)]
    for pool in tables.diagonals(seeds):
        assert [run.experiment.name for run in pool] == ["h0", "h2", "h4"]
        assert sorted(run.experiment.seed for run in pool) == [0, 1, 2]


def test_gain_and_company_of_labels_label_by_label(four: list[Run]) -> None:
    table = tables.gain_of_labels(four[:2], theta=0.4)
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
    assert isinstance(plots.scatter(table, "apart", "gain", xlabel="x", ylabel="y"), Figure)


def test_latency_of_several_runs_is_kept_with_the_first(four: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path))
    monkeypatch.setattr(store, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(speeds, "SECONDS", {"smoke": 0.2})
    networks = {"one": four[:1], "three": four[:3]}
    table = speeds.latencies(networks, "committee", batches=(1, 4), device="cpu")
    assert table[["network", "batch"]].to_numpy().tolist() == [["one", 1], ["three", 1], ["one", 4], ["three", 4]]
    assert table[table.network == "one"].ratio.tolist() == [1, 1]
    assert (table[table.network == "three"].macs == 3 * latency.count_macs(four[0].network(0))).all()
    assert (table.seconds > 0).all()
    assert (table.noise_low <= table.noise_high).all()
    monkeypatch.setattr(latency, "compare", None)
    again = speeds.latencies(networks, "committee", batches=(1, 4), device="cpu")
    assert again.equals(table)
    assert (tmp_path / "derived" / four[0].experiment.id / "latency-committee-cpu.npz").exists()
    for others in ({"one": four[:1]}, {"one": four[:1], "other": four[:3]}):
        with pytest.raises(TypeError):  # other networks are timed anew
            speeds.latencies(others, "committee", batches=(1, 4), device="cpu")
    both = {"one": four[:1], "two": four[:2], "three": four[:3]}
    monkeypatch.undo()
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path))
    monkeypatch.setattr(store, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(speeds, "SECONDS", {"smoke": 0.2})
    for order in (["one", "two", "three"], ["one", "three", "two"]):  # what is stored in another order is not taken for this one
        found = speeds.latencies({name: both[name] for name in order}, "order", device="cpu")
        macs = found.set_index("network").macs
        assert (macs / macs["one"]).to_dict() == {"one": 1, "two": 2, "three": 3}
    with pytest.raises(ValueError, match="at least one network"):
        speeds.latencies({}, "committee", device="cpu")


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
    with speeds._compiled(networks) as forms:
        for _ in range(2):
            for name, form in forms.items():
                x = torch.randn(3, 4)
                assert torch.equal(form(x), networks[name](x))
    assert len(graphs) == 12
