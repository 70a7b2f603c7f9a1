"""The parameters of a chapter, looked at in its first cell: before anything is trained."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from snp_lib.experiments import BY_DATASET, SCALES, parse_seeds
from snp_lib.machine import choose_device

SWITCH = dict.fromkeys(("true", "yes", "1"), True) | dict.fromkeys(("false", "no", "0"), False)

GIVEN = "# Parameters"
"""How the cell begins that papermill puts behind the one of the chapter's own parameters."""


def check(names: dict[str, Any], **choices: Sequence[object]) -> None:
    """Check the parameters of the chapter that calls this, ``check(globals())``, and put text that was given in their types.

    What a parameter is says its annotation: for ``refresh: bool`` papermill's ``-p refresh false`` is no longer text. Seeds,
    scales, θ, device and data set are looked into as well. An empty text passes where it is the default.

    Args:
        names: of the notebook, with IPython's ``In``.
        choices: the only values of a parameter, such as ``theta=(0.2, 0.3)``.

    Raises:
        ValueError: an unknown parameter, or a value that it cannot have, in one sentence.
    """
    declared, given = _declared(names.get("In", [])), _given(names.get("In", []))
    if unknown := [name for name in given if name not in declared]:
        raise ValueError(f"no parameter {unknown[0]!r}; this chapter has {', '.join(declared)}")
    for name, (kind, default) in declared.items():
        names[name] = value = _typed(name, names[name], kind)
        if not (value == "" == default):
            _look_into(name, value)
        if name in choices and value not in choices[name]:
            raise ValueError(f"{name} must be one of {', '.join(map(str, choices[name]))}, got {value!r}")


def _declared(cells: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Annotated names of the chapter's cells with the type and the default that they write down."""
    nodes = [node for cell in cells for node in _statements(cell) if isinstance(node, ast.AnnAssign)]
    return {
        node.target.id: (ast.unparse(node.annotation), ast.literal_eval(node.value))
        for node in nodes
        if isinstance(node.target, ast.Name) and isinstance(node.value, ast.Constant)
    }


def _given(cells: Sequence[str]) -> list[str]:
    """Names that papermill has set."""
    nodes = [node for cell in cells if cell.startswith(GIVEN) for node in _statements(cell) if isinstance(node, ast.Assign)]
    return [target.id for node in nodes for target in node.targets if isinstance(target, ast.Name)]


def _statements(cell: str) -> list[ast.stmt]:
    try:
        return ast.parse(cell).body
    except SyntaxError:  # a cell of IPython's own commands
        return []


def _typed(name: str, value: Any, kind: str) -> Any:
    """A value as its annotation has it; raises ValueError where it says no such thing."""
    text = str(value).strip()
    if kind == "bool":
        if text.lower() not in SWITCH:
            raise ValueError(f"{name} is yes or no: expected true, false, yes, no, 1 or 0, got {value!r}")
        return SWITCH[text.lower()]
    if kind == "str":
        if isinstance(value, (bool, float)):
            raise ValueError(f"{name} must be text, got {value!r}")
        return text
    try:
        return {"int": int, "float": float}[kind](text)
    except ValueError:
        raise ValueError(f"{name} must be {'a whole number' if kind == 'int' else 'a number'}, got {value!r}") from None


def _look_into(name: str, value: Any) -> None:
    """Raise ValueError if a parameter of this name cannot have this value."""
    if name.endswith("seeds"):
        try:
            parse_seeds(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    elif name in RULES:
        RULES[name](name, value)


def _one_of(allowed: Mapping[str, object] | Sequence[str]) -> Callable[[str, Any], None]:
    def rule(name: str, value: Any) -> None:
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(filter(None, allowed))}, got {value!r}")

    return rule


def _threshold(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is a threshold from 0 up to, but not, 1; got {value}")


RULES: dict[str, Callable[[str, Any], Any]] = {
    "scale": _one_of(SCALES),
    "large": _one_of(("", *SCALES)),
    "dataset": _one_of(BY_DATASET),
    "device": lambda name, value: choose_device(value),
    "theta": _threshold,
}
"""What is asked of parameters besides their type, by name; of names that end in seeds, distinct numbers."""
