"""The experiments of paper B: the compact transformer with other heads, and with convolutions in place of its first encoders."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from snp_lib.experiments.experiment import SCALES, Entry, Experiment, Scale
from snp_lib.experiments.paper_a import cct
from snp_lib.models import configuration
from snp_lib.models.cct import CCTConfig
from snp_lib.models.fronts import FORMS

HEADS: dict[Scale, tuple[int, ...]] = {
    "smoke": (2, 16),
    "small": (2, 8, 16, 32),
    "medium": (2, 8, 16, 32, 64, 128),
    "paper": (8, 16, 32, 64, 128),
}
"""Numbers of heads besides the four of ``cct``, at the same width: more heads are narrower."""

WIDE: dict[Scale, tuple[int, ...]] = {"smoke": (2,), "small": (2, 8), "medium": (2, 8), "paper": (2, 8)}
"""As a control, numbers of heads as wide as those of ``cct``, so that the width of the network grows with them."""

DEEPER: dict[Scale, tuple[int, ...]] = {"smoke": (2,), "small": (2, 3), "medium": (2, 3), "paper": (2, 3)}
"""Encoders that are left out at the front where it is more than one, with one full convolution or nothing in their place."""

FRONTS: dict[str, dict[str, Any]] = {
    "": {},
    "-full1": {"front": "full", "front_layers": 1},
    "-narrow2": {"front": "narrow", "front_layers": 2},
    "-separable2": {"front": "separable", "front_layers": 2},
}
"""What stands in place of the first encoder, by the end of the name; nothing is the control, the mere cut."""

SHORTCUTS: dict[str, dict[str, Any]] = {f"{name}-shortcut": form | {"front_shortcut": True} for name, form in FRONTS.items() if form}
"""The same fronts with a shortcut around each of their layers."""

HEAD_SITES = ("mha",)
"""Kinds of sites that are read in a network with other heads."""

NODE_SITES = ("mha", "ff_hidden")
"""The same behind convolutions."""


def heads_of(base: Experiment) -> int:
    """Heads of each encoder of an experiment."""
    return _shape(base).num_heads


def heads_changed(base: Experiment, heads: int, *, wide: bool = False) -> Experiment:
    """An experiment with another number of heads, of the same width altogether or, ``wide``, of the same width each."""
    shape = _shape(base)
    options = {"num_heads": heads} | ({"embed_dim": shape.embed_dim // shape.num_heads * heads} if wide else {})
    name, readout = f"{base.name}-h{heads}{'-wide' if wide else ''}", replace(base.readout, kinds=HEAD_SITES)
    return base.vary(name, model_options=base.model_options | options, readout=readout, snapshots=None)


def without_first(base: Experiment, encoders: int, front: str = "") -> Experiment:
    """An experiment without its first encoders, and with convolutions in their place.

    The run is lean but for the networks of the committees: one encoder out and one of ``FRONTS``.

    Args:
        front: form and number of layers, such as ``-narrow2``, with ``-shortcut`` behind it for one around each layer;
            empty: nothing.

    Raises:
        ValueError: no encoder would be left, or an unknown front.
    """
    shape = _shape(base)
    if not 1 <= encoders < shape.depth:
        raise ValueError(f"{base.model} has {shape.depth} encoders: between 1 and {shape.depth - 1} can go, not {encoders}")
    kept = {name: getattr(shape, name) for name in ("embed_dim", "num_heads", "mlp_ratio")}  # other depths have other defaults
    return base.vary(
        f"{base.name}-k{encoders}{front}",
        model=base.model.replace(f"_{shape.depth}_", f"_{shape.depth - encoders}_"),
        model_options=base.model_options | kept | _front(front),
        readout=replace(base.readout, kinds=NODE_SITES),
        snapshots=None,
        lean=None if encoders == 1 and front in FRONTS else True,
    )


def _front(name: str) -> dict[str, Any]:
    if not name:
        return {}
    found = re.fullmatch(rf"-({'|'.join(FORMS)})([1-9])(-shortcut)?", name)
    if found is None:
        raise ValueError(f"no front {name!r}; a name is -FORM and a number of layers, with or without -shortcut; forms: {', '.join(FORMS)}")
    return {"front": found[1], "front_layers": int(found[2])} | ({"front_shortcut": True} if found[3] else {})


def variant(base: Experiment, name: str) -> Experiment | None:
    """The variant of that name, in the catalogue or not, such as ``cct-h64``, ``cct-h8-wide`` or ``cct-k3-full2-shortcut``.

    None for a name that is no variant's.

    Raises:
        ValueError: a variant that this experiment cannot have.
    """
    if found := re.fullmatch(rf"{base.name}-h(\d+)(-wide)?", name):
        return heads_changed(base, int(found[1]), wide=bool(found[2]))
    if found := re.fullmatch(rf"{base.name}-k(\d+)(-.+)?", name):
        return without_first(base, int(found[1]), found[2] or "")
    return None


def variants() -> dict[str, Entry]:
    """The catalogue's entries for all variants of the compact transformer."""
    entries: dict[str, Entry] = {}

    def add(change: Callable[[Experiment], Experiment], scales: list[Scale], summary: str) -> None:
        cost: dict[Scale, str] = dict.fromkeys(scales, "about as cct; more heads take longer")
        entries[change(cct(scales[0], 0)).name] = Entry(build=lambda scale, seed: change(cct(scale, seed)), summary=summary, cost=cost)

    for count in _counts(HEADS):
        add(functools.partial(heads_changed, heads=count), _scales(HEADS, count), f"cct with {count} heads")
    for count in _counts(WIDE):
        add(
            functools.partial(heads_changed, heads=count, wide=True),
            _scales(WIDE, count),
            f"cct with {count} heads, each as wide as its own",
        )
    for front in FRONTS | SHORTCUTS:
        add(
            functools.partial(without_first, encoders=1, front=front),
            list(SCALES),
            f"cct, {_in_words(front)} in place of the first encoder",
        )
    for count in _counts(DEEPER):
        for front in ("", "-full1"):
            change = functools.partial(without_first, encoders=count, front=front)
            add(change, _scales(DEEPER, count), f"cct, {_in_words(front)} in place of the first {count} encoders")
    return entries


def _in_words(front: str) -> str:
    """What stands in the encoders' place, in words."""
    options = _front(front)
    if not options:
        return "nothing"
    residual = ", residual" if "front_shortcut" in options else ""
    return f"{options['front_layers']} × {options['front']} convolution{residual}"


def in_place(names: Iterable[str]) -> dict[str, str]:
    """What stands in the place of the first encoders, in words: name such as ``cct-k1-full1`` → ``1 × full convolution``.

    Networks that lack another number of encoders than one say so; one that lacks none is ``all encoders``.
    """
    words = {}
    for name in names:
        parts = re.fullmatch(r".+?-k(\d+)(-.+)?", name)
        many = f" for {parts[1]} encoders" if parts and parts[1] != "1" else ""
        words[name] = f"{_in_words(parts[2] or '')}{many}" if parts else "all encoders"
    return words


def _counts(table: dict[Scale, tuple[int, ...]]) -> list[int]:
    return sorted({count for counts in table.values() for count in counts})


def _scales(table: dict[Scale, tuple[int, ...]], count: int) -> list[Scale]:
    return [scale for scale, counts in table.items() if count in counts]


def _shape(base: Experiment) -> CCTConfig:
    config = configuration(base.model, num_classes=1, **base.model_options)
    assert isinstance(config, CCTConfig)  # variants are those of compact transformers
    return config


def head_counts(scale: Scale, asked: str = "") -> list[int]:
    """Numbers of heads that there are at a scale for the same width, that of ``cct`` among them, ascending.

    Args:
        asked: some of them, such as ``"2,16"``; empty: all.

    Raises:
        ValueError: a number that the scale has not, or a single one, which compares with none.
    """
    there = sorted({heads_of(cct(scale, 0)), *HEADS[scale]})
    chosen = sorted(int(part) if part.strip().isdigit() else 0 for part in asked.split(",")) if asked.strip() else there
    if len(set(chosen)) != len(chosen) or not set(chosen) <= set(there) or len(chosen) < 2:
        raise ValueError(f"scale {scale!r} has networks of {', '.join(map(str, there))} heads: name two of them or more, got {asked!r}")
    return chosen


def convolutions_first(*, shortcut: bool = False) -> dict[str, str]:
    """The compact transformers with convolutions in place of their first encoder, each with its control.

    Args:
        shortcut: those with a shortcut around each convolution; their control is the same without it. Else the control is
            nothing in that place.
    """
    if shortcut:
        return {f"cct-k1{front}": f"cct-k1{front.removesuffix('-shortcut')}" for front in SHORTCUTS}
    return {f"cct-k1{front}": "cct-k1" for front in FRONTS if front}


def with_heads(count: int, scale: Scale, seed: int, *, wide: bool = False) -> Experiment:
    """The compact transformer of that many heads: ``cct`` itself or one of its variants.

    Args:
        wide: each head as wide as those of ``cct``, so that the network widens with their number.

    Raises:
        ValueError: a number that the scale has not, listing those it has.
    """
    own = heads_of(cct(scale, 0))
    if count not in (counts := sorted({own, *WIDE[scale]}) if wide else head_counts(scale)):
        raise ValueError(f"at scale {scale} there are networks of {', '.join(map(str, counts))} {'wide ' * wide}heads, not of {count}")
    return cct(scale, seed) if count == own else heads_changed(cct(scale, seed), count, wide=wide)
