"""The files that describe the environment agree, and what is committed stays small, portable and in order."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((PROJECT / "book").glob("*.ipynb"))
METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN = ("vendor/", "test_environment.py")  # other people's scripts, and the patterns below


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(PROJECT), "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := PROJECT / name).is_file()]


def pins() -> dict[str, list[Version]]:
    """Package → pinned versions in constraints.txt."""
    found: dict[str, list[Version]] = {}
    for line in (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, equal, version = line.partition("==")
            assert equal, f"constraints.txt pins nothing in {line!r}"
            found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


def requirements() -> list[Requirement]:
    optional = {
        name: group for name, group in METADATA["optional-dependencies"].items() if name not in ("kernels", "fleet")
    }  # torch pins Triton, a cluster its Ray
    groups = [METADATA["dependencies"], *optional.values()]
    return [r for group in groups for text in group if (r := Requirement(text)).name != METADATA["name"]]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_each_dependency_is_pinned_once_within_its_range(requirement: Requirement) -> None:
    versions = pins().get(canonicalize_name(requirement.name), [])
    assert len(versions) == 1, f"constraints.txt pins {requirement.name} {len(versions)} times"
    assert versions[0] in requirement.specifier


def test_conda_environment_installs_the_same_set() -> None:
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert [entry.split()[0] for entry in conda] == ["python", "pip"]
    assert SpecifierSet(conda[0].split(maxsplit=1)[1]) == SpecifierSet(METADATA["requires-python"])
    assert pip == {"pip": ["-c constraints.txt", "-e .[dev]"]}


def test_makefile_installs_the_same_set() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert '-c constraints.txt -e ".[dev]"' in makefile
    oldest = Version(METADATA["requires-python"].removeprefix(">="))
    assert f"sys.version_info >= ({oldest.major}, {oldest.minor})" in makefile


def test_no_tracked_file_names_a_place_on_one_machine() -> None:
    machine_path = re.compile(r"(?<![\w.~-])/(?:work|home|root|Users|tmp|opt|mnt)/[\w.-]")
    for path in tracked():
        if path.as_posix().endswith(OWN) or any(part in path.as_posix() for part in OWN):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # arrays and pictures
        found = machine_path.search(text)
        assert not found, f"{path.relative_to(PROJECT)} names {text[found.start() : found.end() + 20]!r}"


def test_no_tracked_file_is_a_pickle() -> None:
    assert not [path.name for path in tracked() if path.suffix in {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt"}]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_chapter_has_commented_typed_parameters(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, 4).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    parameters = papermill.inspect_notebook(str(path))
    assert parameters
    for name, parameter in parameters.items():
        assert parameter["help"], f"{name} has no comment"
        assert parameter["inferred_type_name"] not in (None, "None"), f"{name} has no type"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_chapter_is_stored_with_outputs_and_without_errors(path: Path) -> None:
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs, "execute it with `snp reproduce --in-place`"
    assert not [output.evalue for output in outputs if output.output_type == "error"]
    assert all(cell.execution_count for cell in code)


def test_records_are_small() -> None:
    sizes: dict[str, int] = {}
    for path in tracked():
        if path.is_relative_to(PROJECT / "data" / "records"):
            parts = path.relative_to(PROJECT / "data" / "records").parts
            run = "/".join(parts[: 2 if parts[0] == "derived" else 1])
            sizes[run] = sizes.get(run, 0) + path.stat().st_size
    assert all(size <= 8_000_000 for size in sizes.values()), sizes
    # a member of a committee cannot do without its test logits, 1.24 MB: those of chapter B2 are a third of this
    assert sum(sizes.values()) <= 150_000_000
