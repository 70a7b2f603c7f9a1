"""The walls of the house: who may import whom, how large a room may be, and that no two names differ by an ending."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parent.parent / "snp_lib"

FLOORS = (
    ("machine", "plots"),
    ("models",),
    ("data",),
    ("training", "latency"),
    ("performance", "analysis", "pruning"),
    ("experiments",),
    ("store",),
    ("book", "interactive"),
    ("results",),
    ("cli", "__init__"),
)
"""Rooms from the ground up: each may import from the floors below it, and from those beside it only what BESIDE allows."""

BESIDE = {("pruning", "training"), ("book", "interactive"), ("interactive", "plots")}
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
LINES = 350
ENDINGS = ("ings", "ing", "eds", "ed", "ers", "er", "ions", "ion", "es", "s", "e")


def room_of(module: str) -> str:
    """``snp_lib.store.runs`` to ``store``, ``snp_lib`` itself to ``__init__``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of ours, wherever in the file it stands, but for those that only types need."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, room_of(alias.name)) for alias in node.names if alias.name.split(".")[0] == "snp_lib")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "snp_lib":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, room_of(inner) if node.module == "snp_lib" and inner.split(".")[1] in FLOOR else room_of(node.module)
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(f"{path.relative_to(root)}:{node.lineno} imports relatively; name the module in full")


def upward(root: Path) -> list[str]:
    """Every import from a room that does not lie below, as ``file:line room → room``."""
    wrong = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        room = parts[0].removesuffix(".py")
        for line, other in imports(path, root):
            if other != room and room != "__init__" and (room, other) not in BESIDE and FLOOR[other] >= FLOOR[room]:
                wrong.append(f"{path.relative_to(root)}:{line} {room} → {other}")
    return wrong


def test_every_import_points_down() -> None:
    assert upward(LIBRARY) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/sites.py", "from snp_lib.training.recipe import Recipe"),
        ("performance/clusters.py", "from snp_lib.store import Run"),
        ("store/runs.py", "from snp_lib.results import measure"),
        ("plots/style.py", "from snp_lib.performance import THETA"),
        ("training/loop.py", "import snp_lib.experiments.catalogue"),
        ("analysis/ablation.py", "from snp_lib import performance"),
    ],
)
def test_an_import_turned_round_is_named(file: str, line: str, tmp_path: Path) -> None:
    for path in LIBRARY.rglob("*.py"):
        target = tmp_path / path.relative_to(LIBRARY)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text(encoding="utf-8") + (f"\n{line}\n" if path == LIBRARY / file else ""), encoding="utf-8")
    (wrong,) = upward(tmp_path)
    assert wrong.startswith(f"{file}:")


def test_the_root_is_a_hall_and_no_store_room() -> None:
    modules = [path.name for path in LIBRARY.glob("*.py")]
    assert len(modules) <= 8, modules
    rooms = {path.name for path in LIBRARY.iterdir() if path.is_dir() and path.name != "__pycache__"} | {
        Path(name).stem for name in modules
    }
    assert rooms == FLOOR.keys()


def test_no_file_is_two_ideas() -> None:
    lengths = {str(path.relative_to(LIBRARY)): len(path.read_text(encoding="utf-8").splitlines()) for path in LIBRARY.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def stem(name: str) -> str:
    """A name without its ending."""
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending) and len(name) > len(ending) + 3), name)


def test_no_two_names_differ_by_an_ending() -> None:
    names = {path.stem for path in LIBRARY.rglob("*.py")} | {path.name for path in LIBRARY.iterdir() if path.is_dir()}
    alike = [pair for pair in itertools.combinations(sorted(names), 2) if stem(pair[0]) == stem(pair[1])]
    assert alike in ([], [("experiment", "experiments")])  # a room, and the file in it that says what one is


def test_tests_mirror_the_rooms() -> None:
    tests = Path(__file__).resolve().parent
    rooms = {path.name for path in tests.iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert rooms <= FLOOR.keys()
    assert {room for room in FLOOR if (LIBRARY / room).is_dir()} - rooms == set(), "a room without tests of its own"


MEASURING = ("performance", "analysis", "pruning", "results")
"""Rooms that must not know what inputs are: what holds for images holds for texts without a line of their own."""


def kinds_of_inputs(path: Path) -> list[str]:
    """What in a file knows images from texts: an import of what makes either, or a type of numbers that only one of them has."""
    tree, known = ast.parse(path.read_text(encoding="utf-8")), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("snp_lib.data", "snp_lib.models", "snp_lib.experiments"):
            known += [f"imports {alias.name}" for alias in node.names if alias.name in ("text", "images", "languages", "bags", "cct")]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            known += [
                f"imports {name}" for name in names if re.match(r"snp_lib\.(data|models|experiments)\.(text|images|languages|bags)", name)
            ]
        elif isinstance(node, (ast.If, ast.IfExp, ast.Compare)):
            test = ast.unparse(node if isinstance(node, ast.Compare) else node.test)
            known += [test for word in (".dtype == torch.", "'text", '"text', "TokenPreparation", "isinstance(model, Text") if word in test]
    return known


def test_what_measures_does_not_ask_whether_inputs_are_texts(tmp_path: Path) -> None:
    found = {str(path): kinds_of_inputs(path) for room in MEASURING for path in (LIBRARY / room).rglob("*.py")}
    assert {path: known for path, known in found.items() if known} == {}
    for line in (
        "from snp_lib.data import text",
        "import snp_lib.models.text",
        "if inputs.dtype == torch.int64: pass",
        "x = name == 'text'",
    ):
        (tmp_path / "wrong.py").write_text(line, encoding="utf-8")
        assert kinds_of_inputs(tmp_path / "wrong.py"), line


def test_text_is_read_and_written_as_utf8_by_name() -> None:
    """ruff's PLW1514 sees only what it knows to be a path; this sees every call of the name."""
    project, wrong = LIBRARY.parent, []
    for path in (path for folder in ("snp_lib", "tests", "benchmarks", "book/_ext") for path in (project / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _reads_text(node) and not any(word.arg in ("encoding", None) for word in node.keywords):
                wrong.append(f"{path.relative_to(project)}:{node.lineno}")
    assert wrong == []


def _reads_text(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    if name in ("read_text", "write_text"):
        return True
    foreign = (
        isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id in ("Image", "os", "tarfile")
    )
    given = call.args[1:2] if isinstance(function, ast.Name) else call.args[:1]
    modes = [
        argument.value
        for argument in (*given, *(word.value for word in call.keywords if word.arg == "mode"))
        if isinstance(argument, ast.Constant)
    ]
    return name == "open" and not foreign and not any("b" in str(mode) for mode in modes)
