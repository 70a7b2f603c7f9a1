"""Parameters of a chapter are checked in its first cell: text gets its type, a wrong one its sentence."""

from __future__ import annotations

from typing import Any

import pytest
from shared import unchecked

from snp_lib.book.parameters import check

CELL = """\
scale: str = "small"  # a comment
seeds: str = "0,1,2"
head_seeds: str = ""
large: str = "medium"
dataset: str = "cifar100"
device: str = "cpu"
refresh: bool = False
theta: float = 0.3
count: int = 3
"""


def given(**values: Any) -> dict[str, Any]:
    """A notebook's names behind the first cell and what papermill puts behind it."""
    injected = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in values.items())
    names: dict[str, Any] = {"In": ["", CELL, injected, "%matplotlib inline\nshown: str = theta"]}
    for cell in names["In"][1:3]:
        exec(cell, names)
    check(names)
    return names


@pytest.mark.parametrize(
    ("text", "meant"), [("false", False), ("No", False), ("0", False), (0, False), ("TRUE", True), ("yes", True), (1, True)]
)
def test_switches_as_text(text: Any, meant: bool) -> None:
    assert given(refresh=text)["refresh"] is meant


def test_what_papermill_makes_of_a_number_is_put_right() -> None:
    names = given(seeds=0, theta="0.4", count="7")
    assert (names["seeds"], names["theta"], names["count"]) == ("0", 0.4, 7)
    assert given(large="")["large"] == ""  # no scale to hold beside it
    assert given()["refresh"] is False


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"refresh": "maybe"}, "refresh is yes or no: .*'maybe'"),
        ({"refresh": 2}, "refresh is yes or no"),
        ({"theta": "high"}, "theta must be a number, got 'high'"),
        ({"theta": 2}, "theta is a threshold .* got 2.0"),
        ({"theta": "nan"}, "theta is a threshold"),
        ({"count": 1.5}, "count must be a whole number, got 1.5"),
        ({"tetha": 0.4}, "no parameter 'tetha'; this chapter has scale, seeds, "),
        ({"seeds": "0,0"}, "seeds: expected distinct seeds"),
        ({"seeds": ""}, "seeds: expected distinct seeds"),
        ({"seeds": 1.5}, "seeds must be text, got 1.5"),
        ({"head_seeds": "x"}, "head_seeds: expected distinct seeds"),
        ({"scale": "tiny"}, "scale must be one of smoke, small, medium, paper, got 'tiny'"),
        ({"large": "tiny"}, "large must be one of"),
        ({"dataset": "mnist"}, "dataset must be one of cifar100, "),
        ({"device": "tpu"}, "device must be auto, cpu or cuda"),
    ],
)
def test_wrong_parameters_are_named(values: dict[str, Any], sentence: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=sentence):
        given(**values)


def test_choices_of_a_chapter() -> None:
    names = given(theta=0.5)
    check(names, theta=(0.3, 0.5))
    with pytest.raises(ValueError, match=r"theta must be one of 0\.2, 0\.3, got 0\.5"):
        check(names, theta=(0.2, 0.3))
