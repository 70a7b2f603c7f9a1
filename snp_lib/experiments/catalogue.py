"""Every experiment by name, the sets worth recording, and what a chapter shows for a data set."""

from __future__ import annotations

from snp_lib.experiments import elsewhere, paper_a, paper_b, paper_c, paper_d, text
from snp_lib.experiments.experiment import SCALES, Entry, Experiment, Scale


def parse_seeds(text: str) -> list[int]:
    """``"0,1,2"`` to ``[0, 1, 2]``; raises ValueError for anything but distinct integers from 0 to 2³¹ − 1."""
    parts = [part.strip() for part in str(text).split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) < 2**31 for part in parts) or len(set(parts)) != len(parts):
        raise ValueError(f"expected distinct seeds such as 0,1,2, got {text!r}")
    return [int(part) for part in parts]


def get(name: str, scale: Scale, seed: int) -> Experiment:
    """The experiment of that name, in the catalogue, a variant beyond it (see :func:`snp_lib.experiments.paper_b.variant`) or a
    table of one's own (see :func:`snp_lib.experiments.text.own`).

    Raises:
        ValueError: unknown name or scale, listing what there is, or a variant that cannot be.
    """
    if name not in CATALOGUE and scale in SCALES:
        base = paper_a.cct(scale, seed)
        if (other := paper_b.variant(base, name) or paper_a.longer(base, name) or paper_a.reordered(base, name)) is not None:
            return other
    if name not in CATALOGUE and scale in text.SCALES and (experiment := text.own(name, scale, seed)) is not None:
        return experiment
    if name not in CATALOGUE:
        raise ValueError(f"unknown experiment {name!r}; there are {', '.join(CATALOGUE)}")
    if scale not in CATALOGUE[name].cost:
        raise ValueError(f"experiment {name!r} has no scale {scale!r}; it has {', '.join(CATALOGUE[name].cost)}")
    return CATALOGUE[name].build(scale, seed)


CATALOGUE: dict[str, Entry] = {
    **paper_a.ENTRIES,
    **elsewhere.ENTRIES,
    **paper_b.variants(),
    **paper_c.ENTRIES,
    **paper_d.ENTRIES,
    **text.ENTRIES,
}
"""Every experiment by name; one more paper is one more file."""

SEEDS = (0, 1, 2)

_MANY_HEADS = ("cct-h16", "cct-h64", "cct-h32", "cct-h128", "cct-h8", "cct-h2")
_CONVOLUTIONS_FIRST = ("cct-k1", "cct-k1-full1", "cct-k1-narrow2-shortcut", "cct-k1-separable2-shortcut")
_DEEPER = ("cct-k2", "cct-k2-full1", "cct-k3", "cct-k3-full1")
_VARIANTS = (*_MANY_HEADS, *_CONVOLUTIONS_FIRST, *_DEEPER)

SETS: dict[str, tuple[tuple[str, int], ...]] = {
    "cct": tuple(("cct", seed) for seed in SEEDS),
    "variants": (
        *((name, seed) for seed in SEEDS for name in _VARIANTS),
        *((name, seed) for seed in SEEDS for name in paper_b.variants() if name not in _VARIANTS),
    ),
    "elsewhere": tuple((name, seed) for seed in SEEDS for name in ("vit", "resnet", "cct-prenorm", "flowers")),
    "filters": tuple((name, seed) for name in paper_c.ENTRIES for seed in SEEDS),
    "stages": tuple((name, seed) for seed in SEEDS for name in paper_d.ENTRIES),
    "orders": (("cct-o1", 0), ("cct-o0", 1)),
    "curve": tuple((f"cct-e{epochs}", seed) for epochs in (30, 100, 20, 150) for seed in SEEDS),
}
"""Experiments and seeds worth recording together, the most valuable first; those that a scale does not have are left out there.

``orders`` completes the 2 × 2 of the seed that initialises ``cct`` and the seed of its order, ``curve`` is its accuracy against the
time of its training."""

BY_DATASET = {"cifar100": "cct", "flowers102": "flowers", "flowers102-trainval": "flowers-trainval"}
"""The experiment that a chapter about compact transformers shows for a data set."""


def on(dataset: str, scale: Scale, seed: int) -> Experiment:
    """The compact transformer of chapters A1 to A5 on a data set; at smoke scale all learn the bundled digits.

    Raises:
        ValueError: unknown data set or scale.
    """
    if dataset not in BY_DATASET:
        raise ValueError(f"the chapters know {', '.join(BY_DATASET)}, not {dataset!r}")
    return get(BY_DATASET[dataset], scale, seed)


def members(name: str, scale: Scale) -> list[Experiment]:
    """The experiments of a set that a scale has, in order of value; raises ValueError for an unknown set."""
    if name not in SETS:
        raise ValueError(f"unknown set {name!r}; there are {', '.join(SETS)}")
    return [get(each, scale, seed) for each, seed in SETS[name] if each not in CATALOGUE or scale in CATALOGUE[each].cost]
