"""Reported numbers: printed as published, refused outside the tolerance; verdicts by interval; the claims of the book."""

from __future__ import annotations

import json
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import yaml
from IPython.core.formatters import DisplayFormatter

from snp_lib.book.claims import Claim, load_claims
from snp_lib.book.reporting import Reported, ReportError, mean_sd, provenance, published, published_number, report, scoreboard, show
from snp_lib.experiments import get
from snp_lib.performance.statistics import half_width
from snp_lib.results.claims import PAPERS
from snp_lib.store import Run

CLAIM: dict[str, Any] = {
    "id": "rises",
    "paper": "A",
    "statement": "it rises",
    "measure": "slope",
    "certainty": "abs",
    "chapter": "02",
    "above": 1.0,
}


def runs(*seeds: int, scale: Any = "small", experiment: str = "cct") -> list[Run]:
    """Runs as far as a report looks at them."""
    manifest = {"files": {"arrays.npz": "0123456789abcdef"}, "device": "2 CPU cores"}
    return [Run(get(experiment, scale, seed), Path("nowhere"), manifest) for seed in seeds]


@pytest.fixture
def book(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book with one claim and no published number."""
    (own_folders / "claims.yml").write_text(yaml.safe_dump([CLAIM]), encoding="utf-8")
    monkeypatch.setattr("snp_lib.book.claims.BOOK", own_folders)
    monkeypatch.delenv("SNP_ACCEPT", raising=False)
    monkeypatch.delenv("SNP_REPORT_LOG", raising=False)
    return own_folders


def accept(name: str, value: Any, tol: float, *, of: list[Run]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_ACCEPT", "1")
        report(name, value, tol, runs=of)


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.706), (3, 4.303), (6, 2.571), (31, 2.042)])
def test_intervals_are_students(n: int, quantile: float) -> None:
    values = [float(i * i) for i in range(n)]
    printed_in_textbooks = quantile * statistics.stdev(values) / math.sqrt(n)
    assert half_width(values) == pytest.approx(printed_in_textbooks, rel=3e-4)


def test_one_seed_has_no_interval() -> None:
    assert half_width([1.0]) == math.inf


def test_verdicts_by_the_interval_over_seeds() -> None:
    claim = Claim(**CLAIM)  # above 1
    assert claim.verdict([1.9, 2.0, 2.1]) == "reproduced"
    assert claim.verdict([0.9, 1.0, 1.9]) == "undecided"  # the mean lies above, the interval reaches below
    assert claim.verdict([0.1, 1.0, 1.1]) == "undecided"  # the mean lies below, the interval reaches above
    assert claim.verdict([5.0]) == "undecided"  # a single run
    assert claim.verdict([0.81, 0.8]) == "not reproduced"
    assert claim.verdict([1.0, 1.0]) == "undecided"  # on the bound
    below = replace(claim, above=None, below=1.0)
    assert below.verdict([0.4, 0.5, 0.6]) == "reproduced"
    assert below.verdict([2.0, 2.01]) == "not reproduced"


def test_a_number_is_printed_with_its_spread(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report("slope", [1.21, 1.24, 1.31], 0.1, runs=runs(0, 1, 2))
    assert capsys.readouterr().out == "slope = 1.3 ± 0.1 (n = 3, small)\n"
    assert found.mean == pytest.approx(3.76 / 3)
    assert found.sd == pytest.approx(statistics.stdev([1.21, 1.24, 1.31]))
    assert (found.n, found.seeds, found.record, found.verdict) == (3, [0, 1, 2], "01234567 01234567 01234567", None)


def test_a_claim_gets_its_verdict(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report("rises", [1.9, 2.0, 2.1], 0.05, runs=runs(0, 1, 2)).verdict == "reproduced"
    assert capsys.readouterr().out == "rises = 2.00 ± 0.10 (n = 3, small) → reproduced\n"


def test_within_the_tolerance_the_published_digits_are_printed(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accept("slope", 1.2499, 0.1, of=runs(0))
    assert capsys.readouterr().out == "slope = 1.2 (n = 1, small)\n"
    found = report("slope", 1.2501, 0.1, runs=runs(0))  # rounds to 1.3 on this machine
    assert capsys.readouterr().out == "slope = 1.2 (n = 1, small)\n"
    assert found.mean == 1.2499


def test_outside_the_tolerance_is_an_error(book: Path) -> None:
    accept("slope", 1.0, 0.1, of=runs(0))
    with pytest.raises(ReportError, match=r"slope is 1\.2 .*1\.0 .*published.*--accept"):
        report("slope", 1.16, 0.1, runs=runs(0))
    accept("rises", [1.02, 1.021], 0.1, of=runs(0, 1))
    with pytest.raises(ReportError, match="not reproduced"):
        report("rises", [0.98, 0.981], 0.1, runs=runs(0, 1))  # near, but the verdict turns over


def test_other_seeds_and_scales_are_not_compared(book: Path) -> None:
    accept("slope", 1.0, 0.1, of=runs(0))
    assert report("slope", 7.0, 0.1, runs=runs(1)).mean == 7.0
    assert report("slope", 7.0, 0.1, runs=runs(0, scale="smoke")).mean == 7.0


def test_each_experiment_has_its_own_numbers(book: Path) -> None:
    accept("rises", [2.0, 2.1], 0.1, of=runs(0, 1))
    accept("rises", [0.5, 0.6], 0.1, of=runs(0, 1, experiment="flowers"))
    assert report("rises", [2.0, 2.1], 0.1, runs=runs(0, 1)).verdict == "reproduced"
    means = {name: scoreboard(name)[0]["reported"] for name in (None, "cct", "flowers", "vit")}
    assert {name: number and number.mean for name, number in means.items()} == {None: 2.05, "cct": 2.05, "flowers": 0.55, "vit": None}


def test_a_number_of_several_experiments_goes_by_the_name_it_is_given(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNP_ACCEPT", "1")
    of = runs(0, 1, experiment="vit")
    assert report("rises", [1.5, 1.7], 0.1, runs=of, experiment="cct").experiment == "cct"
    assert published_number("small", "cct", "rises") is not None
    assert published_number("small", "vit", "rises") is None
    monkeypatch.delenv("SNP_ACCEPT")
    with pytest.raises(ReportError, match="was published for the same scale and seeds"):
        report("rises", [3.5, 3.7], 0.1, runs=of, experiment="cct")
    report("rises", [3.5, 3.7], 0.1, runs=of)  # nothing is published under their own name


def test_accepting_replaces_one_number_and_leaves_nothing_else(book: Path) -> None:
    accept("slope", 1.0, 0.1, of=runs(0))
    accept("other", 3.0, 0.1, of=runs(0, 1))
    accept("slope", 2.0, 0.1, of=runs(0))
    assert [path.name for path in (book / "records").iterdir()] == ["reported.json"]
    assert {name: number["mean"] for name, number in published()["small"]["cct"].items()} == {"slope": 2.0, "other": 3.0}


def test_a_crash_while_accepting_keeps_the_published_numbers(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept("slope", 1.0, 0.1, of=runs(0))

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        accept("slope", 2.0, 0.1, of=runs(0))
    assert published()["small"]["cct"]["slope"]["mean"] == 1.0


@pytest.mark.parametrize("tol", [0.5, 1.0, 50.0])
def test_a_tolerance_that_accepts_zero_is_refused(tol: float, book: Path) -> None:
    with pytest.raises(ValueError, match="would accept zero"):
        accept("slope", 1.0, tol, of=runs(0))
    assert not (book / "records").exists()
    accept("slope", 1.0, 0.1, of=runs(0))
    with pytest.raises(ValueError, match="would accept zero"):
        report("slope", 1.0, tol, runs=runs(0))
    assert report("slope", 1.0, tol, runs=runs(1)).mean == 1.0  # of another seed: with nothing to compare


@pytest.mark.parametrize("tol", [0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("scale", ["small", "smoke"])
def test_a_tolerance_is_positive_and_finite_at_every_scale(tol: float, scale: str, book: Path) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        report("slope", 1.0, tol, runs=runs(0, scale=scale))


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, math.nan]])
def test_a_number_that_was_not_measured_is_refused(value: Any, book: Path) -> None:
    with pytest.raises(ReportError, match="nothing was measured"):
        report("slope", value, 0.1, runs=runs(0))


def test_every_report_is_logged_when_asked(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNP_REPORT_LOG", str(book / "log.jsonl"))
    report("slope", 1.0, 0.1, runs=runs(0))
    report("rises", 3.0, 0.1, runs=runs(0))
    logged = [json.loads(line) for line in (book / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["name"], row["verdict"]) for row in logged] == [("slope", None), ("rises", "undecided")]


def test_the_scoreboard_takes_the_largest_scale_and_never_smoke(book: Path) -> None:
    assert scoreboard()[0]["reported"] is None
    accept("rises", 3.0, 0.1, of=runs(0, scale="smoke"))
    assert scoreboard()[0]["reported"] is None
    accept("rises", 4.0, 0.1, of=runs(0, scale="small"))
    accept("rises", 5.0, 0.1, of=runs(0, scale="paper"))
    (row,) = scoreboard()
    assert (row["claim"].id, row["reported"].mean, row["reported"].scale) == ("rises", 5.0, "paper")


def test_provenance_names_what_made_a_figure() -> None:
    line = provenance(runs(0, 2))
    assert line == "cct · small · cifar100 · n = 2 (seeds 0, 2) · 2 CPU cores · record 01234567 01234567"


def test_provenance_has_a_line_for_each_experiment() -> None:
    lines = provenance([*runs(0, 1), *runs(3, experiment="vit"), *runs(0)]).splitlines()
    assert lines[0] == provenance(runs(0, 1))
    assert lines[1].startswith("vit · small · cifar100 · n = 1 (seeds 3) · ")
    assert len(lines) == 2


def test_provenance_of_many_experiments_is_a_line_for_those_alike() -> None:
    many = [run for name in ("vit", "resnet", "cct-h2", "cct-h8", "cct-k1") for run in runs(0, 1, experiment=name)]
    lines = provenance([*many, *runs(3, experiment="flowers")]).splitlines()
    assert lines[0].startswith("vit, resnet, cct-h2, cct-h8, cct-k1 · ")
    assert "n = 2 each (seeds 0, 1)" in lines[0]
    assert "10 records " in lines[0]
    assert lines[1] == provenance(runs(3, experiment="flowers"))
    first, *rest = many
    changed = replace(first, manifest=first.manifest | {"files": {"arrays.npz": "f" * 64}})
    assert provenance([changed, *rest, *runs(3, experiment="flowers")]).splitlines()[0] != lines[0]


def test_provenance_has_a_line_for_each_scale() -> None:
    small, medium = runs(0, 1), [replace(run, experiment=replace(run.experiment, scale="medium")) for run in runs(0)]
    lines = provenance([*small, *medium]).splitlines()
    assert lines == [provenance(small), provenance(medium)]
    assert " · medium · " in lines[1]


def test_provenance_gives_each_seed_its_device() -> None:
    first, *others = runs(0, 1, 2)
    there = [replace(run, manifest=run.manifest | {"device": "a GPU"}) for run in others]
    assert "(seeds 0, 1, 2) · 2 CPU cores (0), a GPU (1, 2) · record" in provenance([first, *there])
    assert "(seeds 1, 2) · a GPU · record" in provenance(there)


def test_the_claims_of_the_book_are_well_formed() -> None:
    claims = load_claims()
    assert list(claims) == [claim.id for claim in claims.values()]
    assert {claim.paper for claim in claims.values()} <= set(PAPERS)
    assert {claim.certainty for claim in claims.values()} <= {"abs", "code", "plot", "2nd", "ours"}
    assert all(claim.statement.strip() and claim.measure.strip() for claim in claims.values())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([CLAIM, CLAIM], "'rises' is listed twice"),
        ([CLAIM | {"bellow": 1}], "malformed claim 'rises'.*bellow"),
        ([{"id": "rises"}], "malformed claim 'rises'.*paper"),
        (["rises"], "malformed claim 'rises'"),
        ([CLAIM | {"below": 2.0}], "exactly one of above and below"),
        ([{key: value for key, value in CLAIM.items() if key != "above"}], "exactly one of above and below"),
    ],
)
def test_malformed_claims_are_named(entries: list[Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "claims.yml").write_text(yaml.safe_dump(entries), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_claims(tmp_path / "claims.yml")


def test_a_book_without_claims_has_none(tmp_path: Path) -> None:
    (tmp_path / "claims.yml").write_text("", encoding="utf-8")
    assert load_claims(tmp_path / "claims.yml") == {}


def test_a_number_measured_with_another_setting_is_not_compared(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNP_ACCEPT", "1")
    report("number", 2.0, 0.1, runs=runs(0), settings={"theta": 0.3})
    monkeypatch.delenv("SNP_ACCEPT")
    assert report("number", 5.0, 0.1, runs=runs(0), settings={"theta": 0.4}).mean == 5.0
    with pytest.raises(ReportError, match="tolerance"):
        report("number", 5.0, 0.1, runs=runs(0), settings={"theta": 0.3})


def test_a_cell_that_ends_with_a_report_shows_its_line_alone() -> None:
    number = Reported(name="x", mean=1.0, sd=None, n=1, tol=0.1, seeds=[0], scale="small", experiment="cct", record="", verdict=None)
    shown = DisplayFormatter()
    assert shown.format(number) == ({}, {})
    assert shown.format(1.0)[0] == {"text/plain": "1.0"}


def test_numbers_of_the_text_are_mean_and_deviation() -> None:
    assert mean_sd([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
    assert mean_sd([0.123], 2) == "0.12"
    assert mean_sd([-0.001, 0.0], 2) == "0.00 ± 0.00"


def test_a_figure_of_no_run_says_what_it_draws_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: None)
    figure = plt.figure()
    show(figure, [])
    plt.close(figure)
    assert re.fullmatch("drawn [0-9a-f]{8}\n", capsys.readouterr().out)


def test_a_figure_says_from_which_runs_or_what_else_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: None)
    figure, axis = plt.subplots()
    axis.plot([1, 2])
    show(figure, runs(0, 1))
    show(figure, [], "from a paper")
    ours, theirs = (line.split(" · drawn ") for line in capsys.readouterr().out.splitlines())
    assert (ours[0], theirs[0]) == (provenance(runs(0, 1)), "from a paper")
    assert ours[1] == theirs[1]
    plt.close(figure)
