"""Latency of the networks of several runs against each other, kept with the first of them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from snp_lib import latency, making
from snp_lib.committee import SoftCommittee
from snp_lib.derived import Arrays, derived
from snp_lib.removal import SECONDS
from snp_lib.store import Run

COLUMNS = ("seconds", "low", "high", "ratio", "ratio_low", "ratio_high", "noise_low", "noise_high", "macs", "parameters", "passes")


def latencies(
    networks: Mapping[str, Sequence[Run]],
    name: str,
    *,
    batches: Sequence[int] = (1,),
    compiled: bool = False,
    device: str = "auto",
    refresh: bool = False,
) -> pd.DataFrame:
    """Time networks against the first of them, which is timed twice, all in turn in every round (see :mod:`snp_lib.latency`).

    Latency depends on shapes and not on weights, so records will do.

    Args:
        networks: name → the run whose network is meant, or several, which stand for their soft committee.
        name: of this comparison, a plain file name.
        batches: images of a pass.
        compiled: time what ``torch.compile`` makes of them.

    Returns:
        Columns network and batch; seconds of a pass with low and high, ratio to the first network with ratio_low and
        ratio_high, noise_low and noise_high within which the ratio of the first to itself stays (medians, 5th and 95th
        percentiles over rounds); macs of one image, parameters, passes; threads.

    Raises:
        ValueError: no network.
    """
    if not networks:
        raise ValueError("name at least one network to time")
    first = next(iter(networks.values()))[0]
    place = making.choose_device(device)
    # a list, as results stand in this order
    shapes = [[key, [[run.experiment.model, run.experiment.model_options] for run in runs]] for key, runs in networks.items()]
    options = {"networks": shapes, "batches": list(batches), "compiled": compiled, "device": place.type}
    compute = functools.partial(_time, networks, batches, compiled, place, SECONDS[first.experiment.scale])
    arrays = derived(first, f"latency-{name}-{'compiled-' if compiled else ''}{place.type}", options, compute, refresh=refresh)
    rows: list[dict[str, Any]] = []
    for b, batch in enumerate(batches):
        for n, key in enumerate(networks):
            rows.append({"network": key, "batch": batch} | {column: arrays[column][b, n] for column in COLUMNS})
    return pd.DataFrame(rows).assign(threads=int(arrays["threads"][0]))


def _time(networks: Mapping[str, Sequence[Run]], batches: Sequence[int], compiled: bool, place: torch.device, seconds: float) -> Arrays:
    models = {key: _network(runs) for key, runs in networks.items()}
    found = []
    for batch in batches:
        with _compiled(models) if compiled else contextlib.nullcontext(models) as forms:
            found.append(latency.compare(forms, batch, place, limit=seconds).rows())
    arrays = {column: np.array([[row[column] for row in rows] for rows in found]) for column in COLUMNS}
    return arrays | {"threads": np.array([torch.get_num_threads()])}


@contextlib.contextmanager
def _compiled(models: Mapping[str, nn.Module]) -> Iterator[dict[str, nn.Module]]:
    """The models compiled for the shape that they meet first.

    Networks of one class share its forward pass, and torch goes back to the eager one, silently, once that has been
    compiled some eight times: so the limit is raised, and reaching it is an error.
    """
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8 + len(models), fail_on_recompile_limit_hit=True):
        yield {key: cast(nn.Module, torch.compile(model, dynamic=False)) for key, model in models.items()}


def _network(runs: Sequence[Run]) -> nn.Module:
    members: list[nn.Module] = [run.network(0) for run in runs]  # any weights will do
    return members[0] if len(members) == 1 else SoftCommittee(members)
