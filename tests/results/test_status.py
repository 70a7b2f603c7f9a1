"""The status page: claims to their runs, records with what they lack, and runs that nobody has recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from snp_lib import report
from snp_lib.results import measure, status
from snp_lib.store import Run, find, records

CLAIM = {"paper": "A", "statement": "s", "measure": "m", "certainty": "abs", "chapter": "a2", "above": 0}


@pytest.fixture
def recorded(catalogue: Path, smoke_run: Run, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """One record, measured before training, and a book of three claims, two of them of a paper A."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(smoke_run.path.parent))
        measure([smoke_run], "stages", device="cpu", progress=False)
        records.keep(smoke_run)
    claims = [CLAIM | {"id": "A.one"}, CLAIM | {"id": "A.two", "chapter": "x1"}, CLAIM | {"id": "B.three", "paper": "B"}]
    (catalogue / "claims.yml").write_text(yaml.safe_dump(claims), encoding="utf-8")
    monkeypatch.setattr("snp_lib.book.claims.BOOK", catalogue)
    assert find(smoke_run.experiment) is not None
    return status.recorded()


def test_a_claim_leads_to_its_runs(recorded: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    number: Any = report("A.one", 1.0, 0.1, runs=recorded)
    rows = [{"claim": claim, "reported": number if claim.id == "A.one" else None} for claim in status_claims()]
    monkeypatch.setattr(status, "scoreboard", lambda: rows)
    table = status.claims_status(["B", "A"], recorded)
    assert table.claim.tolist() == ["B.three", "A.one", "A.two"]
    one = table.set_index("claim").loc["A.one"]
    (run,) = recorded
    assert (one.records, one.verdict, one.n) == ("cct-test-smoke-s0", "undecided", 1)
    assert one.seconds == f"{run.manifest['training_seconds']:,.0f}"
    assert (one.device, one.torch) == (run.manifest["device"], run.manifest["libraries"]["torch"])
    assert one.chapter == '<a href="a2_snp_matrices.html">A2</a>'
    two = table.set_index("claim").loc["A.two"]
    assert (two.verdict, two.records, two.chapter) == ("not yet measured", "", "X1")
    lost = status.claims_status(["A"], [])
    assert lost.records[0] == "1 not among the records"


def status_claims() -> list[Any]:
    from snp_lib.book.claims import load_claims

    return list(load_claims().values())


def test_a_record_says_what_it_lacks(recorded: list[Run]) -> None:
    (row,) = status.records_status(recorded).to_dict("records")
    assert (row["experiment"], row["scale"], row["seeds"]) == ("cct-test", "smoke", "0")
    assert row["test accuracy (%)"] == f"{100 * recorded[0].metrics['test_accuracy']:.1f}"
    assert row["kept"] >= 1
    lacking = row["missing"].split(", ")
    assert "stages" not in lacking
    assert {"readouts", "silencing", "pruning", "latency"} <= set(lacking)


def test_what_no_record_has_is_listed_with_its_seeds(recorded: list[Run]) -> None:
    table = status.missing_records(recorded, ["small"]).set_index("set")
    assert table.loc["cct", "recorded"] == "0 of 3"
    assert table.loc["cct", "missing"] == "cct (0, 1, 2)"


def test_names_of_runs_are_shortened() -> None:
    assert status._shortened(["a-small-s0", "a-small-s1", "b-small-s1"]) == ["a-small-s0", "s1", "b-small-s1"]
