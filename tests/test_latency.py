"""Latencies on a clock that the tests turn, multiply-accumulates by hand; nothing here depends on how fast a machine is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shared import unchecked
from torch import Tensor, nn

from snp_lib import cli, data, latency
from snp_lib.cli.verbs import _print_latency
from snp_lib.latency import Comparison, compare, count_macs, measure
from snp_lib.models import create_model
from snp_lib.models.cct import CCT
from snp_lib.pruning import blocked, compact, macs
from snp_lib.pruning.masks import layers


def images(batch: int) -> torch.Tensor:
    """Of one channel and four pixels."""
    return torch.rand(batch, 1, 2, 2)


class Clock:
    """Stands still unless a model runs; ``slow`` says how much longer everything takes at the moment."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        self.slow: Callable[[int], float] = lambda ran: 1.0

    def __call__(self) -> float:
        return self.now


class Timed(nn.Module):
    """A linear layer whose pass takes so many seconds."""

    def __init__(self, clock: Clock, name: str, *seconds: float) -> None:
        super().__init__()
        self.clock, self.name, self.seconds, self.calls = clock, name, seconds, 0
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        if x.shape[0] > 1:  # not while counting
            self.clock.now += self.seconds[self.calls % len(self.seconds)] * self.clock.slow(len(self.clock.ran))
            self.clock.ran.append(self.name)
            self.calls += 1
        return self.linear(x.flatten(1))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("snp_lib.latency.perf_counter", clock)
    return clock


def test_a_hundred_passes_twice_with_median_and_spread(clock: Clock) -> None:
    found = measure(Timed(clock, "a", 1, 1, 1, 2, 3), 2, "cpu", example=images, warm_up=5)
    assert (len(found.seconds), len(found.again), found.passes) == (20, 20, 100)
    assert len(clock.ran) == 100 + 100 + 5 + 5
    assert (found.spread.median, found.spread.low, found.spread.high) == pytest.approx((1, 1, 3))
    assert (found.noise.median, found.noise.low, found.noise.high) == (1, 1, 1)
    assert (found.batch, found.device, found.macs, found.parameters) == (2, "cpu", 12, 15)


def test_noise_is_the_second_timing_over_the_first(clock: Clock) -> None:
    # one pass a round: 20 rounds in which the model is timed as first and again in random order, each pass slower than the one before
    clock.slow = lambda ran: 1 + ran
    found = measure(Timed(clock, "a", 1), 2, "cpu", example=images, passes=1)
    first, again = (np.array(seconds)[:, 0] for seconds in (found.seconds, found.again))
    assert sorted([*first, *again]) == list(range(7, 47))
    assert {*(again - first)} == {-1, 1}  # neither of the two always comes first
    expected = np.quantile(again / first, (0.5, 0.05, 0.95))
    assert (found.noise.median, found.noise.low, found.noise.high) == pytest.approx(tuple(expected))


def test_a_machine_that_slows_down_changes_the_seconds_and_not_the_ratios(clock: Clock) -> None:
    models = {name: Timed(clock, name, seconds) for name, seconds in (("a", 2.0), ("b", 1.0), ("c", 3.0))}
    clock.slow = lambda ran: 1.0 if ran < 12 else 1.5 ** ((ran - 12) // 20)  # 12 of warm-up, then four arms of five passes a round
    found = compare(models, 2, "cpu", example=images)
    assert found.latencies["b"].spread.high > 100 * found.latencies["b"].spread.low
    for name, ratio in (("a", 1), ("b", 0.5), ("c", 1.5)):
        assert asdict(found.ratio(name)) == pytest.approx({"median": ratio, "low": ratio, "high": ratio})
    assert asdict(found.noise) == pytest.approx({"median": 1, "low": 1, "high": 1})


def test_every_round_times_each_model_once_in_a_block_and_the_first_twice_in_changing_order(clock: Clock) -> None:
    models = {name: Timed(clock, name, 1.0) for name in "abc"}
    compare(models, 2, "cpu", example=images, rounds=20, passes=3)
    blocks = np.array(clock.ran[4 * 3 :]).reshape(20, 4, 3)
    assert (blocks == blocks[:, :, :1]).all()
    assert all(sorted(order) == ["a", "a", "b", "c"] for order in blocks[:, :, 0].tolist())
    assert len({"".join(order) for order in blocks[:, :, 0]}) > 5


def test_one_slow_pass_in_a_round_does_not_count(clock: Clock) -> None:
    models = {"a": Timed(clock, "a", 1, 1, 1, 1, 50), "b": Timed(clock, "b", 2, 2, 99, 2, 2)}
    found = compare(models, 2, "cpu", example=images, warm_up=5)
    assert asdict(found.ratio("b")) == {"median": 2, "low": 2, "high": 2}
    assert found.latencies["b"].spread.high == 99


@pytest.mark.parametrize(
    ("limit", "rounds", "passes"),
    [(400, 20, 5), (399, 20, 4), (200, 20, 2), (80, 20, 1), (30, 8, 1), (1, 5, 1)],  # a round of one pass each takes 4 s
)
def test_a_limit_takes_passes_first_then_rounds_and_says_so(clock: Clock, limit: float, rounds: int, passes: int) -> None:
    found = compare({"a": Timed(clock, "a", 1), "b": Timed(clock, "b", 2)}, 2, "cpu", example=images, limit=limit)
    assert {(len(one.seconds), one.passes) for one in found.latencies.values()} == {(rounds, rounds * passes)}
    assert len(found.reference.again) == rounds


def test_rows_are_plain_values_and_name_the_noise(clock: Clock) -> None:
    found = compare({"a": Timed(clock, "a", 2), "b": Timed(clock, "b", 1)}, 2, "cpu", example=images, precision="bfloat16")
    assert json.loads(json.dumps(found.rows())) == found.rows()
    first, second = found.rows()
    assert (first["model"], first["seconds"], first["ratio"]) == ("a", 2, 1)
    shape = {"batch": 2, "device": "cpu", "threads": 1, "precision": "bfloat16", "macs": 12, "parameters": 15, "passes": 100}
    assert second == {"model": "b"} | shape | {
        **{"seconds": 1, "low": 1, "high": 1, "ratio": 0.5, "ratio_low": 0.5, "ratio_high": 0.5, "noise_low": 1, "noise_high": 1}
    }
    assert json.loads(json.dumps(asdict(found)))["latencies"]["b"]["seconds"] == [[1] * 5] * 20


def test_the_table_has_a_line_per_model_and_one_for_the_noise(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    _print_latency(compare({"a": Timed(clock, "a", 0.02), "b": Timed(clock, "b", 0.01)}, 2, "cpu", example=images))
    first, second, noise = capsys.readouterr().out.splitlines()
    assert second.split() == ["b", "2", "0.0", "100", "10.00", "10.00", "10.00", "200", "0.50", "0.50", "0.50"]
    assert noise.split()[-3:] == ["1.00", "1.00", "1.00"]
    assert len(first) == len(second) == len(noise)


def test_real_passes_leave_the_model_and_the_random_numbers_as_they_were() -> None:
    model = network().train()
    model.encoders[0].eval()
    modes, state, before = (
        [m.training for m in model.modules()],
        torch.get_rng_state(),
        {k: v.clone() for k, v in model.state_dict().items()},
    )
    found = measure(model, 3, torch.device("cpu"), rounds=2, passes=2)
    assert all(second > 0 for seconds in found.seconds for second in seconds)
    assert (found.passes, found.macs) == (4, count_macs(model))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_gpu_is_timed_by_its_own_events_each_pass_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Event:
        count = 0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            Event.count += 1
            self.name = f"event {Event.count}"

        def record(self) -> None:
            done.append(f"{self.name} recorded")

        def synchronize(self) -> None:
            done.append(f"{self.name} waited for")

        def elapsed_time(self, end: Event) -> float:
            done.append(f"{self.name} to {end.name}")
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert latency._stopwatch(torch.device("cuda"))(lambda: done.append("pass")) == 0.25
    assert done == ["event 1 recorded", "pass", "event 2 recorded", "event 2 waited for", "event 1 to event 2"]


# multiply-accumulates


def network(**options: object) -> CCT:
    torch.manual_seed(0)
    return create_model("cct_2_3x1", **({"num_classes": 10, "in_channels": 1, "image_size": 8, "embed_dim": 12, "num_heads": 3} | options))


def by_hand(model: CCT) -> int:
    """Every product of one image, layer by layer."""
    cfg = model.config
    tokens, width = cfg.num_tokens, cfg.embed_dim
    tokenizer = cfg.image_size**2 * width * cfg.in_channels * 3 * 3
    attention = 2 * tokens * tokens * width
    encoder = tokens * (3 * width * width + width * width + 2 * width * cfg.ff_dim) + attention
    return tokenizer + cfg.depth * encoder + 2 * tokens * width + width * cfg.num_classes


def test_macs_of_a_transformer_by_hand() -> None:
    assert count_macs(network()) == by_hand(network())
    assert count_macs(network(num_heads=6, mlp_ratio=3.0)) == by_hand(network(num_heads=6, mlp_ratio=3.0))
    paper = create_model("cct_7_3x1", num_classes=100)
    assert count_macs(paper) == by_hand(paper) == 1_181_639_680  # 1.18 GMAC, as published


def test_attention_counts_the_same_however_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def products(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0, mask: Tensor | None = None) -> Tensor:
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v

    fused = count_macs(network())
    monkeypatch.setattr("snp_lib.models.encoder.attend", products)
    assert count_macs(network()) == fused


def test_the_fast_path_of_torchs_own_transformer_is_counted() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    model = nn.Sequential(nn.Flatten(2), nn.Linear(4, 8), layer)  # five channels as five tokens
    before = torch.backends.mha.get_fastpath_enabled()
    assert count_macs(model, lambda batch: torch.rand(batch, 5, 2, 2)) == 5 * 4 * 8 + 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_linear_layers_cost_what_pruning_says_and_removal_saves_what_it_says() -> None:
    model = network()
    cost = {name: layer.weight.numel() * (1 if name == "classifier.weight" else model.config.num_tokens) for name, layer in linear(model)}
    full = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in linear(model)}
    assert {name: one.dense for name, one in macs(model, full).items() if name != "total"} == cost
    masks = {name: torch.zeros_like(mask) for name, mask in full.items()}
    for mask in masks.values():
        mask[:5, :4] = True
    saved = macs(model, masks)["total"]
    assert count_macs(compact(model, masks)[0]) == count_macs(model) - saved.dense + saved.compact
    assert count_macs(blocked(model, masks)) == count_macs(model) - saved.dense + saved.blocks


def linear(model: CCT) -> list[tuple[str, nn.Linear]]:
    found = [(name, model.get_submodule(name.removesuffix(".weight"))) for name in layers(model)]
    assert all(isinstance(layer, nn.Linear) for _, layer in found)
    return found  # type: ignore[return-value]


def test_a_compiled_model_costs_what_it_is_made_of() -> None:
    model = network()
    assert count_macs(torch.compile(model, backend="eager")) == count_macs(model)
    assert count_macs(nn.Sequential(model, nn.ReLU()), model.example) == count_macs(model)


# refusals and the command


def test_refusals_name_what_is_wrong(clock: Clock) -> None:
    model = {"a": Timed(clock, "a", 1)}
    with pytest.raises(ValueError, match="name at least one model"):
        compare({}, 1, "cpu")
    for name, value in {"rounds": 0, "passes": 0, "limit": 0.0, "warm_up": -1}.items():
        with pytest.raises(ValueError, match=f"{name} must be positive, got {value}"):
            compare(model, 2, "cpu", example=images, **{name: value})
    with pytest.raises(ValueError, match="batch must be positive"):
        measure(model["a"], 0, "cpu", example=images)
    with pytest.raises(ValueError, match="limit must be positive, got nan"):
        compare(model, 2, "cpu", example=images, limit=math.nan)
    with pytest.raises(ValueError, match="give example, a function from a number to so many inputs: Timed has none"):
        compare(model, 2, "cpu")
    with unchecked(), pytest.raises(ValueError, match="precision must be"):
        compare(model, 2, "cpu", example=images, precision="half")  # type: ignore[arg-type]
    found = compare(model | {"b": Timed(clock, "b", 1)}, 2, "cpu", example=images)
    with pytest.raises(ValueError, match="no model 'c' was timed; there are a, b"):
        found.ratio("c")
    with pytest.raises(ValueError, match="timed once"):
        _ = found.latencies["b"].noise


def test_the_command_times_an_untrained_network_at_every_batch_size(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["latency", "cct-test", "--scale", "smoke", "--batch", "2,3", "--device", "cpu", "--threads", "1", "--time-limit", "0.01s"]
    assert cli.main(command) == 0
    first, header, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("cct-test smoke, untrained · ")
    assert first.endswith(f"1 CPU threads, torch {torch.__version__}")
    assert header.split() == ["network", "batch", "MMACs", "passes", "ms", "5", "%", "95", "%", "inputs/s", "ratio", "5", "%", "95", "%"]
    assert len(header) == len(rows[0])
    assert [row.split()[:4] for row in rows[::2]] == [["cct_3_3x1", batch, "4.8", "5"] for batch in ("2", "3")]
    assert all(row.startswith("the first once more: noise") for row in rows[1::2])
    assert not (catalogue / "runs").exists()


def test_the_command_compares_with_the_compiled_network(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Comparison] = []

    class Compiled(nn.Module):
        def __init__(self, model: nn.Module, dynamic: bool) -> None:
            super().__init__()
            assert not dynamic  # else the second batch size would be another kind of program than the first
            self._orig_mod = model

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self._orig_mod(x))

    def keep(*args: object, **options: object) -> Comparison:
        compared.append(compare(*args, **options))  # type: ignore[arg-type]
        return compared[-1]

    monkeypatch.setattr(torch, "compile", Compiled)
    monkeypatch.setattr("snp_lib.latency.compare", keep)
    assert cli.main(["latency", "cct-test", "--scale", "smoke", "--batch", "1", "--compile", "--time-limit", "0.01s"]) == 0
    (found,) = compared
    assert list(found.latencies) == ["cct_3_3x1", "compiled"]
    assert found.latencies["compiled"].macs == found.reference.macs


def test_the_number_of_labels_is_known_without_the_data() -> None:
    assert data.load("digits").num_classes == data.SOURCES["digits"].labels
