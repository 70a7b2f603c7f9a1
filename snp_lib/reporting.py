"""Numbers that are printed *and* checked, and the verdict on each claim of the papers."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from scipy.stats import t as student_t

from snp_lib.experiments import SCALES
from snp_lib.paths import BOOK, RECORDS
from snp_lib.store import Run

Verdict = Literal["reproduced", "partly", "not reproduced"]


class ReportError(AssertionError):
    """A reported number left the tolerance around the published one."""


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
    above: float | None = None  # the claim holds if the measure lies above this
    below: float | None = None

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"claim {self.id}: give exactly one of above and below")

    def verdict(self, values: Sequence[float]) -> Verdict:
        """``reproduced`` if the 95 % interval over seeds lies wholly on the claimed side, ``partly`` if only the mean
        does, else ``not reproduced``. A single value can only be ``partly``."""
        bound, sign = (self.above, 1) if self.above is not None else (self.below, -1)
        assert bound is not None
        distance = sign * (statistics.fmean(values) - bound)
        if not distance > 0:
            return "not reproduced"
        return "reproduced" if distance > half_width(values) else "partly"


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A reported number: mean over seeds, standard deviation (n − 1), how many, which, and where from."""

    name: str
    mean: float
    sd: float | None
    n: int
    tol: float
    seeds: list[int]
    scale: str
    experiment: str
    record: str
    verdict: Verdict | None
    settings: dict[str, float] = field(default_factory=dict)

    def _ipython_display_(self) -> None:
        """Nothing: a cell that ends with a report shows the line it printed, and no more."""


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % confidence interval of the mean (Student's t); infinite for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.inf
    return float(student_t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)


def load_claims(path: Path | None = None) -> dict[str, Claim]:
    """All claims by id, from ``book/claims.yml``; raises ValueError for a duplicate or malformed entry."""
    claims: dict[str, Claim] = {}
    for entry in yaml.safe_load((path or BOOK / "claims.yml").read_text()) or []:
        try:
            claim = Claim(**entry)
        except TypeError as error:
            name = entry.get("id", entry) if isinstance(entry, dict) else entry
            raise ValueError(f"malformed claim {name!r}: {error}") from error
        if claim.id in claims:
            raise ValueError(f"claim {claim.id!r} is listed twice")
        claims[claim.id] = claim
    return claims


def published(path: Path | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """The committed numbers, scale → experiment → name → fields of :class:`Reported`; empty when there are none."""
    path = path or RECORDS / "reported.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def published_number(scale: str, experiment: str, name: str) -> Reported | None:
    """One committed number, or None."""
    stored = published().get(scale, {}).get(experiment, {}).get(name)
    return None if stored is None else Reported(**stored)


def report(
    name: str,
    value: float | Sequence[float],
    tol: float,
    *,
    runs: Sequence[Run],
    settings: Mapping[str, float] | None = None,
    experiment: str | None = None,
) -> Reported:
    """Print a number, rounded to its tolerance, and check it against the published one of the same experiment, scale and seeds.

    Within the tolerance the *published* digits are printed, so that a last digit that flips between machines does not
    make a regression test fail. A name that is the id of a claim also gets its verdict.

    Args:
        name: unique name of the number, or the id of a claim in ``book/claims.yml``.
        value: one value per run, or one value for all runs together.
        tol: largest accepted distance from the published mean, in the units of the value.
        runs: the runs behind the number; they give experiment, scale, seeds and record.
        settings: parameters of the measurement that a reader may change, such as θ; a number measured with others is
            printed but not compared with the published one.
        experiment: whose number it is; None: that of the first run. Numbers of several experiments together need one name.

    Returns:
        What was reported; with the published fields where those were printed.

    Raises:
        ReportError: NaN, or farther from the published number than ``tol``.
        ValueError: a tolerance that is not positive or, where a number is or was published, so wide that it would accept zero.
    """
    values = [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]
    mean = statistics.fmean(values)
    if not math.isfinite(mean):
        raise ReportError(f"{name} is {mean}: nothing was measured")
    claim = load_claims().get(name)
    ours = Reported(
        name=name,
        mean=mean,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        tol=tol,
        seeds=[r.experiment.seed for r in runs],
        scale=runs[0].experiment.scale,
        experiment=experiment or runs[0].experiment.name,
        record=record_id(runs),
        verdict=claim.verdict(values) if claim else None,
        settings=dict(settings or {}),
    )
    if not 0 < tol < math.inf:
        raise ValueError(f"{name}: a tolerance must be positive and finite, got {tol}")
    accepting, stored = os.environ.get("SNP_ACCEPT") == "1", published_number(ours.scale, ours.experiment, name)
    compared = stored is not None and (stored.seeds, stored.settings) == (ours.seeds, ours.settings)
    if (accepting or compared) and ours.scale != "smoke" and mean and tol >= abs(mean) / 2:
        raise ValueError(f"{name}: a tolerance of {tol} around {mean:.4g} would accept zero, so it would check nothing")
    _log(ours)
    if accepting:
        _accept(ours)
    elif stored is not None and compared:
        if abs(ours.mean - stored.mean) > tol or ours.verdict != stored.verdict:
            raise ReportError(
                f"{name} is {_format(ours)}, but {_format(stored)} was published for the same scale and seeds "
                f"(tolerance {tol}). If the change is meant, accept it with `snp reproduce --accept` and say why."
            )
        ours = stored
    print(f"{name} = {_format(ours)}")
    return ours


def record_id(runs: Sequence[Run]) -> str:
    """The record hashes behind a figure, in the order of the seeds."""
    return " ".join(r.record for r in runs)


def provenance(runs: Sequence[Run]) -> str:
    """The line under every figure, one for each experiment: its name, scale, data, n, seeds, device and record hashes.

    Where the seeds come from several devices, each is named with its own.
    """
    families: dict[str, list[Run]] = {}
    for run in {run.experiment.id: run for run in runs}.values():  # one that is there twice is named once
        families.setdefault(run.experiment.name, []).append(run)
    lines = []
    for name, family in families.items():
        first, seeds = family[0], _seeds(family)
        made_on: dict[str, list[Run]] = {}
        for run in family:
            made_on.setdefault(run.manifest["device"], []).append(run)
        several = len(made_on) > 1
        devices = ", ".join(f"{device} ({_seeds(of)})" if several else device for device, of in made_on.items())
        lines.append(
            f"{name} · {first.experiment.scale} · {first.experiment.dataset} · n = {len(family)} "
            f"(seeds {seeds}) · {devices} · record {record_id(family)}"
        )
    return "\n".join(lines)


def _seeds(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.experiment.seed) for run in runs)


def scoreboard(experiment: str | None = None) -> list[dict[str, Any]]:
    """Every claim with the published number of the largest scale that has one, in the order of ``claims.yml``.

    Args:
        experiment: whose numbers; None: of each claim's own experiment.
    """
    rows = []
    for claim in load_claims().values():
        found = (published_number(scale, experiment or claim.experiment, claim.id) for scale in reversed(SCALES) if scale != "smoke")
        rows.append({"claim": claim, "reported": next((number for number in found if number is not None), None)})
    return rows


def load_benchmark(name: str) -> dict[str, Any]:
    """The committed numbers of a benchmark; raises ReportError naming those there are."""
    path = RECORDS / "benchmarks" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise ReportError(
            f"no benchmark {name!r} in {path.parent} (there: {there}); make it with the scripts in benchmarks/ and `--record {name}`"
        )
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def _format(number: Reported) -> str:
    digits = max(0, -math.floor(math.log10(number.tol))) if number.tol > 0 else 3
    text = f"{number.mean:.{digits}f}"
    if number.sd is not None:
        text += f" ± {number.sd:.{digits}f}"
    text += f" (n = {number.n}, {number.scale})"
    return text + (f" → {number.verdict}" if number.verdict else "")


def _log(number: Reported) -> None:
    """Append to the log of `snp reproduce`, when it asked for one."""
    if log := os.environ.get("SNP_REPORT_LOG"):
        with Path(log).open("a") as file:
            file.write(json.dumps(asdict(number)) + "\n")


def _accept(number: Reported) -> None:
    """Make this number the published one."""
    path = RECORDS / "reported.json"
    numbers = published(path)
    numbers.setdefault(number.scale, {}).setdefault(number.experiment, {})[number.name] = asdict(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n")
    os.replace(partial, path)
