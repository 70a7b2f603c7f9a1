"""A step recorded as a graph, with compiled parts, or with products in bfloat16, is the step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from shared import skip
from torch import Tensor

from snp_lib.data import Dataset
from snp_lib.models import create_model
from snp_lib.models.cct import CCT
from snp_lib.performance.readout import ReadoutRecipe, train_readouts
from snp_lib.pruning import finetune, prune
from snp_lib.training.execution import WARM_UP, Captured, capturable, compiled_parts, lowered, refresh
from snp_lib.training.loop import train
from snp_lib.training.recipe import Recipe
from snp_lib.training.stopping import Stopped

RECIPE = Recipe(epochs=2, batch_size=48, lr=1e-3, weight_decay=0.03, crop_padding=1, flip=False)
CPU = torch.device("cpu")
JIT = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch's own, on loading the compiler


def network() -> CCT:
    """With everything that a recording could disturb: batch normalisation, dropout, stochastic depth."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"front": "separable", "dropout": 0.1, "attention_dropout": 0.1, "stochastic_depth": 0.2}
    return create_model("cct_2_3x1", num_classes=10, image_size=8, in_channels=1, embed_dim=12, num_heads=3, **options)


class Replayed(Captured):
    """What a graph does, without one: warms up as recording does, then computes at each replay."""

    made: ClassVar[list[Replayed]] = []

    def _record(self, compute: Callable[..., tuple[Tensor, ...]]) -> None:
        self.compute, self.replays = compute, 0
        for _ in range(WARM_UP):
            compute(*self.inputs)
        Replayed.made.append(self)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        self.replays += 1
        return self.compute(*inputs)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Replayed]:
    """Within, trainings on the CPU go the way of a GPU: whole steps are recorded, many batches augmented at once."""
    monkeypatch.setattr(Replayed, "made", [])
    monkeypatch.setattr("snp_lib.training.execution.capturable", lambda device: True)
    monkeypatch.setattr("snp_lib.training.execution.Captured", Replayed)
    return Replayed.made


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "lr": 0.01},
    "muon": {"optimizer": "muon", "lr": 2.5e-3, "adam_lr": 1e-3, "adam_weight_decay": 0.03},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_recorded_training_is_the_training(
    few_digits: Dataset, recorded: list[Replayed], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, clip_norm=1.0, **OPTIMIZERS[name])
    masks = {"classifier.weight": torch.rand(10, 12, generator=torch.Generator().manual_seed(0)) < 0.5}
    monkeypatch.setattr("snp_lib.training.loop.AHEAD", 1)  # else the augmentation draws other numbers
    again = network()
    history_again = train(again, few_digits, recipe, seed=3, device=CPU, masks=masks, progress=False)
    assert [one.replays for one in recorded] == [2 * (len(few_digits.train) // 48)]  # recorded once, replayed at every step
    monkeypatch.setattr("snp_lib.training.execution.capturable", lambda device: False)
    plain = network()
    history = train(plain, few_digits, recipe, seed=3, device=CPU, masks=masks, progress=False)
    assert [row["train_loss"] for row in history_again] == pytest.approx([row["train_loss"] for row in history], rel=1e-5)
    for key, tensor in plain.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], tensor, rtol=0, atol=1e-4, msg=key)  # its rates are in single precision
    assert (again.classifier.weight[~masks["classifier.weight"]] == 0).all()


def test_a_recorded_training_stopped_and_resumed_ends_in_the_same_bits(
    few_digits: Dataset, recorded: list[Replayed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, **OPTIMIZERS["muon"])
    whole, stopped, resumed = network(), network(), network()
    train(whole, few_digits, recipe, seed=0, device=CPU, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    calls = iter(range(7))  # steps before the time is up, in the middle of the batches that were augmented together
    clock = SimpleNamespace(monotonic=lambda: float(next(calls, 99) > 5), perf_counter=time.perf_counter)
    monkeypatch.setattr("snp_lib.training.loop.time", clock)
    with pytest.raises(Stopped):
        train(stopped, few_digits, recipe, seed=0, device=CPU, checkpoint=path, deadline=0.5, progress=False)
    monkeypatch.setattr("snp_lib.training.loop.time", time)
    train(resumed, few_digits, recipe, seed=0, device=CPU, checkpoint=path, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_lowered_weights_are_copies_and_all_else_is_shared() -> None:
    model = network()
    twin = lowered(model)
    copies = {name for name, p in twin.named_parameters() if p.dtype == torch.bfloat16}
    products = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    assert copies == {name for name, _ in model.named_parameters() if name.rpartition(".")[0] in products}
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (mine is theirs) == (name not in copies), name
    assert all(a is b for a, b in zip(model.buffers(), twin.buffers(), strict=True))
    with torch.no_grad():
        model.classifier.weight.fill_(2.0)
    refresh(twin, model)
    assert (twin.classifier.weight == 2).all()


def test_a_network_with_lowered_weights_computes_the_network() -> None:
    model = network().eval()
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        logits = lowered(model)(images.bfloat16())
    torch.testing.assert_close(logits.float(), model(images), rtol=0.05, atol=0.01)


@JIT
def test_parts_are_compiled_within_and_plain_behind(few_digits: Dataset) -> None:
    model = network()
    with compiled_parts(model):
        assert all(name in module.__dict__ for module, name in model.parts)
        assert len({id(module.__dict__[name].__func__) for module, name in model.parts}) == 3  # the two encoders share one
    assert not any(name in module.__dict__ for module, name in model.parts)


@JIT
def test_a_compiled_training_is_the_training(few_digits: Dataset) -> None:
    plain, compiled = network(), network()
    train(plain, few_digits, RECIPE, seed=3, device=CPU, progress=False)
    with torch.compiler.set_stance("force_eager"):  # what the compiler makes of a part is its own affair
        train(compiled, few_digits, RECIPE, seed=3, device=CPU, compiled=True, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), compiled.parameters(), strict=True))


def test_the_cpu_records_nothing() -> None:
    assert not capturable(CPU)


def test_a_training_by_graph_on_a_gpu_is_the_training(few_digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    if not capturable(torch.device("cuda")) or not torch.cuda.is_available():
        skip("cuda")
    plain, again = network(), network()
    monkeypatch.setattr("snp_lib.training.loop.AHEAD", 1)
    train(again, few_digits, replace(RECIPE, epochs=1), seed=3, device=torch.device("cuda"), progress=False)
    monkeypatch.setattr("snp_lib.training.execution.capturable", lambda device: False)
    train(plain, few_digits, replace(RECIPE, epochs=1), seed=3, device=torch.device("cuda"), progress=False)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=1e-5)


def test_recorded_readouts_are_the_readouts(few_digits: Dataset, recorded: list[Replayed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snp_lib.performance.readout.AHEAD", 1)
    monkeypatch.setattr("torch.compile", lambda function, **options: function)  # what the compiler makes of it is its own affair
    recipe, model = ReadoutRecipe(epochs=2, batch_size=48), network().eval()
    sites = ["block1.mha", "block2.ff_hidden", "block2"]
    again = train_readouts(model, few_digits, sites, recipe, RECIPE, seed=0, progress=False)
    assert [one.replays for one in recorded] == [2 * (len(few_digits.train) // 48)]
    monkeypatch.setattr("snp_lib.training.execution.capturable", lambda device: False)
    plain = train_readouts(model, few_digits, sites, recipe, RECIPE, seed=0, progress=False)
    for site in sites:
        for one, other in zip(again[site].parameters(), plain[site].parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_pruned_networks_tuned_one_by_one_are_those_tuned_together(
    few_digits: Dataset, recorded: list[Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snp_lib.training.loop.AHEAD", 1)
    monkeypatch.setattr("torch.compile", lambda function, **options: function)
    model = network().eval()
    draw = torch.Generator().manual_seed(0)
    shape = model.get_parameter("encoders.1.ff1.weight").shape
    masks: dict[str, Any] = {
        "half": {"encoders.1.ff1.weight": torch.rand(shape, generator=draw) < 0.5},
        "dense": {},
        "few": {"encoders.1.ff1.weight": torch.rand(shape, generator=draw) < 0.1},
    }
    recipe = replace(RECIPE, **OPTIMIZERS["muon"])

    def tuned() -> tuple[dict[str, Any], dict[str, list[float]]]:
        networks = {name: prune(model, each) for name, each in masks.items()}
        losses = finetune(model, networks, masks, few_digits, recipe, encoder=2, seed=0, progress=False)
        return {name: each.state_dict() for name, each in networks.items()}, losses

    again, losses_again = tuned()
    assert [one.replays for one in recorded] == [3 * 2 * (len(few_digits.train) // 48)]
    monkeypatch.setattr("snp_lib.training.execution.capturable", lambda device: False)
    plain, losses = tuned()
    for name in masks:
        assert losses_again[name] == pytest.approx(losses[name], rel=1e-4)
        for key, tensor in plain[name].items():
            torch.testing.assert_close(again[name][key], tensor, rtol=0, atol=2e-4, msg=f"{name} {key}")


def test_a_parameter_that_does_not_learn_stays_as_it_is(few_digits: Dataset, recorded: list[Replayed]) -> None:
    model = network()
    model.classifier.weight.requires_grad_(False)
    assert not lowered(model).classifier.weight.requires_grad
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, few_digits, replace(RECIPE, epochs=1), seed=3, device=CPU, progress=False)
    assert torch.equal(model.classifier.weight, before["classifier.weight"])
    assert not torch.equal(model.classifier.bias, before["classifier.bias"])
