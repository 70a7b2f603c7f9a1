"""The scoreboard: its parts, and verdicts corrected for their number."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from scipy.stats import t as student_t

from snp_lib.book.claims import load_claims
from snp_lib.book.reporting import Reported
from snp_lib.performance.statistics import holm
from snp_lib.results.claims import claims_table


def test_the_scoreboard_has_three_parts_that_leave_nothing_out() -> None:
    papers = ["A", "B", "C", "D", "CCT"]
    whole, parts = claims_table(papers), {part: claims_table(papers, part=part) for part in ("claim", "control", "sanity")}
    assert sorted(whole.claim) == sorted(pd.concat(list(parts.values())).claim)
    assert "Each node identifies labels." in set(parts["sanity"].claim)
    assert "The SNR of attention nodes rises along the encoders." in set(parts["claim"].claim)
    assert set(parts["sanity"].survives) == {""}


def test_a_verdict_is_corrected_for_the_number_of_claims_of_its_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = [claim for claim in load_claims().values() if claim.paper == "A" and claim.part != "sanity"][:4]
    distances = (50.0, 5.0, 3.6, 0.1)  # of the mean from the bound, in its standard error at three seeds

    def board(experiment: str | None) -> list[dict[str, object]]:
        shared: dict[str, Any] = {"name": "", "n": 3, "tol": 0.1, "seeds": [0, 1, 2], "scale": "small", "experiment": "", "record": ""}
        numbers = [
            Reported(mean=claim.bound + distance, sd=3**0.5, verdict="undecided", **shared)
            for claim, distance in zip(claims, distances, strict=True)
        ]
        return [{"claim": claim, "reported": number} for claim, number in zip(claims, numbers, strict=True)]

    monkeypatch.setattr("snp_lib.results.claims.scoreboard", board)
    p = [2 * student_t.sf(distance, 2) for distance in distances]
    assert p == pytest.approx([0.0004, 0.0377, 0.0692, 0.929], abs=1e-3)
    assert claims_table(["A"]).survives.tolist() == ["Holm", "none", "none", "none"]
    distances = (50.0, 40.0, 5.2, 4.4)
    assert claims_table(["A"]).survives.tolist() == ["Holm", "Holm", "BH", "BH"]  # p: 0.0004, 0.0006, 0.035, 0.048


def test_holm_is_the_step_down_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
