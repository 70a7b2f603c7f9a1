"""Latency of a finished run whose pruned weights are removed for real, kept with the run."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from snp_lib import latency, making
from snp_lib.derived import Arrays, derived
from snp_lib.experiments import Scale
from snp_lib.pruning import blocked, compact
from snp_lib.prunings import THETAS, masks_of
from snp_lib.store import Run

FORMS = ("compact", "blocks")  # as snp_lib.pruning.Macs names them
BATCHES = (1, 256)
SECONDS: dict[Scale, float] = {"smoke": 2.0, "small": 60.0, "medium": 60.0, "paper": 60.0}  # for each batch size


def pruned_latency(
    run: Run,
    *,
    thetas: Sequence[float] | None = None,
    batches: Sequence[int] = BATCHES,
    seconds: float | None = None,
    device: str = "auto",
    refresh: bool = False,
) -> Arrays:
    """Seconds of a forward pass of a run pruned by ANDC at every θ, in each form, over those of the dense network.

    All are timed in the same rounds, the dense network twice (see :mod:`snp_lib.latency`). Latency depends on which
    weights are there and not on their values, so a record without weights will do. A mask multiplied into dense weights
    costs what the dense network costs; it is not listed.

    Args:
        thetas: None: those of the scale, see ``snp_lib.prunings.THETAS``.
        batches: images of a pass.
        seconds: for each batch size; None: that of the scale, see ``SECONDS``.

    Returns:
        Arrays by name. ``thetas`` (θ,), ``batches`` (b,); ``ratio`` (b, form, θ, 3), median, 5th and 95th percentile over
        rounds, the forms in the order of ``FORMS``; ``noise`` (b, 3), the same of the dense network to itself;
        ``seconds`` (b,) and ``passes`` (b,) of the dense network; ``threads`` (1,).
    """
    thetas = thetas or THETAS[run.experiment.scale]
    options = {"thetas": list(thetas), "batches": list(batches), "device": making.choose_device(device).type}
    options |= {} if seconds is None else {"seconds": seconds}
    compute = functools.partial(_time, run, thetas, batches, seconds or SECONDS[run.experiment.scale], device)
    return derived(run, f"latency-pruned-{options['device']}", options, compute, refresh=refresh)


def _time(run: Run, thetas: Sequence[float], batches: Sequence[int], seconds: float, device: str) -> Arrays:
    place = making.choose_device(device)
    dense = run.transformer(0)  # any weights will do
    networks: dict[str, nn.Module] = {"dense": dense}
    for theta in thetas:
        masks = masks_of(run, "andc", theta, dense)
        networks[f"compact {theta:g}"] = compact(dense, masks)[0]
        networks[f"blocks {theta:g}"] = blocked(dense, masks)
    found = [latency.compare(networks, batch, place, limit=seconds) for batch in batches]

    def triple(spread: latency.Spread) -> list[float]:
        return [spread.median, spread.low, spread.high]

    return {
        "thetas": np.array(thetas),
        "batches": np.array(batches),
        "ratio": np.array([[[triple(each.ratio(f"{form} {theta:g}")) for theta in thetas] for form in FORMS] for each in found]),
        "noise": np.array([triple(each.noise) for each in found]),
        "seconds": np.array([each.reference.spread.median for each in found]),
        "passes": np.array([each.reference.passes for each in found]),
        "threads": np.array([torch.get_num_threads()]),
    }
