"""How long a forward pass takes, measured so that the noise shows, and the multiply-accumulates behind it.

Defined here. Every round times each model for a few passes, in random order, and the first model twice: a ratio compares
two models of one round, so a machine whose speed drifts changes the seconds and not the ratios, and the ratio of the
first model to itself is the noise of all others. What the weights are does not matter, only their shapes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from snp_lib.models.sites import evaluating

Example = Callable[[int], Tensor]  # from a number to so many random inputs
Seconds = tuple[tuple[float, ...], ...]  # of every pass, round by round
LEAST_ROUNDS = 5  # whatever the limit


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, and the 5th and 95th percentile between which nine in ten of them lie."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds of single forward passes of one model, each from its start until its result is there.

    Attributes:
        batch: inputs of a pass.
        device: ``cpu`` or ``cuda``.
        threads: of the CPU, as torch uses them.
        precision: of the matrix products.
        macs: multiply-accumulates of one input, see :func:`count_macs`.
        parameters: of the model.
        seconds: of every pass, round by round.
        again: of the same model timed once more in the same rounds; empty where it was not.
    """

    batch: int
    device: str
    threads: int
    precision: str
    macs: int
    parameters: int
    seconds: Seconds
    again: Seconds = ()

    @property
    def passes(self) -> int:
        """Passes timed, without those of ``again``: fewer than asked for where the limit cut them."""
        return sum(map(len, self.seconds))

    @property
    def spread(self) -> Spread:
        """Seconds of a pass, over all passes."""
        return _spread([value for round_ in self.seconds for value in round_])

    @property
    def noise(self) -> Spread:
        """The second timing over the first, round by round, which is 1 but for noise.

        Raises:
            ValueError: this model was timed once.
        """
        if not self.again:
            raise ValueError("this model was timed once; the noise of a comparison is that of its first model")
        return _ratio(self.again, self.seconds)


@dataclass(frozen=True)
class Comparison:
    """Models timed in the same rounds, by name; the first is the reference, and it was timed twice."""

    latencies: dict[str, Latency]

    @property
    def reference(self) -> Latency:
        return next(iter(self.latencies.values()))

    @property
    def noise(self) -> Spread:
        """How far a ratio of two equal models strays, as the two timings of the reference show it."""
        return self.reference.noise

    def ratio(self, name: str) -> Spread:
        """Seconds over those of the reference, median against median of each round; below 1 is faster.

        Raises:
            ValueError: no model of that name was timed.
        """
        if name not in self.latencies:
            raise ValueError(f"no model {name!r} was timed; there are {', '.join(self.latencies)}")
        return _ratio(self.latencies[name].seconds, self.reference.seconds)

    def rows(self) -> list[dict[str, Any]]:
        """One row per model, plain values: seconds with their spread, ratio to the reference with its own, and the noise.

        Columns ``model``, batch, device, threads, precision, macs, parameters, passes, seconds, low, high, ratio,
        ratio_low, ratio_high, and noise_low and noise_high, within which the ratio of a model to itself stays.
        """
        rows: list[dict[str, Any]] = []
        for name, latency in self.latencies.items():
            own, ratio = latency.spread, self.ratio(name)
            row: dict[str, Any] = {"model": name}
            row |= {key: getattr(latency, key) for key in ("batch", "device", "threads", "precision", "macs", "parameters", "passes")}
            row |= {"seconds": own.median, "low": own.low, "high": own.high}
            row |= {"ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high}
            rows.append(row | {"noise_low": self.noise.low, "noise_high": self.noise.high})
        return rows


def measure(model: nn.Module, batch: int, device: torch.device | str, **options: Any) -> Latency:
    """Seconds of a forward pass of one model, timed twice in turn; options and errors as for :func:`compare`."""
    return compare({"model": model}, batch, device, **options).reference


@torch.no_grad()
def compare(
    models: Mapping[str, nn.Module],
    batch: int,
    device: torch.device | str,
    *,
    example: Example | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    rounds: int = 20,
    passes: int = 5,
    limit: float = math.inf,
    warm_up: int = 3,
) -> Comparison:
    """Time models against each other in eval mode, without gradients, on one batch of random inputs.

    Models may be compiled: warm-up compiles them. They are moved to the device and afterwards back, modes restored.

    Args:
        models: by name, the reference first.
        batch: inputs of a pass.
        device: ``cuda`` times with events on the device, anything else with the clock of the process.
        example: random inputs; None for the networks of :mod:`snp_lib.models`, which give their own.
        precision: ``bfloat16`` runs matrix products in it, by autocast.
        rounds: each model is timed once in every round, the first one twice.
        passes: of a model in a round; rounds × passes = 100 by default.
        limit: seconds for all after the warm-up. A round gets fewer passes if else they would not fit, then fewer rounds
            are made, but never less than one pass in each of five rounds.
        warm_up: passes of each model that do not count.

    Raises:
        ValueError: no model, a number that is not positive, an unknown precision, or no inputs known.
    """
    if not models:
        raise ValueError("name at least one model to time")
    for name, value in {"batch": batch, "rounds": rounds, "passes": passes, "limit": limit, "warm_up": warm_up}.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f'precision must be "float32" or "bfloat16", got {precision!r}')
    device = torch.device(device)
    first = next(iter(models))
    example = example or _example(models[first])
    inputs = example(batch).to(device)
    timed, order = _stopwatch(device), random.Random(0)
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(_placed(model, device))
        costs = {name: count_macs(model, example) for name, model in models.items()}
        arms = [*models.items(), ("", models[first])]  # the last is the reference again
        found: list[list[tuple[float, ...]]] = [[] for _ in arms]
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"))
        expected = sum([timed(lambda m=model: m(inputs)) for _ in range(warm_up)][-1] for _, model in arms)  # type: ignore[misc]
        passes = max(1, math.floor(min(passes, limit / (rounds * expected)))) if expected else passes
        started = perf_counter()
        for round_ in range(rounds):
            if round_ >= LEAST_ROUNDS and perf_counter() - started >= limit:
                break
            for arm in order.sample(range(len(arms)), len(arms)):
                model = arms[arm][1]
                found[arm].append(tuple(timed(lambda m=model: m(inputs)) for _ in range(passes)))  # type: ignore[misc]
    return Comparison(
        {
            name: Latency(
                batch=batch,
                device=device.type,
                threads=torch.get_num_threads(),
                precision=precision,
                macs=costs[name],
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                seconds=tuple(seconds),
                again=tuple(found[-1]) if name == first else (),
            )
            for (name, model), seconds in zip(models.items(), found, strict=False)
        }
    )


@torch.no_grad()
def count_macs(model: nn.Module, example: Example | None = None) -> int:
    """Multiply-accumulates of the forward pass of one input, by torch's own counter.

    They are those of linear layers, convolutions and both products of attention, which are written out while counting:
    the counter sees neither the fused attention of the CPU nor the fast path of ``nn.MultiheadAttention``. Normalisation,
    softmax, activations and the gathering of features count for nothing.

    Raises:
        ValueError: no inputs given, and the model is none of ours.
    """
    model = getattr(model, "_orig_mod", model)  # of a compiled model: its kernels are unknown to the counter
    device = next((parameter.device for parameter in model.parameters()), None)
    inputs, fast = (example or _example(model))(1).to(device), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops()) // 2


@contextmanager
def compiled(models: Mapping[str, nn.Module]) -> Iterator[dict[str, nn.Module]]:
    """The models compiled for the shape that they meet first.

    Networks of one class share its forward pass, and torch goes back to the eager one, silently, once that has been
    compiled some eight times: so the limit is raised, and reaching it is an error.
    """
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8 + len(models), fail_on_recompile_limit_hit=True):
        yield {name: cast(nn.Module, torch.compile(model, dynamic=False)) for name, model in models.items()}


def _example(model: nn.Module) -> Example:
    example: Example | None = getattr(getattr(model, "_orig_mod", model), "example", None)  # of a compiled model
    if example is None:
        raise ValueError(f"give example, a function from a number to so many inputs: {type(model).__name__} has none")
    return example


def _stopwatch(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """A function that runs a task to its end and returns the seconds it took."""

    def on_host(task: Callable[[], object]) -> float:
        started = perf_counter()
        task()
        return perf_counter() - started

    def on_device(task: Callable[[], object]) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        task()
        end.record()
        end.synchronize()  # the next pass finds the device idle, as a caller who waits for the answer does
        return float(start.elapsed_time(end)) / 1000

    return on_device if device.type == "cuda" else on_host


@contextmanager
def _placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model on the device and in eval mode; afterwards as it was."""
    home = next((parameter.device for parameter in model.parameters()), device)
    with evaluating(model):
        try:
            model.to(device)
            yield
        finally:
            model.to(home)


def _spread(values: list[float]) -> Spread:
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return Spread(median, low, high)


def _ratio(seconds: Seconds, reference: Seconds) -> Spread:
    return _spread([float(np.median(own) / np.median(base)) for own, base in zip(seconds, reference, strict=True)])
