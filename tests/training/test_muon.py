"""Muon against torch's own, matrix by matrix."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snp_lib.models import create_model
from snp_lib.training.muon import MOMENTUM, SCALE, Muon, orthogonal
from snp_lib.training.optim import make_optimizer
from snp_lib.training.recipe import FAST_50

STEPS, RATE, DECAY = 4, 0.02, 0.1


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stepped(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], gradients: list[list[Tensor]]) -> None:
    for step in range(STEPS):
        for parameter, gradient in zip(parameters, gradients[step], strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def test_every_matrix_takes_the_step_of_torch() -> None:
    shapes = [(8, 24), (24, 8), (16, 16), (24, 8)]
    ours = [nn.Parameter(drawn(*shape, seed=i)) for i, shape in enumerate(shapes)]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    gradients = [[drawn(*shape, seed=100 * step + i) for i, shape in enumerate(shapes)] for step in range(STEPS)]
    stepped(Muon([{"params": ours, "parts": 1, "lr": RATE, "weight_decay": DECAY}]), ours, gradients)
    stepped(torch.optim.Muon(theirs, lr=RATE, weight_decay=DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"), theirs, gradients)
    for i, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        moved = (other - drawn(*shapes[i], seed=i)).abs().max()
        assert (own - other).abs().max() < 0.02 * moved  # torch's iteration runs in bfloat16


def test_queries_keys_and_values_are_orthogonalised_apart() -> None:
    joined, gradients = nn.Parameter(drawn(24, 8, seed=0)), [[drawn(24, 8, seed=10 + step)] for step in range(STEPS)]
    apart = [nn.Parameter(part.clone()) for part in joined.detach().split(8)]
    whole = nn.Parameter(joined.detach().clone())
    settings: dict[str, Any] = {"lr": RATE, "weight_decay": DECAY}
    stepped(Muon([{"params": [joined], "parts": 3, **settings}]), [joined], gradients)
    stepped(Muon([{"params": apart, "parts": 1, **settings}]), apart, [list(one[0].split(8)) for one in gradients])
    stepped(Muon([{"params": [whole], "parts": 1, **settings}]), [whole], gradients)
    torch.testing.assert_close(joined, torch.cat(apart), rtol=0, atol=1e-6)
    assert (joined - whole).abs().max() > 0.01


def test_a_convolution_is_the_matrix_of_its_filters_in_any_layout() -> None:
    plain = nn.Parameter(drawn(6, 3, 2, 2, seed=0))
    last = nn.Parameter(plain.detach().clone(memory_format=torch.contiguous_format).to(memory_format=torch.channels_last))
    flat = nn.Parameter(plain.detach().flatten(1).clone())
    gradients = [[drawn(6, 3, 2, 2, seed=10 + step)] for step in range(STEPS)]
    for parameter, shape in ((plain, (6, 3, 2, 2)), (last, (6, 3, 2, 2)), (flat, (6, 12))):
        stepped(
            Muon([{"params": [parameter], "parts": 1, "lr": RATE, "weight_decay": DECAY}]),
            [parameter],
            [[one[0].reshape(shape)] for one in gradients],
        )
    torch.testing.assert_close(plain.flatten(1), flat, rtol=0, atol=1e-6)
    torch.testing.assert_close(last, plain, rtol=0, atol=1e-6)


def test_the_rest_takes_the_step_of_adamw() -> None:
    ours, theirs = nn.Parameter(drawn(7, seed=0)), nn.Parameter(drawn(7, seed=0))
    gradients = [[drawn(7, seed=10 + step)] for step in range(STEPS)]
    stepped(Muon([{"params": [ours], "lr": RATE, "weight_decay": DECAY}], betas=(0.9, 0.95)), [ours], gradients)
    stepped(torch.optim.AdamW([theirs], lr=RATE, weight_decay=DECAY, betas=(0.9, 0.95)), [theirs], gradients)
    assert torch.equal(ours, theirs)


def test_an_update_has_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(orthogonal(drawn(5, 12, 30, seed=0)))
    assert 0.6 < values.min() < values.max() < 1.3
    assert math.isclose(SCALE, 0.2)


@pytest.mark.parametrize(("name", "matrices"), [("cct_2_3x1", 8), ("vit_2_p4", 8), ("resnet8", 8)])
def test_every_family_names_its_matrices(name: str, matrices: int) -> None:
    model = create_model(name, num_classes=5)
    optimizer = make_optimizer(model, FAST_50)
    names = {id(p): key for key, p in model.named_parameters()}
    groups = {parts: [names[id(p)] for g in optimizer.param_groups if g["parts"] == parts for p in g["params"]] for parts in (0, 1, 3)}
    assert len(groups[1]) + len(groups[3]) == matrices
    assert len(groups[3]) == (0 if name == "resnet8" else 2)
    assert sorted(names.values()) == sorted(groups[0] + groups[1] + groups[3])
    scales = {g["parts"]: g["scale"] for g in optimizer.param_groups}
    assert scales[0] == pytest.approx(0.4)
    assert {g["weight_decay"] for g in optimizer.param_groups if not g["parts"]} == {0.0, 0.03}


def test_a_model_without_matrices_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear names none: give it the property matrices, or use adamw"):
        make_optimizer(nn.Linear(3, 2), FAST_50)
