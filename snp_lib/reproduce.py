"""Run chapters from their notebooks with papermill, and collect what they report."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from snp_lib.paths import BOOK, runs_dir
from snp_lib.reporting import Reported, load_claims


class ReproduceError(RuntimeError):
    """A chapter does not exist, or the notebook packages are missing."""


def chapters() -> dict[str, Path]:
    """The book's notebooks by name, in reading order."""
    return {path.stem: path for path in sorted(BOOK.glob("[0-9]*.ipynb"))}


def select(names: Sequence[str]) -> dict[str, Path]:
    """The chapters meant by numbers or names; all of them for none. Raises ReproduceError for an unknown one."""
    available = chapters()
    chosen: dict[str, Path] = {}
    for name in names:
        matches = [stem for stem in available if stem == name or stem.split("_")[0] == name.zfill(2)]
        if not matches:
            raise ReproduceError(f"no chapter {name!r}; there are {', '.join(available)}")
        chosen |= {stem: available[stem] for stem in matches}
    return chosen or available


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

    Args:
        names: chapter numbers or names; none means all.
        scale, seeds, dataset: None leaves each chapter's own default.
        accept: make the numbers found the published ones instead of checking them.
        in_place: store the executed notebooks in ``book/``; else under ``runs/chapters/``.
        jobs: chapters executed at a time, which share the cores; what two of them need is made once.

    Returns:
        0, or 1 if a chapter failed or a reported number or verdict differs from the published one.

    Raises:
        ReproduceError: unknown chapter, papermill is not installed, or several jobs are to accept numbers.
    """
    try:
        import papermill
    except ImportError as error:
        raise ReproduceError("reproducing chapters needs the notebook packages: pip install 'snp-lib[book]'") from error
    if accept and jobs > 1:
        raise ReproduceError("numbers are accepted one chapter at a time: leave out the jobs, or do not accept")
    chosen = select(names)
    parameters: dict[str, Any] = {"device": device, "refresh": refresh}
    if scale is not None:
        parameters["scale"] = scale
    if seeds is not None:
        parameters["seeds"] = ",".join(map(str, seeds))
    if dataset is not None:
        parameters["dataset"] = dataset
    failed: dict[str, str] = {}
    numbers: list[Reported] = []
    own_process = multiprocessing.get_context("spawn")  # a fork of torch's threads may hang
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ProcessPoolExecutor(jobs, own_process) as workers:
        waiting: dict[concurrent.futures.Future[str | None], str] = {}
        outputs = {stem: (Path(folder) if in_place else runs_dir() / "chapters") / path.name for stem, path in chosen.items()}
        logs = {stem: Path(folder) / f"{stem}.jsonl" for stem in chosen}
        for stem, path in chosen.items():
            known = papermill.inspect_notebook(str(path))
            given = {k: v for k, v in parameters.items() if k in known}
            if in_place and scale is None and seeds is None and dataset is None:
                given = {}  # the committed chapter shows its own defaults
            outputs[stem].parent.mkdir(parents=True, exist_ok=True)
            environment = {"SNP_REPORT_LOG": str(logs[stem]), "SNP_ACCEPT": "1" if accept else "0"}
            if jobs > 1:
                environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
            waiting[workers.submit(_execute, path, outputs[stem], given, environment)] = stem
        for done in tqdm(concurrent.futures.as_completed(waiting), total=len(waiting), desc="chapters", unit="chapter"):
            stem = waiting[done]
            if (reason := done.result()) is not None:
                failed[stem] = reason
            elif in_place:
                chosen[stem].write_text(tidy(json.loads(outputs[stem].read_text())))
        for log in (log for log in logs.values() if log.exists()):
            numbers += [Reported(**json.loads(line)) for line in log.read_text().splitlines()]
    print(table(numbers))
    for stem, reason in failed.items():
        print(f"FAILED {stem}: {reason}")
    return 1 if failed else 0


def _execute(path: Path, output: Path, parameters: Mapping[str, Any], environment: Mapping[str, str]) -> str | None:
    """Execute one chapter in the folder it lies in; None, or why it failed."""
    import papermill

    os.environ.update(environment)
    try:
        papermill.execute_notebook(str(path), str(output), dict(parameters), cwd=str(path.parent), progress_bar=False)
    except papermill.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    return None


def table(numbers: Sequence[Reported]) -> str:
    """One line per claim: verdict, mean ± sd, n, scale and the claim in words."""
    claims = load_claims()
    lines = [f"{'claim':32} {'verdict':16} {'ours':>22} {'n':>2} scale"]
    for number in numbers:
        if number.name in claims:
            spread = "" if number.sd is None else f" ± {number.sd:.3g}"
            lines.append(f"{number.name:32} {number.verdict or '':16} {f'{number.mean:.4g}{spread}':>22} {number.n:2} {number.scale}")
    return "\n".join(lines) if len(lines) > 1 else "no claim was reported"


def tidy(notebook: dict[str, Any]) -> str:
    """An executed notebook as committed: without what papermill adds, without times, widgets without their defaults."""
    notebook["metadata"].pop("papermill", None)
    notebook["cells"] = [c for c in notebook["cells"] if "injected-parameters" not in c["metadata"].get("tags", [])]
    for cell in notebook["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
    for widgets in notebook["metadata"].get("widgets", {}).values():
        for model in widgets["state"].values():
            model["state"] = {key: value for key, value in model["state"].items() if value is not None}
        widgets["state"] = _named_in_order(notebook, widgets["state"])
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _named_in_order(notebook: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """Widget models renamed by where they stand, so that the same widgets give the same text; views in cells follow.

    First those shown and what they contain, then those that link them, by what they link.
    """
    refers = {name: re.findall(r"IPY_MODEL_(\w+)", json.dumps(model, sort_keys=True)) for name, model in state.items()}
    views = [
        output["data"]["application/vnd.jupyter.widget-view+json"]
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    names: dict[str, str] = {}

    def visit(name: str) -> None:
        waiting = [name]
        while waiting:
            if (current := waiting.pop()) in state and current not in names:
                names[current] = f"{len(names):032x}"
                waiting.extend(reversed(refers[current]))

    def standing(name: str) -> tuple[list[str], str]:
        return [names.get(other, "") for other in refers[name]], json.dumps(state[name], sort_keys=True)

    for view in views:
        visit(view["model_id"])
    for name in sorted((name for name in state if name not in names), key=standing):
        visit(name)
    for view in views:
        view["model_id"] = names.get(view["model_id"], view["model_id"])
    text = re.sub(r"IPY_MODEL_(\w+)", lambda match: f"IPY_MODEL_{names.get(match[1], match[1])}", json.dumps(state))
    renamed = {names[name]: model for name, model in json.loads(text).items()}
    return dict(sorted(renamed.items()))
