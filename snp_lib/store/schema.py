"""What may stand in a manifest: every field with its type and range, for both kinds of manifest (defined here)."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

Check = Callable[[Any, str], None]
"""Takes a JSON value and the name of its field; raises ValueError, naming the field, for a value that may not stand there."""


def plain(what: str, fits: Callable[[Any], bool]) -> Check:
    """A check that a value fits; ``what`` says in words what would."""

    def check(value: Any, name: str) -> None:
        try:
            fitting = fits(value)
        except (TypeError, ValueError, KeyError):
            fitting = False
        if not fitting:
            raise ValueError(f"{name} must be {what}, not {value!r:.60}")

    return check


def integer(least: int) -> Check:
    """An integer from ``least`` to 2⁵³; true and false are none."""
    return plain(f"an integer of at least {least}", lambda value: type(value) is int and least <= value <= 2**53)


def number(least: float, most: float = 1e300) -> Check:
    """A finite number from ``least`` to ``most``."""
    return plain(f"a number in [{least:g}, {most:g}]", lambda value: type(value) in (int, float) and least <= value <= most)


def text(pattern: str, what: str) -> Check:
    """A text that the pattern describes in full."""
    return plain(what, lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII | re.DOTALL) is not None)


def each(check: Check, least: int = 0) -> Check:
    """A list of at least so many values that all pass the check."""

    def all_of(values: Any, name: str) -> None:
        if not isinstance(values, list) or len(values) < least:
            raise ValueError(f"{name} must be a list of at least {least}, not {values!r:.60}")
        for index, value in enumerate(values):
            check(value, f"{name}[{index}]")

    return all_of


def named(key: Check, check: Check) -> Check:
    """At least one value by name, whatever the names, all of which pass the first check, as the values pass the second."""

    def all_of(values: Any, name: str) -> None:
        if not isinstance(values, dict) or not values:
            raise ValueError(f"{name} must hold values by name, not {values!r:.60}")
        for field, value in values.items():
            key(field, f"a name in {name}")
            check(value, f"{name}.{field}")

    return all_of


def record(fields: dict[str, Check], **optional: Check) -> Check:
    """Exactly these fields, with or without the optional ones."""

    def all_of(values: Any, name: str) -> None:
        if not isinstance(values, dict):
            raise ValueError(f"{name or 'a manifest'} must hold fields by name, not {values!r:.60}")
        within = f" of {name}" if name else ""
        if missing := fields.keys() - values.keys():
            raise ValueError(f"the field {min(missing)}{within} is missing")
        known = fields | optional
        for field, value in values.items():
            if field not in known:
                raise ValueError(f"the field {field!r:.60}{within} is unknown")
            known[field](value, f"{name}.{field}" if name else field)

    return all_of


SHARE = number(0, 1)
BOOLEAN = plain("true or false", lambda value: type(value) is bool)
OBJECT = plain("an object", lambda value: isinstance(value, dict))
LINE = plain("a line of text", lambda value: isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200)
LABEL = plain("a text", lambda value: isinstance(value, str) and value.encode() is not None)  # a lone surrogate has no bytes
SHA256 = text("[0-9a-f]{64}", "a SHA-256 in hex digits")
HASH = text("[0-9a-f]{12}", "12 hex digits")
DATE = plain("a date such as 2026-11-26", lambda value: datetime.date.fromisoformat(value).isoformat() == value)
SITE = text(r"stem|block[1-9]\d{0,3}(\.[a-z_]{1,40})?", "a site such as block1.mha")
FILE = text(r"arrays\.npz|(weights|snapshot-\d{3,9})\.safetensors", "a file of a run")

_RATE = plain("a positive number or null", lambda value: value is None or (type(value) is float and 0 < value <= 1e300))
_RECIPE = plain("an object with epochs", lambda value: type(value["epochs"]) is int and 0 < value["epochs"] < 10**6)
_ROW = {
    **{"epoch": integer(1), "lr": number(0), "train_loss": number(-1e300), "train_accuracy": SHARE},
    **{"seconds": number(0), "images_per_second": _RATE},
}
_EXPERIMENT = {  # what stands inside is compared with the catalogue, field by field
    **{"name": LINE, "scale": LINE, "seed": integer(0), "dataset": LINE, "model": LINE},
    **{"model_options": OBJECT, "recipe": _RECIPE, "readout": OBJECT},
}

RUN = record(
    {
        "format": LINE,
        "digest": SHA256,
        "experiment": record(_EXPERIMENT, dataset_size=integer(1), snapshots=each(integer(0)), lean=BOOLEAN, order_seed=integer(0)),
        "model": OBJECT,  # compared with the catalogue too
        "hash": HASH,
        "training_hash": HASH,
        "libraries": named(LINE, LINE),
        "device": LINE,
        "training_seconds": number(0),
        "data_checksum": SHA256,
        "class_names": each(LABEL, least=1),
        "date": DATE,
        "history": each(record(_ROW, test_accuracy=SHARE), least=1),
        "code": LINE,
        "metrics": record({"test_accuracy": SHARE, "readout_accuracy": named(SITE, SHARE), "parameters": integer(1)}),
        "sites": named(SITE, integer(1)),
        "num_heads": integer(0),
        "files": named(FILE, SHA256),
    },
    # the earliest runs did not say
    processes=integer(1),
    threads=integer(1),
    precision=text("float32|bfloat16", "float32 or bfloat16"),
    compiled=BOOLEAN,
)
"""The manifest of a run."""

DERIVED = record(
    {
        **{"format": LINE, "digest": SHA256, "experiment": LINE, "run": SHA256, "options": OBJECT},
        **{"code": LINE, "date": DATE, "sha256": SHA256},
    }
)
"""The manifest of a measurement that hangs off a run."""
