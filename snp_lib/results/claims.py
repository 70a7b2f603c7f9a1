"""Claims with their verdicts, and benchmarks, as tables to print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from snp_lib.book.claims import Part
from snp_lib.book.reporting import ReportError, scoreboard
from snp_lib.machine import records_dir
from snp_lib.performance.statistics import holm, t_test

LEVEL = 0.05

PARTS: tuple[Part, ...] = get_args(Part)

PAPERS = ("A", "B", "C", "D", "CCT")
"""Papers in the order of the scoreboard."""


def claims_table(papers: Sequence[str], *, experiment: str | None = None, part: Part | None = None) -> pd.DataFrame:
    """The scoreboard of the papers named, in that order: columns paper, claim, ours, verdict, survives, holds if.

    ``survives``: with which correction the bound lies outside of the interval at 5 %, two-sided, on either side: Holm, else BH
    (Benjamini and Hochberg 1995, which holds for tests that are independent or depend positively), else none. The family are
    all claims and controls of a paper with several seeds, sanity checks left out; ratios of means are tested as they are.

    Args:
        experiment: whose numbers; None: of each claim's own experiment.
        part: claim, control or sanity, see :class:`snp_lib.book.claims.Claim`; None: all.
    """
    rows, board = [], scoreboard(experiment)
    survives = _corrected(board)
    for row in board:
        claim, number = row["claim"], row["reported"]
        if part is not None and claim.part != part:
            continue
        wanted = f"> {claim.above:g}" if claim.above is not None else f"< {claim.below:g}"
        spread = "" if number is None or number.sd is None else f" ± {number.sd:.2g}"
        rows.append(
            {
                "paper": claim.paper,
                "claim": claim.statement,
                "ours": "" if number is None else f"{number.mean:.3g}{spread} (n = {number.n}, {number.scale})",
                "verdict": "not yet measured" if number is None else number.verdict,
                "survives": survives.get(claim.id, ""),
                "holds if": f"{claim.measure} {wanted}",
            }
        )
    table = pd.DataFrame(rows, columns=["paper", "claim", "ours", "verdict", "survives", "holds if"])
    return pd.concat([table[table.paper == paper] for paper in papers], ignore_index=True)


def _corrected(board: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Id of a measured claim with several seeds → the correction that its test survives."""
    tested = [row for row in board if row["reported"] is not None and row["reported"].n > 1 and row["claim"].part != "sanity"]
    survives = {}
    for paper in {row["claim"].paper for row in tested}:
        family = [(row["claim"], row["reported"]) for row in tested if row["claim"].paper == paper]
        p = [t_test(number.mean, number.sd, number.n, claim.bound) for claim, number in family]
        pairs = zip(holm(p) < LEVEL, false_discovery_control(p) < LEVEL, strict=True)
        for (claim, _), (by_holm, by_rate) in zip(family, pairs, strict=True):
            survives[claim.id] = "Holm" if by_holm else "BH" if by_rate else "none"
    return survives


def claims_side_by_side(papers: Sequence[str], experiments: Mapping[str, str]) -> pd.DataFrame:
    """Verdicts of several experiments on the same claims, of those that the first experiment has measured.

    Args:
        experiments: title of a column → name of an experiment.

    Returns:
        Columns claim and, for each title, the number and ``TITLE: verdict``.
    """
    boards = {title: claims_table(papers, experiment=name) for title, name in experiments.items()}
    columns: dict[str, pd.Series] = {}
    for title, board in boards.items():
        columns |= {"claim": board.claim, title: board.ours, f"{title}: verdict": board.verdict}
    measured = next(iter(boards.values())).ours != ""
    return pd.DataFrame(columns)[measured].reset_index(drop=True)


def benchmark(result: Mapping[str, Any], part: str) -> pd.DataFrame:
    """One part of a record of a benchmark: images a second, or seconds, and the ratio to the first row, as medians over rounds.

    Args:
        result: the record, as :func:`snp_lib.results.claims.load_benchmark` reads it, or the part of it that holds ``part``.
        part: of ``benchmarks/training.py`` ``train``, ``evaluate`` or ``augment: …``; of a part of
            ``benchmarks/measurements.py`` its ``ways``.

    Returns:
        Columns way, images/s or seconds, ratio, from and to; the last three are how many times faster than the first row
        of the same round.
    """
    rows = []
    for way, row in result[part].items():
        ratio, key, name = row["ratio"], *(("seconds", "seconds") if "seconds" in row else ("images_per_second", "images/s"))
        rows.append({"way": way, name: np.median(row[key]), "ratio": np.median(ratio), "from": min(ratio), "to": max(ratio)})
    return pd.DataFrame(rows)


def load_benchmark(name: str) -> dict[str, Any]:
    """The committed numbers of a benchmark; raises ReportError naming those there are."""
    path = records_dir() / "benchmarks" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise ReportError(
            f"no benchmark {name!r} in {path.parent} (there: {there}); make it with the scripts in benchmarks/ and `--record {name}`"
        )
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result
