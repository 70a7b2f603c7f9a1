"""Sharpening at equal density: the SNR of trained and untrained sites when their units have as many ones, and what a rise is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from snp_lib.models.sites import split_site
from snp_lib.performance import THETA, summarize
from snp_lib.performance.density import Matrices, centred, decompose, gauged, operating_curve
from snp_lib.results.sites import dealt
from snp_lib.results.stages import Stage, matrices_at
from snp_lib.store import Run, Unit

ONES = (30, 100, 300, 1000, 3000)
"""Numbers of ones a unit has on an operating curve over a hundred labels."""

STATES = ("trained", "untrained")

SPLITS: tuple[Literal["test", "train"], ...] = ("test", "train")

HEADS = "whole heads"
"""Named in place of a kind of site, it measures the heads of the ``mha`` sites, each as one unit."""

DEALT = "heads dealt anew"
"""The control of ``HEADS``, as many sums of as many nodes of the site, whatever head they belong to."""


def ones_for(labels: int) -> tuple[int, ...]:
    """The same shares of the elements for other numbers of labels, at least one."""
    return tuple(sorted({max(1, round(ones * labels**2 / 100**2)) for ones in ONES}))


def operating_curves(runs: Sequence[Run], *, kinds: Sequence[str], ends: bool = False, counts: Sequence[int] | None = None) -> pd.DataFrame:
    """SNR against the number of ones that each unit keeps, its largest elements: one row per seed, state, site and number.

    Untrained is the network as its seed made it, with readouts of its own, where the run keeps its class means.

    Args:
        kinds: of sites whose nodes are measured; ``HEADS`` for the heads of the ``mha`` sites and ``DEALT`` for their control.
        ends: the first and the last block alone.
        counts: numbers of ones; default: see :func:`ones_for`.

    Returns:
        Columns seed, network (trained or untrained), kind, block, ones, snr.

    Raises:
        StoreError: nobody measured the untrained network.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        chosen = ones_for(len(run.class_names)) if counts is None else counts
        for state, kind, block, matrices in matrices_by_state(run, kinds, ends=ends):
            where = {"seed": run.experiment.seed, "network": state, "kind": kind, "block": block}
            rows += [where | {"ones": ones, "snr": snr} for ones, snr in zip(chosen, operating_curve(matrices, chosen), strict=True)]
    return pd.DataFrame(rows)


def rises_in_parts(runs: Sequence[Run], *, kinds: Sequence[str], theta: float = THETA) -> pd.DataFrame:
    """The rise of the SNR from the first to the last block in factors, rise = sparsity · alignment: one row per seed, state and kind.

    Args:
        kinds: as for :func:`operating_curves`.

    Returns:
        Columns seed, network, kind, rise, sparsity, alignment, see :class:`snp_lib.performance.density.Decomposition`.
    """
    rows = []
    for run in runs:
        ends: dict[tuple[str, str], list[Matrices]] = {}
        for state, kind, _, matrices in matrices_by_state(run, kinds, ends=True):
            ends.setdefault((state, kind), []).append(matrices)
        for (state, kind), (first, last) in ends.items():
            parts = decompose(first, last, theta)
            rows.append({"seed": run.experiment.seed, "network": state, "kind": kind, **vars(parts)})
    return pd.DataFrame(rows)


def learned_alignment(parts: pd.DataFrame) -> pd.DataFrame:
    """The factor alignment of the trained network minus that of the untrained one: columns seed, kind, learned."""
    wide = parts.pivot(index=["seed", "kind"], columns="network", values="alignment")
    return (wide["trained"] - wide["untrained"]).rename("learned").reset_index()


def ways_of_looking(runs: Sequence[Run], *, kinds: Sequence[str], theta: float = THETA) -> pd.DataFrame:
    """The rise of the SNR at θ on test images, on training images, in one gauge, and without offsets.

    Args:
        kinds: of sites whose nodes are measured; ``HEADS`` for the heads of the ``mha`` sites.

    Returns:
        Columns seed, kind, matrices (test images, training images, gauge Σ W = 0, offset-free), rise.
    """
    rows = []
    for run in runs:
        for kind in kinds:
            unit: Unit = "head" if kind == HEADS else "node"
            sites = run.sites_of("mha" if kind == HEADS else kind)
            test, train = ([run.matrices(site, unit=unit, split=split) for site in (sites[0], sites[-1])] for split in SPLITS)
            looks = {
                "test images": test,
                "training images": train,
                "gauge Σ W = 0": [gauged(m) for m in test],
                "offset-free": [centred(m) for m in test],
            }
            for look, (first, last) in looks.items():
                rise = summarize(last, theta).snr / summarize(first, theta).snr
                rows.append({"seed": run.experiment.seed, "kind": kind, "matrices": look, "rise": rise})
    return pd.DataFrame(rows)


def real_over_dealt(runs: Sequence[Run], *, ones: int) -> pd.DataFrame:
    """SNR of the heads of the last block over that of heads dealt anew, all with so many ones: columns seed, ratio."""
    rows = []
    for run in runs:
        site = run.sites_of("mha")[-1]
        units = (run.matrices(site, unit="head"), _dealt(run, run.matrices(site)))
        real, anew = (operating_curve(each, [ones])[0] for each in units)
        rows.append({"seed": run.experiment.seed, "ratio": float(real / anew)})
    return pd.DataFrame(rows)


def _dealt(run: Run, nodes: Matrices) -> Float[np.ndarray, "head label output"]:
    """The nodes of a site in as many sums as the run has heads, dealt by its seed."""
    return dealt(nodes, run.num_heads, seed=(run.experiment.seed, 1))


def matrices_by_state(run: Run, kinds: Sequence[str], *, ends: bool) -> Iterator[tuple[str, str, int, Matrices]]:
    """State, kind, block and matrices of every site of these kinds, trained and, where its class means are kept, untrained."""
    arrays = Stage(epoch=0).read(run)
    for kind in kinds:
        sites = run.sites_of("mha" if kind in (HEADS, DEALT) else kind)
        unit: Unit = "head" if kind == HEADS else "node"
        for site in (sites[0], sites[-1]) if ends else sites:
            found = {"trained": run.matrices(site, unit=unit)}
            if f"weight/{site}" in arrays:
                found["untrained"] = np.asarray(matrices_at(arrays, site, run.num_heads if unit == "head" else run.sites[site]))
            for state, matrices in found.items():
                yield state, kind, split_site(site)[0], _dealt(run, matrices) if kind == DEALT else matrices
