"""A step recorded as a graph, or with compiled encoders, is the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from shared import skip
from torch import Tensor

from snp_lib.data import Dataset
from snp_lib.models import create_model
from snp_lib.models.cct import CCT
from snp_lib.models.encoder import Encoder
from snp_lib.training.execution import WARM_UP, capturable, compiled_encoders
from snp_lib.training.loop import train
from snp_lib.training.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=48, lr=1e-3, weight_decay=0.03, crop_padding=1, flip=False)
CPU = torch.device("cpu")
JIT = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch's own, on loading the compiler


def network() -> CCT:
    """With everything that a recording could disturb: batch normalisation, dropout, stochastic depth."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"front": "separable", "dropout": 0.1, "attention_dropout": 0.1, "stochastic_depth": 0.2}
    return create_model("cct_2_3x1", num_classes=10, image_size=8, in_channels=1, embed_dim=12, num_heads=3, **options)


class Recorded:
    """What a graph does, without one: warms up as recording does, then computes at each replay into the same places."""

    def __init__(self, compute: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor]) -> None:
        self.compute, self.replays = compute, 0
        for _ in range(WARM_UP + 1):
            compute(*inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        self.replays += 1
        return self.compute(*inputs)


def test_recording_a_step_changes_no_bit_of_the_training(few_digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, recorded, made = network(), network(), []
    history = train(plain, few_digits, RECIPE, seed=3, device=CPU, progress=False)
    monkeypatch.setattr("snp_lib.training.loop.capturable", lambda device: True)
    monkeypatch.setattr("snp_lib.training.loop.Captured", lambda *given: made.append(Recorded(*given)) or made[-1])
    again = train(recorded, few_digits, RECIPE, seed=3, device=CPU, progress=False)
    assert [one.replays for one in made] == [2 * (len(few_digits.train) // 48)]  # recorded once, replayed at every step
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in history]
    for name, tensor in plain.state_dict().items():
        assert torch.equal(recorded.state_dict()[name], tensor), name


def test_a_training_by_graph_on_a_gpu_is_the_training(few_digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    if not capturable(torch.device("cuda")) or not torch.cuda.is_available():
        skip("cuda")
    plain, recorded = network(), network()
    train(recorded, few_digits, replace(RECIPE, epochs=1), seed=3, device=torch.device("cuda"), progress=False)
    monkeypatch.setattr("snp_lib.training.loop.capturable", lambda device: False)
    train(plain, few_digits, replace(RECIPE, epochs=1), seed=3, device=torch.device("cuda"), progress=False)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(recorded.state_dict()[name], tensor, rtol=0, atol=1e-5)


def test_the_cpu_records_nothing() -> None:
    assert not capturable(CPU)


@JIT
def test_encoders_are_compiled_within_and_plain_behind() -> None:
    model = network()
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    with compiled_encoders(model):
        assert all(encoder._compiled_call_impl is not None for encoder in encoders)
    assert len(encoders) == 2
    assert all(encoder._compiled_call_impl is None for encoder in encoders)


@JIT
def test_a_compiled_training_is_the_training(few_digits: Dataset) -> None:
    plain, compiled = network(), network()
    train(plain, few_digits, RECIPE, seed=3, device=CPU, progress=False)
    with torch.compiler.set_stance("force_eager"):  # what the compiler makes of an encoder is its own affair
        train(compiled, few_digits, RECIPE, seed=3, device=CPU, compiled=True, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), compiled.parameters(), strict=True))
    assert all(encoder._compiled_call_impl is None for encoder in compiled.encoders)
