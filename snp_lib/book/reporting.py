"""Numbers that are printed *and* checked, and the scoreboard."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snp_lib.book.claims import Verdict, load_claims
from snp_lib.experiments import SCALES
from snp_lib.machine import records_dir
from snp_lib.store import Run
from snp_lib.store.disk import locked

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ReportError(AssertionError):
    """A reported number left the tolerance around the published one."""


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


def published(path: Path | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """The committed numbers, scale → experiment → name → fields of :class:`Reported`; empty when there are none."""
    path = path or records_dir() / "reported.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


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


MANY = 4  # experiments whose runs are named a line each; more are named together


def provenance(runs: Sequence[Run]) -> str:
    """The line under every figure, one for each experiment and scale: name, scale, data, n, seeds, device and record hashes.

    Where the seeds come from several devices, each is named with its own. Of more than four experiments those of one scale, data set and
    seeds share a line, with their devices and one hash of all their records; the page *status* has a row for each run.
    """
    families: dict[tuple[str, str], list[Run]] = {}
    for run in {run.experiment.id: run for run in runs}.values():  # one that is there twice is named once
        families.setdefault((run.experiment.name, run.experiment.scale), []).append(run)
    if len(families) <= MANY:
        return "\n".join(_line([family]) for family in families.values())
    alike: dict[tuple[str, str, str], list[list[Run]]] = {}
    for family in families.values():
        first = family[0].experiment
        alike.setdefault((first.scale, first.dataset, _seeds(family)), []).append(family)
    return "\n".join(map(_line, alike.values()))


def _line(families: Sequence[Sequence[Run]]) -> str:
    """Experiments of one scale, data set and seeds."""
    runs, first = [run for family in families for run in family], families[0][0]
    made_on: dict[str, list[Run]] = {}
    for run in runs:
        made_on.setdefault(run.manifest["device"], []).append(run)
    if len(families) == 1:
        several = len(made_on) > 1
        devices = ", ".join(f"{device} ({_seeds(of)})" if several else device for device, of in made_on.items())
        records = f"record {record_id(runs)}"
    else:
        devices = ", ".join(made_on)
        records = f"{len(runs)} records {hashlib.sha256(record_id(runs).encode()).hexdigest()[:8]}"
    names, many = ", ".join(family[0].experiment.name for family in families), " each" if len(families) > 1 else ""
    return (
        f"{names} · {first.experiment.scale} · {first.experiment.dataset} · "
        f"n = {len(families[0])}{many} (seeds {_seeds(families[0])}) · {devices} · {records}"
    )


def show(figure: Figure, runs: Sequence[Run], source: str = "") -> None:
    """Show a figure with the lines under it that say from which runs it is, see :func:`provenance`, and what it draws.

    The last is its :func:`snp_lib.plots.fingerprint.fingerprint`: nbval compares text and no pictures, and so finds a
    stored picture that is no longer what its cell draws.

    Args:
        source: what it is from in place of runs, such as published numbers.
    """
    import matplotlib.pyplot as plt  # only where figures are drawn

    from snp_lib.plots.fingerprint import fingerprint

    plt.show()
    print(" · ".join([*filter(None, [source or provenance(runs)]), f"drawn {fingerprint(figure)}"]))


def mean_sd(values: Sequence[float], digits: int = 1) -> str:
    """Mean and, of several values, standard deviation (n − 1) for the text of a page, such as ``13.2 ± 2.5``."""
    numbers = [float(value) for value in values]
    mean = f"{statistics.fmean(numbers):z.{digits}f}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


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
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(number)) + "\n")


def _accept(number: Reported) -> None:
    """Make this number the published one, while no other chapter does so with another."""
    path = records_dir() / "reported.json"
    with locked("reported", progress=False):
        numbers = published(path)
        numbers.setdefault(number.scale, {}).setdefault(number.experiment, {})[number.name] = asdict(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(partial, path)
