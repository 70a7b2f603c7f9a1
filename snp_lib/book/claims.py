"""Claims of the papers, and when one counts as seen."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from snp_lib.machine import BOOK
from snp_lib.performance.statistics import half_width

Verdict = Literal["reproduced", "undecided", "not reproduced"]

Part = Literal["claim", "control", "sanity"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper, in our words, what would count as seeing it, and the experiment that is to show it."""

    id: str
    paper: str
    statement: str
    measure: str
    certainty: str  # how sure we are of what the paper says: abs, code, plot, 2nd, ours
    chapter: str
    experiment: str = "cct"
    sanity: bool = False  # an untrained network, shuffled outputs or dealt units would pass it too
    above: float | None = None  # the claim holds if the measure lies above this
    below: float | None = None

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"claim {self.id}: give exactly one of above and below")

    def verdict(self, values: Sequence[float]) -> Verdict:
        """``reproduced`` if the 95 % interval over seeds lies wholly on the claimed side, ``not reproduced`` if it lies wholly on
        the other, else ``undecided``, as a single value always is."""
        sign = 1 if self.above is not None else -1
        distance, uncertain = sign * (statistics.fmean(values) - self.bound), half_width(values)
        if distance > uncertain:
            return "reproduced"
        return "not reproduced" if distance < -uncertain else "undecided"

    @property
    def bound(self) -> float:
        """What the measure is compared with."""
        bound = self.above if self.above is not None else self.below
        assert bound is not None
        return bound

    @property
    def part(self) -> Part:
        """Part of the scoreboard that lists it, as what a paper says, as what we ask to refute it, or as what could hardly fail."""
        if self.sanity:
            return "sanity"
        return "control" if self.certainty == "ours" else "claim"


def load_claims(path: Path | None = None) -> dict[str, Claim]:
    """All claims by id, from ``book/claims.yml``; raises ValueError for a duplicate or malformed entry."""
    claims: dict[str, Claim] = {}
    for entry in yaml.safe_load((path or BOOK / "claims.yml").read_text(encoding="utf-8")) or []:
        try:
            claim = Claim(**entry)
        except TypeError as error:
            name = entry.get("id", entry) if isinstance(entry, dict) else entry
            raise ValueError(f"malformed claim {name!r}: {error}") from error
        if claim.id in claims:
            raise ValueError(f"claim {claim.id!r} is listed twice")
        claims[claim.id] = claim
    return claims
