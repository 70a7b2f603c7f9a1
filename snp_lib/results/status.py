"""What stands behind the book, and what is missing: claims, records and measurements, all read from the committed records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch

from snp_lib import experiments
from snp_lib.book.chapters import chapters
from snp_lib.book.claims import Claim
from snp_lib.book.reporting import Reported, scoreboard
from snp_lib.experiments import SCALES, SETS, Scale
from snp_lib.results import MEASUREMENTS, measurements_of
from snp_lib.store import Run, read, root


def recorded() -> list[Run]:
    """All committed records, each by scale, name and seed; raises StoreError for one that is damaged."""
    runs = [read(path.parent) for path in root("records").glob("[!.]*/manifest.json")]
    return sorted(runs, key=lambda run: (SCALES.index(run.experiment.scale), run.experiment.name, run.experiment.seed))


def claims_status(papers: Sequence[str], runs: Iterable[Run]) -> pd.DataFrame:
    """Every claim of these papers with the chapter that shows it and the runs that its number names.

    Args:
        runs: records, of which those are found that a number names by its hashes.

    Returns:
        Columns claim (its id), chapter, verdict; n of the number; records, the ids of its runs; seconds of their trainings
        together; device, torch. Empty where the claim is not yet measured, or a run is not among the records.
    """
    by_hash = {run.record: run for run in runs}
    rows = []
    for row in scoreboard():
        claim, number = row["claim"], row["reported"]
        if claim.paper in papers:
            rows.append((claim.paper, {"claim": claim.id, "chapter": _address(claim)} | _behind(number, by_hash)))
    return pd.DataFrame([row for paper in papers for source, row in rows if source == paper])


def _behind(number: Reported | None, by_hash: dict[str, Run]) -> dict[str, Any]:
    if number is None:
        columns = ("n", "records", "seconds", "device", "torch")
        return {"verdict": "not yet measured"} | dict.fromkeys(columns, "")
    runs = [by_hash[name] for name in number.record.split() if name in by_hash]
    missing = len(number.record.split()) - len(runs)
    names = _shortened([run.experiment.id for run in runs]) + [f"{missing} not among the records"] * bool(missing)
    return {
        "verdict": number.verdict,
        "n": number.n,
        "records": ", ".join(names),
        "seconds": f"{sum(run.manifest['training_seconds'] for run in runs):,.0f}" if runs else "",
        "device": _each(run.manifest["device"] for run in runs),
        "torch": _each(run.manifest["libraries"]["torch"] for run in runs),
    }


def _address(claim: Claim) -> str:
    """The chapter of a claim by its short name, with a link where it is written."""
    page = next((name for name in chapters() if name.startswith(f"{claim.chapter}_")), None)
    return f'<a href="{page}.html">{claim.chapter.upper()}</a>' if page else claim.chapter.upper()


def records_status(runs: Iterable[Run]) -> pd.DataFrame:
    """Every experiment and scale that has records: what they are, what they took, and what was measured of them.

    Returns:
        One row for experiment and scale, with columns seeds; test accuracy in percent, in words; seconds of a training, mean over
        seeds; device, torch, made (dates); kept, how many files of measurements; missing, the names of ``MEASUREMENTS`` that not all
        seeds have, and those seeds.
    """
    families: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        families.setdefault((run.experiment.name, run.experiment.scale), []).append(run)
    rows = []
    for (name, scale), family in families.items():
        accuracy = pd.Series([100 * run.metrics["test_accuracy"] for run in family])
        rows.append(
            {
                "experiment": name,
                "scale": scale,
                "seeds": _seeds(family),
                "test accuracy (%)": f"{accuracy.mean():.1f}" + (f" ± {accuracy.std():.1f}" if len(family) > 1 else ""),
                "seconds": f"{sum(run.manifest['training_seconds'] for run in family) / len(family):,.0f}",
                "device": _each(run.manifest["device"] for run in family),
                "torch": _each(run.manifest["libraries"]["torch"] for run in family),
                "made": _each(run.manifest["date"] for run in family),
                "kept": sum(len(_kept(run)) for run in family),
                "missing": _missing(family),
            }
        )
    return pd.DataFrame(rows)


def _missing(family: Sequence[Run]) -> str:
    """Measurements that runs could have and have not, with the seeds where it is not all of them."""
    words = []
    with torch.device("meta"):  # whether a network can be pruned says its shape; what a run has is the same for every seed
        names = {what: {each.name(family[0]) for each in measurements_of(family[0], what)} for what in MEASUREMENTS}
    for what, wanted in names.items():
        lacking = [run for run in family if wanted - _kept(run)]
        if lacking:
            words.append(what if len(lacking) == len(family) else f"{what} ({_seeds(lacking)})")
    return ", ".join(words)


def _kept(run: Run) -> set[str]:
    """Names of the measurements that are kept with a record, without their options."""
    return {path.stem.partition("@")[0] for path in (root("records") / "derived" / run.experiment.id).glob("*.json")}


def missing_records(runs: Iterable[Run], scales: Sequence[Scale]) -> pd.DataFrame:
    """Of every set worth recording and every scale, the runs that have no record.

    Returns:
        Columns set, scale, recorded (how many of how many), and missing, the experiments with their seeds.
    """
    there = {run.experiment.id for run in runs}
    rows = []
    for name in SETS:
        for scale in scales:
            wanted = experiments.members(name, scale)
            lacking: dict[str, list[int]] = {}
            for experiment in wanted:
                if experiment.id not in there:
                    lacking.setdefault(experiment.name, []).append(experiment.seed)
            words = ", ".join(f"{other} ({', '.join(map(str, seeds))})" for other, seeds in lacking.items())
            count = len(wanted) - sum(map(len, lacking.values()))
            rows.append({"set": name, "scale": scale, "recorded": f"{count} of {len(wanted)}", "missing": words})
    return pd.DataFrame(rows)


def _seeds(runs: Iterable[Run]) -> str:
    return ", ".join(str(run.experiment.seed) for run in runs)


def _each(values: Iterable[str]) -> str:
    """What occurs, each once."""
    return ", ".join(dict.fromkeys(values))


def _shortened(ids: Sequence[str]) -> list[str]:
    """``cct-small-s0``, ``cct-small-s1`` to ``cct-small-s0``, ``s1``."""
    words, last = [], ""
    for name in ids:
        start, _, seed = name.rpartition("-")
        words.append(seed if start == last else name)
        last = start
    return words
