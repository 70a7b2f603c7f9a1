"""What a recipe says is what the optimiser, the schedule and the augmentation do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from shared import unchecked
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from snp_lib.data import Dataset
from snp_lib.data.augment.crops import Normalize, random_crop, random_flip, random_resized_crop
from snp_lib.data.augment.mixing import mix, random_erasing
from snp_lib.data.augment.policies import AutoAugment, RandAugment
from snp_lib.machine import uses_bfloat16
from snp_lib.training import recipe as recipes
from snp_lib.training.loop import Training
from snp_lib.training.optim import learning_rate, make_optimizer, set_rate, warmup_cosine
from snp_lib.training.preparation import RATIO, ImagePreparation
from snp_lib.training.recipe import Recipe
from tests.training.test_loop import RECIPE, fit, network

PLAIN = Recipe(epochs=4, batch_size=48, lr=0.1, weight_decay=0.05, crop_padding=0, flip=False, label_smoothing=0.0)
PUBLISHED = {name: value for name, value in vars(recipes).items() if isinstance(value, Recipe) and value.token_dropout is None}  # of images


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (20, 3, 12, 12), generator=generator(), dtype=torch.uint8)


def test_the_augmentation_is_the_functions_the_recipe_names_in_order(images: Tensor) -> None:
    def augmented(**options: Any) -> Tensor:
        return ImagePreparation(replace(PLAIN, **options), images, 10).augmented(images, generator(1))

    normalize, fill = Normalize(images), tuple(float(x.double().mean().round()) for x in images.unbind(1))
    assert torch.equal(augmented(), normalize(images))
    torch.testing.assert_close(augmented(normalization="unit"), images.float() / 127.5 - 1)
    assert torch.equal(augmented(resized_crop=0.8), normalize(random_resized_crop(images, (0.8, 1.0), RATIO, generator(1))))
    assert torch.equal(augmented(policy="autoaugment"), normalize(AutoAugment()(images, generator(1))))
    timm = RandAugment(num_ops=2, magnitude=9, magnitude_std=0.5, increasing=True, fill=fill)
    assert torch.equal(augmented(policy="rand-m9-mstd0.5-inc1"), normalize(timm(images, generator(1))))
    other = RandAugment(num_ops=2, magnitude=9, magnitude_std=1.0, increasing=False, fill=fill)
    assert torch.equal(augmented(policy="rand-m9-n2-mstd1.0"), normalize(other(images, generator(1))))
    assert torch.equal(augmented(erasing=0.9), random_erasing(normalize(images), generator(1), probability=0.9))
    drawn = generator(1)
    expected = random_erasing(normalize(AutoAugment()(random_flip(random_crop(images, 2, drawn), drawn), drawn)), drawn, probability=0.5)
    assert torch.equal(augmented(crop_padding=2, flip=True, policy="autoaugment", erasing=0.5), expected)


def test_mixing_comes_last_and_smooths_the_labels(images: Tensor) -> None:
    labels = torch.arange(20) % 10
    recipe = replace(PLAIN, mixup=0.8, cutmix=1.0, erasing=0.25, label_smoothing=0.1)
    augmentation, drawn = ImagePreparation(recipe, images, 10), generator(1)
    expected = mix(augmentation.augmented(images, drawn), labels, 10, drawn, mixup_alpha=0.8, cutmix_alpha=1.0, smoothing=0.1)
    for found, wanted in zip(augmentation.mixed(images, labels, generator(1)), expected, strict=True):
        assert torch.equal(found, wanted)
    assert augmentation.mixed(images, labels, generator(1))[1].sum(1) == pytest.approx(1.0, abs=1e-6)
    assert ImagePreparation(PLAIN, images, 10).mixed(images, labels, generator(1))[1] is labels


def test_readouts_see_images_that_are_not_mixed(images: Tensor) -> None:
    mixing = ImagePreparation(replace(PLAIN, mixup=0.8), images, 10)
    assert torch.equal(mixing.augmented(images, generator(1)), ImagePreparation(PLAIN, images, 10).augmented(images, generator(1)))


def test_mixed_images_train_with_the_loss_of_their_soft_labels(few_digits: Dataset) -> None:
    recipe = replace(PLAIN, mixup=1.0, cutmix=1.0, label_smoothing=0.1, lr=0.0, weight_decay=0.0)
    model = network()
    training = Training(model, few_digits, recipe, 0, torch.device("cpu"), "", None)
    x, y = next(training.batches())
    model.eval()
    by_hand = -(y * model(x).log_softmax(1)).sum(1).mean()
    training.step(model, x, y)
    assert training.loss_and_hits[0].item() == pytest.approx(by_hand.item(), abs=1e-6)
    assert training.loss_and_hits[1].item() == (model(x).argmax(1) == y.argmax(1)).sum()


def test_sgd_is_torchs_with_nesterov_momentum_and_a_rate_for_the_head() -> None:
    recipe = replace(PLAIN, optimizer="sgd", lr=1e-3, momentum=0.9, head_lr=2e-4)  # small: a wild training magnifies rounding
    models = [network().eval(), network().eval()]
    ours, others = make_optimizer(models[0], recipe), [p for n, p in models[1].named_parameters() if "classifier" not in n]
    reference = torch.optim.SGD(
        [{"params": others}, {"params": models[1].classifier.parameters(), "lr": 2e-4}],
        lr=1e-3,
        momentum=0.9,
        weight_decay=0.05,
        nesterov=True,
    )
    for _ in range(3):
        for model, optimizer in zip(models, (ours, reference), strict=True):
            optimizer.zero_grad()
            model(torch.ones(2, 1, 8, 8)).square().sum().backward()
            optimizer.step()
    for found, wanted in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(found, wanted)
    set_rate(ours, 5e-4)
    assert sorted(group["lr"] for group in ours.param_groups) == pytest.approx([1e-4, 5e-4])


def test_the_cut_of_the_rate_spares_a_constant_head(few_digits: Dataset) -> None:
    recipe = replace(
        PLAIN, optimizer="sgd", momentum=0.9, schedule="step", step_epochs=1, step_factor=0.5, head_lr=0.02, head_constant=True
    )
    model = network()
    optimizer = make_optimizer(model, recipe)
    for epoch in range(3):
        set_rate(optimizer, learning_rate(recipe, 4 * epoch, 4))
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        heads = {id(p) for p in model.classifier.parameters()}
        assert {rates[p] for p in heads} == {0.02}
        assert {rates[p] for p in rates.keys() - heads} == {0.1 * 0.5**epoch}
    tensors = make_optimizer(network(), recipe, capturable=True)
    places = [group["lr"].data_ptr() for group in tensors.param_groups]
    set_rate(tensors, torch.tensor(0.05))
    assert sorted(round(float(group["lr"]), 6) for group in tensors.param_groups) == [0.02, 0.05]
    assert [group["lr"].data_ptr() for group in tensors.param_groups] == places  # where a recorded step reads them


def test_sgd_trains_and_clips(few_digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def clip_and_look(parameters: Iterator[torch.nn.Parameter], limit: float) -> Tensor:
        kept = list(parameters)
        before = clip(kept, limit)
        norms.append(torch.stack([p.grad.norm() for p in kept if p.grad is not None]).norm().item())
        return before

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip_and_look)
    recipe = replace(PLAIN, optimizer="sgd", momentum=0.9, clip_norm=0.01, schedule="step", step_epochs=2, step_factor=0.5)
    history = fit(network(), few_digits, recipe)
    assert [row["lr"] for row in history] == pytest.approx([0.1, 0.1, 0.05, 0.05])
    assert len(norms) == 16
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


def test_a_head_of_its_own_rate_needs_a_classifier() -> None:
    with pytest.raises(ValueError, match="head_lr needs a model whose last linear layer is named classifier"):
        make_optimizer(torch.nn.Linear(2, 2), replace(PLAIN, head_lr=0.1))


def test_the_cool_down_stays_at_the_end() -> None:
    rates = [warmup_cosine(step, total=120, warmup=10, peak=1.0, end=0.01, cooldown=20) for step in range(120)]
    assert rates[100:] == pytest.approx([0.01] * 20)
    assert rates[:100] == [warmup_cosine(step, total=100, warmup=10, peak=1.0, end=0.01) for step in range(100)]


def test_the_cosine_never_ends_above_its_rate() -> None:
    rates = [learning_rate(replace(PLAIN, lr=1e-6), step, 4) for step in range(16)]
    assert rates == pytest.approx([1e-6] * 16)


def test_the_published_recipes_rise_to_their_rate_and_end_where_they_say() -> None:
    assert set(PUBLISHED) == {
        "CCT_300",
        "CCT_LIGHT_200",
        "VGG_300",
        "PARK_KIM_300",
        "SHORT_16",
        "SHORT_8",
        "SMOKE_8",
        "FLOWERS_150",
        "FAST_50",
        "FAST_FLOWERS_150",
        "SHORT_VGG_12",
    }
    for recipe in PUBLISHED.values():
        rates = [learning_rate(recipe, step, 4) for step in range(4 * recipe.epochs)]
        assert max(rates) == pytest.approx(recipe.lr, rel=1e-3)
    assert learning_rate(recipes.CCT_300, 300 * 4, 4) == pytest.approx(1e-5)
    assert learning_rate(recipes.CCT_300, 0, 4) == pytest.approx(1e-6)
    assert learning_rate(recipes.VGG_300, 299 * 4, 4) == pytest.approx(0.028 * 0.6**14)
    assert learning_rate(recipes.PARK_KIM_300, 305 * 4, 4) == pytest.approx(0.0)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_published_recipes_train(name: str, few_digits: Dataset) -> None:
    recipe = replace(PUBLISHED[name], epochs=11, cooldown_epochs=None, batch_size=64, precision="float32", eval_every=11)
    model, start = network(), network().state_dict()
    history = fit(model, few_digits, recipe)
    assert len(history) == 11
    assert all(not torch.equal(tensor, start[key]) for key, tensor in model.state_dict().items() if key.endswith("weight"))


class _Looks(TorchDispatchMode):
    """Counts how often Python asks for a value that the device would have to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        if name.startswith(("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.masked_select", "aten.equal")):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["CCT_300", "CCT_LIGHT_200", "PARK_KIM_300"])
def test_no_step_waits_for_the_device(name: str, few_digits: Dataset) -> None:
    recipe = replace(PUBLISHED[name], batch_size=48, precision="float32", clip_norm=None)
    model = network().train()
    training = Training(model, few_digits, recipe, 0, torch.device("cpu"), "", None)
    next(training.batches())  # a policy makes its tables once
    with _Looks() as looks:
        for inputs, targets in itertools.islice(training.batches(), 2):
            training.step(model, inputs, targets)
    assert looks.found == []
    with _Looks() as looks:
        training.check()
    assert looks.found == ["aten._local_scalar_dense.default"] * 2  # once an epoch: did a loss go wrong, did a weight


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"optimizer": "sgd"}, "momentum belongs to optimizer='sgd'"),
        ({"momentum": 0.9}, "momentum belongs to optimizer='sgd'"),
        ({"schedule": "step", "step_epochs": 3}, "step_factor belongs to schedule='step'"),
        ({"resized_crop": 0.8, "crop_padding": 4}, "set crop_padding to 0"),
        ({"resized_crop": 1.5}, r"resized_crop must lie in \(0, 1\]"),
        ({"erasing": 0.0}, "erasing must lie in"),
        ({"mixup": 0.0}, "mixup must be positive"),
        ({"clip_norm": 0.0}, "clip_norm must be positive"),
        (
            {"optimizer": "sgd", "momentum": 0.9, "schedule": "step", "step_epochs": 2, "step_factor": 0.5, "warmup_epochs": 1.0},
            "warmup_epochs and cooldown_epochs belong to schedule='cosine'",
        ),
        ({"warmup_epochs": 3.0, "cooldown_epochs": 2.0}, "exceed the 4 epochs"),
        ({"policy": "trivial"}, "policy must be one of None, 'rand-m9-mstd0.5-inc1'"),
        ({"optimizer": "lamb"}, "optimizer must be one of"),
        ({"normalization": "none"}, "normalization must be one of"),
        ({"head_constant": True}, "head_constant holds head_lr: give both"),
        ({"crop_fill": "grey"}, "crop_fill needs normalization='unit'"),
        ({"crop_fill": "grey", "normalization": "unit", "policy": "autoaugment"}, "and no policy"),
    ],
)
def test_options_that_exclude_each_other_are_refused_by_name(wrong: dict[str, Any], reason: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=reason):
        replace(PLAIN, **wrong)


def test_matrix_units_decide_where_precision_is_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert uses_bfloat16("auto", cpu)
    assert not uses_bfloat16("float32", cpu)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert not uses_bfloat16("auto", cpu)
    assert uses_bfloat16("bfloat16", cpu)
    assert RECIPE.precision == "float32"
