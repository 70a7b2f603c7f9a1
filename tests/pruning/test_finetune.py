"""Fine-tuning of pruned copies side by side: as each one alone, from the encoder named on, and what they then say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from snp_lib.data import Dataset
from snp_lib.models.cct import CCT
from snp_lib.pruning import finetune, prune, shared_logits
from snp_lib.pruning.masks import Masks, andc, shuffled
from snp_lib.training import Stopped
from snp_lib.training.loop import TrainingError, train
from snp_lib.training.prediction import predict
from snp_lib.training.preparation import make_normalize
from snp_lib.training.recipe import Recipe
from tests.pruning.test_masks import ADAMW, CPU, SGD, network, sets_of

MODEL = network(stochastic_depth=0.0, attention_dropout=0.0).to(memory_format=torch.channels_last)  # as a training runs it: the same bits


def two_arms(encoder: int) -> dict[str, Masks]:
    method = andc(sets_of(MODEL, share=0.4), MODEL, encoders=range(encoder, 3))
    return {"method": method, "shuffled": shuffled(method, seed=0)}


def pruned(arms: dict[str, Masks]) -> dict[str, CCT]:
    return {name: prune(MODEL, masks) for name, masks in arms.items()}


def alone(masks: Masks, encoder: int, dataset: Dataset, recipe: Recipe) -> tuple[CCT, list[float]]:
    """The naive twin: a whole training of one network, frozen before the encoder."""
    model = prune(MODEL, masks)
    for part in (model.tokenizer, model.encoders[: encoder - 1]):
        part.requires_grad_(False)
    model.positions.requires_grad_(False)
    history = train(model, dataset, recipe, seed=0, device=CPU, masks=masks, progress=False)
    return model, [row["train_loss"] for row in history]


@pytest.mark.parametrize("encoder", [1, 2])
@pytest.mark.parametrize(
    "recipe", [ADAMW, SGD, replace(ADAMW, precision="bfloat16"), replace(ADAMW, mixup=0.8)], ids=["adamw", "sgd", "bfloat16", "mixup"]
)
def test_each_network_is_trained_as_if_alone(encoder: int, recipe: Recipe, few_digits: Dataset) -> None:
    arms = two_arms(encoder)
    networks = pruned(arms)
    losses = finetune(MODEL, networks, arms, few_digits, recipe, encoder=encoder, seed=0, progress=False)
    for name, masks in arms.items():
        expected, expected_losses = alone(masks, encoder, few_digits, recipe)
        assert losses[name] == expected_losses
        for key, tensor in expected.state_dict().items():
            assert torch.equal(networks[name].state_dict()[key], tensor), (name, key)
        assert not networks[name].training


def test_what_is_shared_stays_and_what_is_masked_stays_zero(few_digits: Dataset) -> None:
    arms, before = two_arms(2), {key: tensor.clone() for key, tensor in MODEL.state_dict().items()}
    networks = pruned(arms)
    finetune(MODEL, networks, arms, few_digits, ADAMW, encoder=2, seed=0, progress=False)
    for name, model in networks.items():
        for key, tensor in model.state_dict().items():
            shared = key.startswith(("tokenizer.", "positions", "encoders.0."))
            assert torch.equal(tensor, before[key]) == shared or key == "pool.bias", key  # the softmax over tokens cancels it
            if key in arms[name]:
                assert (tensor[~arms[name][key]] == 0).all()
    assert all(torch.equal(tensor, before[key]) for key, tensor in MODEL.state_dict().items())
    assert not MODEL.training


def test_dropout_acts_behind_the_shared_part_and_is_the_same_for_all(few_digits: Dataset) -> None:
    model = network(dropout=0.3)
    ones = {name: torch.ones_like(mask) for name, mask in two_arms(2)["method"].items()}
    networks = {"a": prune(model, ones), "b": prune(model, ones)}
    first = finetune(model, networks, {"a": ones, "b": ones}, few_digits, ADAMW, encoder=2, seed=0, progress=False)
    assert first["a"] == first["b"]
    without = network(dropout=0.0)
    without.load_state_dict(model.state_dict())
    plain = finetune(without, {"a": prune(without, ones)}, {"a": ones}, few_digits, ADAMW, encoder=2, seed=0, progress=False)
    assert plain["a"] != first["a"]


@pytest.mark.parametrize("encoder", [1, 2])
def test_shared_logits_are_those_of_each_network(encoder: int, few_digits: Dataset) -> None:
    networks, normalize = pruned(two_arms(encoder)), make_normalize(ADAMW, few_digits.train.inputs)
    found = shared_logits(MODEL, networks, few_digits.test, normalize, encoder=encoder, batch_size=32)
    for name, model in networks.items():
        torch.testing.assert_close(found[name], predict(model, few_digits.test, normalize), atol=1e-5, rtol=0)


def test_refusals(few_digits: Dataset) -> None:
    arms = two_arms(2)
    networks = pruned(arms)
    options: dict[str, Any] = {"dataset": few_digits, "recipe": ADAMW, "seed": 0, "progress": False}
    with pytest.raises(ValueError, match=r"the same names, got \['method', 'shuffled'\] and \['method'\]"):
        finetune(MODEL, networks, {"method": arms["method"]}, encoder=2, **options)
    with pytest.raises(ValueError, match="no encoder 3 to train from: this model has encoders 1 to 2"):
        finetune(MODEL, networks, arms, encoder=3, **options)
    with pytest.raises(ValueError, match="method is another network before encoder 2"):
        finetune(network(1), networks, arms, encoder=2, **options)
    with pytest.raises(ValueError, match=r"masks of all reach before encoder 2: encoders\.0\.ff1\.weight"):
        finetune(MODEL, {"all": prune(MODEL, {})}, {"all": two_arms(1)["method"]}, encoder=2, **options)
    with pytest.raises(Stopped, match="while pruned networks were fine-tuned"):
        finetune(MODEL, networks, arms, encoder=2, deadline=0.0, **options)
    with pytest.raises(TrainingError, match="not finite or exceeded"):
        finetune(MODEL, networks, arms, encoder=2, **options | {"recipe": replace(ADAMW, lr=math.inf)})
    assert finetune(MODEL, {}, {}, encoder=1, **options) == {}
