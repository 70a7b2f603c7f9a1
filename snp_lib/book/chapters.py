"""Run chapters from their notebooks with papermill, and collect what they report."""

from __future__ import annotations

import base64
import concurrent.futures
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm.auto import tqdm

from snp_lib.book.notebook import tidy
from snp_lib.experiments import BY_DATASET, SCALES, on
from snp_lib.machine import BOOK, data_dir, records_dir, runs_dir

FIRST = "Landing page"

LAST = "Results"
"""The part of the book whose pages show what all others report, and so are executed behind them."""


class ReproduceError(RuntimeError):
    """A chapter does not exist or has no such parameter, or the notebook packages are missing."""


def parts() -> dict[str, dict[str, Path]]:
    """Title of a part → its notebooks by name, all in the reading order of ``_toc.yml``; raises ReproduceError without a book."""
    contents = BOOK.parent / "_toc.yml"
    if not contents.is_file():
        raise ReproduceError(
            f"there is no book at {BOOK}: its chapters come with a checkout of the project, not with the installed library"
        )
    table = yaml.safe_load(contents.read_text(encoding="utf-8"))
    found: dict[str, dict[str, Path]] = {}
    for part in [{"caption": FIRST, "chapters": [{"file": table["root"]}]}, *table["parts"]]:
        paths = [BOOK.parent / f"{page['file']}.ipynb" for page in part["chapters"]]
        found[part["caption"]] = {path.stem: path for path in paths if path.is_file()}
    return found


def chapters() -> dict[str, Path]:
    """The book's notebooks by name, in reading order."""
    return {stem: path for part in parts().values() for stem, path in part.items()}


def select(names: Sequence[str]) -> dict[str, Path]:
    """The chapters meant by names or their beginnings, such as ``a2``; all for none. Raises ReproduceError for an unknown one."""
    available = chapters()
    chosen: dict[str, Path] = {}
    for name in names:
        matches = [stem for stem in available if stem == name or stem.startswith(f"{name}_")]
        if not matches:
            raise ReproduceError(f"no chapter {name!r}; there are {', '.join(available)}")
        chosen |= {stem: available[stem] for stem in matches}
    return chosen or available


def recorded_scale(dataset: str) -> str | None:
    """The largest scale at which a data set has a record, or None."""
    known = (scale for scale in reversed(SCALES) if dataset in BY_DATASET)
    return next((scale for scale in known if (records_dir() / on(dataset, scale, 0).id).is_dir()), None)


def reproduce(
    names: Sequence[str] = (),
    *,
    scale: str | None = None,
    seeds: Sequence[int] | None = None,
    dataset: str | None = None,
    device: str = "auto",
    refresh: bool = False,
    accept: bool = False,
    in_place: bool = False,
    jobs: int = 1,
) -> int:
    """Execute chapters and print a table of their claims.

    The pages that show what others report are executed behind these, however many jobs there are.

    Args:
        names: of chapters, such as ``a2``; none means all.
        scale, seeds, dataset: None leaves each chapter's own default, and for a data set the largest scale that is recorded; of all
            chapters, those without such a parameter go on without.
        accept: make the numbers found the published ones instead of checking them.
        in_place: store the executed notebooks in ``book/``; else under ``runs/chapters/``.
        jobs: chapters executed at a time, which share the cores; what two of them need is made once.

    Returns:
        0, or 1 if a chapter failed or a reported number or verdict differs from the published one.

    Raises:
        ReproduceError: unknown chapter, a named one without the parameter asked for, or papermill is not installed.
    """
    if importlib.util.find_spec("papermill") is None:
        raise ReproduceError("reproducing chapters needs the notebook packages: pip install 'snp-lib[book]'")
    scale = scale or (recorded_scale(dataset) if dataset is not None else None)
    asked = {"scale": scale, "seeds": None if seeds is None else ",".join(map(str, seeds)), "dataset": dataset}
    asked = {name: value for name, value in asked.items() if value is not None}
    defaults = {} if in_place and not asked else {"device": device, "refresh": refresh}  # a committed chapter shows its own
    chosen, failed, numbers = select(names), {}, []
    given = {stem: _given(path, asked, defaults, strict=bool(names)) for stem, path in chosen.items()}
    shared: dict[str, object] = {
        "SNP_DATA_DIR": data_dir(),
        "SNP_RUNS_DIR": runs_dir(),
        "SNP_RECORDS_DIR": records_dir(),
    }  # kernels start in book/
    shared |= {"SNP_ACCEPT": int(accept)} | ({"OMP_NUM_THREADS": max(1, (os.cpu_count() or 1) // jobs)} if jobs > 1 else {})
    with tempfile.TemporaryDirectory() as folder:
        target, logs = Path(folder) if in_place else runs_dir() / "chapters", {stem: Path(folder) / f"{stem}.jsonl" for stem in chosen}
        target.mkdir(parents=True, exist_ok=True)

        def execute(stem: str) -> str | None:
            return _execute(chosen[stem], target / chosen[stem].name, given[stem], shared | {"SNP_REPORT_LOG": logs[stem]})

        last = set(parts().get(LAST, {}))
        with concurrent.futures.ThreadPoolExecutor(jobs) as workers, tqdm(total=len(chosen), desc="chapters", unit="chapter") as bar:
            for stems in ([stem for stem in chosen if stem not in last], [stem for stem in chosen if stem in last]):
                waiting = {workers.submit(execute, stem): stem for stem in (from_the_middle(stems) if jobs > 1 else stems)}
                for done in concurrent.futures.as_completed(waiting):
                    stem = waiting[done]
                    if (reason := done.result()) is not None:
                        failed[stem] = reason
                    elif in_place:
                        executed = json.loads((target / chosen[stem].name).read_text(encoding="utf-8"))
                        chosen[stem].write_text(tidy(executed), encoding="utf-8")
                    bar.update()
        for log in (log for log in logs.values() if log.exists()):
            numbers += [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    print(table(numbers))
    for stem in (stem for stem in chosen if stem in failed):
        print(f"FAILED {stem}: {failed[stem]}")
    return 1 if failed else 0


def from_the_middle(names: Sequence[str]) -> list[str]:
    """The two in the middle first, then outwards in turn: the longest come early, and neighbours, which share trainings, not at once."""
    half = len(names) // 2
    return [name for pair in itertools.zip_longest(reversed(names[:half]), names[half:]) for name in pair if name is not None]


def _given(path: Path, asked: Mapping[str, Any], defaults: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    """Of these parameters those that a chapter has; raises ReproduceError if it lacks one asked for, where that is ``strict``."""
    import papermill

    known = papermill.inspect_notebook(str(path))
    if strict and (unknown := [name for name in asked if name not in known]):
        raise ReproduceError(f"chapter {path.stem} has no parameter {unknown[0]!r}; it has {', '.join(known)}")
    return {name: value for name, value in {**defaults, **asked}.items() if name in known}


def _execute(path: Path, output: Path, parameters: Mapping[str, Any], environment: Mapping[str, object]) -> str | None:
    """Execute one chapter, in a process of its own and in the folder it lies in; None, or why it failed."""
    command = [sys.executable, "-m", "papermill", str(path), str(output), "--cwd", str(path.parent), "--no-progress-bar"]
    if parameters:
        command += ["--parameters_base64", base64.b64encode(yaml.safe_dump(dict(parameters)).encode()).decode()]
    variables = os.environ | {name: str(value) for name, value in environment.items()}
    output.unlink(missing_ok=True)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if done.returncode == 0:
        return None
    cells = json.loads(output.read_text(encoding="utf-8"))["cells"] if output.exists() else []
    errors = [out for cell in cells for out in cell.get("outputs", []) if out["output_type"] == "error"]
    if not errors:
        return f"papermill ended with {done.returncode}: {done.stderr.strip()[-500:]}"
    return f"{errors[0]['ename']}: {errors[0]['evalue']}"


def table(numbers: Sequence[Mapping[str, Any]]) -> str:
    """One line per claim: its name, verdict, mean ± sd, n and scale; numbers that are no claim have no verdict.

    Args:
        numbers: the fields of :class:`snp_lib.book.reporting.Reported`, as chapters log them.
    """
    lines = [f"{'claim':32} {'verdict':16} {'ours':>22} {'n':>2} scale"]
    for number in (number for number in numbers if number["verdict"] is not None):
        ours = f"{number['mean']:.4g}" + ("" if number["sd"] is None else f" ± {number['sd']:.3g}")
        lines.append(f"{number['name']:32} {number['verdict']:16} {ours:>22} {number['n']:2} {number['scale']}")
    return "\n".join(lines) if len(lines) > 1 else "no claim was reported"
