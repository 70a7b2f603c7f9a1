"""Pruning: masks against the literal rule, zeros that stay zero, and smaller networks of the same function."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import twins
from hypothesis import given, strategies as st
from safetensors import safe_open
from shared import shortened, unchecked
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snp_lib import data, experiments, store
from snp_lib.data import Dataset, Split
from snp_lib.models import create_model
from snp_lib.models.cct import CCT
from snp_lib.performance import binarize, diagonal_sets
from snp_lib.pruning import block_permutation, blocked, compact, macs
from snp_lib.pruning.compact import BlockLinear
from snp_lib.pruning.masks import Masks, andc, apply_masks, density, layers, magnitude, random_clusters, random_sets, shuffled
from snp_lib.training import Stopped
from snp_lib.training.checkpoint import CheckpointError
from snp_lib.training.loop import train
from snp_lib.training.recipe import Recipe

CPU = torch.device("cpu")
ADAMW = Recipe(epochs=2, batch_size=48, lr=5e-3, weight_decay=0.1, crop_padding=1, eval_every=2)
SGD = replace(ADAMW, optimizer="sgd", momentum=0.9, clip_norm=0.1, lr=0.05)  # unlike AdamW, it feels the clipping


def network(seed: int = 0, **options: Any) -> CCT:
    """Two encoders, 12 channels, 18 hidden units, ten labels; biases differ from zero, so that constants count."""
    torch.manual_seed(seed)
    options = {"in_channels": 1, "image_size": 8, "embed_dim": 12, "num_heads": 3, "mlp_ratio": 1.5} | options
    model = create_model("cct_2_3x1", num_classes=10, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


MODEL = network()


def sets_of(model: CCT, seed: int = 0, share: float = 0.15, labels: int = 10) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {site: rng.random((units, labels)) < share for site, units in model.sites.items()}


def assert_same(found: Masks, expected: Masks) -> None:
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        assert torch.equal(found[name], mask), name


def constant_masks(value: bool) -> Masks:
    return {name: torch.full_like(MODEL.get_parameter(name), value, dtype=torch.bool) for name in layers(MODEL)}


def random_masks(seed: int, share: float) -> Masks:
    """Any masks, with whole rows and columns of zeros among them."""
    generator, out = torch.Generator().manual_seed(seed), {}
    for name in layers(MODEL):
        rows, columns = MODEL.get_parameter(name).shape
        alive = (torch.rand(rows, 1, generator=generator) < 0.8) & (torch.rand(1, columns, generator=generator) < 0.8)
        out[name] = alive & (torch.rand(rows, columns, generator=generator) < share)
    return out


def counts(masks: Masks) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


def masked(masks: Masks) -> CCT:
    model = network()
    apply_masks(model, masks)
    return model


# the rule


@given(seed=st.integers(0, 10**6), share=st.sampled_from((0.0, 0.02, 0.1, 0.3, 1.0)))
def test_andc_is_the_literal_rule(seed: int, share: float) -> None:
    sets = sets_of(MODEL, seed, share)
    assert_same(andc(sets, MODEL), twins.andc(sets, MODEL))


def test_silent_nodes_lose_everything_and_nodes_that_know_all_labels_nothing() -> None:
    assert_same(andc(sets_of(MODEL, share=0.0), MODEL), constant_masks(False))
    assert_same(andc(sets_of(MODEL, share=1.1), MODEL), constant_masks(True))


def test_one_encoder_alone() -> None:
    sets = sets_of(MODEL)
    whole, part = andc(sets, MODEL), andc(sets, MODEL, encoders=[2], classifier=False)
    assert list(part) == ["encoders.1.ff1.weight", "encoders.1.ff2.weight"]
    assert_same(part, {name: whole[name] for name in part})
    assert list(andc(sets, MODEL, encoders=[])) == ["classifier.weight"]


def test_a_larger_threshold_keeps_a_subset(smoke_run: store.Run) -> None:
    model = experiments.initial_model(smoke_run.experiment, 10)
    before = None
    for theta in (0.1, 0.3, 0.6, 0.9):
        masks = andc(sets_of_run(smoke_run, theta), model)
        for name, mask in masks.items():
            assert before is None or not (mask & ~before[name]).any(), (theta, name)
        before = masks
    assert density(masks)["total"] < 0.5 * density(andc(sets_of_run(smoke_run, 0.1), model))["total"]


def sets_of_run(run: store.Run, theta: float = 0.3, split: Any = "train") -> dict[str, np.ndarray]:
    return {site: diagonal_sets(binarize(run.matrices(site, split=split), theta)) for site in run.sites}


def test_no_test_label_reaches_a_decision(smoke_run: store.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything from the beginning with other test labels: training, readouts, matrices, masks."""
    load = data.load

    def scrambled(*args: Any, **options: Any) -> Dataset:
        dataset = load(*args, **options)
        order = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(0))
        return replace(dataset, test=Split(dataset.test.inputs, dataset.test.labels[order]))

    monkeypatch.setattr("snp_lib.data.load", scrambled)
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path))
    other = store.run(shortened(), device="cpu", progress=False)
    model = experiments.initial_model(smoke_run.experiment, 10)
    assert_same(andc(sets_of_run(other), model), andc(sets_of_run(smoke_run), model))
    with pytest.raises(AssertionError):  # those of the test split do differ: the test labels were scrambled
        assert_same(andc(sets_of_run(other, split="test"), model), andc(sets_of_run(smoke_run, split="test"), model))


# the controls


@given(seed=st.integers(0, 10**6), share=st.sampled_from((0.0, 0.05, 0.2, 0.5, 1.0)))
def test_random_sets_are_as_large_and_evenly_spread(seed: int, share: float) -> None:
    sets = sets_of(MODEL, seed, share)
    drawn = random_sets(sets, seed=seed)
    assert drawn.keys() == sets.keys()
    for site, own in sets.items():
        assert drawn[site].sum(1).tolist() == own.sum(1).tolist()
        users = drawn[site].sum(0)
        assert users.max() - users.min() <= 1


@given(seed=st.integers(0, 10**6), share=st.sampled_from((0.0, 0.02, 0.1, 0.3, 1.0)))
def test_controls_keep_as_many_weights_in_every_layer(seed: int, share: float) -> None:
    sets = sets_of(MODEL, seed, share)
    sets["block1.ff_hidden"][:, 0] = True  # one label everywhere: random labels agree less often
    sets["block2.ff"][:9] = False  # nodes that know nothing
    method = andc(sets, MODEL)
    for control in (random_clusters(sets, MODEL, method, seed=seed), magnitude(MODEL, method), shuffled(method, seed=seed)):
        assert counts(control) == counts(method)
        assert {name: mask.shape for name, mask in control.items()} == {name: mask.shape for name, mask in method.items()}


def test_controls_differ_from_the_method_and_by_seed_and_repeat() -> None:
    sets = sets_of(MODEL)
    method = andc(sets, MODEL)
    draw: list[Callable[[int], Masks]] = [
        lambda seed: random_clusters(sets, MODEL, method, seed=seed),
        lambda seed: shuffled(method, seed=seed),
    ]
    arms = [method, magnitude(MODEL, method), *(control(seed) for control in draw for seed in (0, 1))]
    for name in method:
        assert len({arm[name].numpy().tobytes() for arm in arms}) == len(arms), name
    for control in draw:
        assert_same(control(0), control(0))


def test_random_clusters_change_the_fewest_weights_of_their_rule() -> None:
    sets = sets_of(MODEL)
    method, rule = andc(sets, MODEL), andc(random_sets(sets, seed=7), MODEL)
    surplus = {name: int(rule[name].sum() - mask.sum()) for name, mask in method.items()}
    assert min(surplus.values()) < 0 < max(surplus.values())  # both directions occur
    for name, mask in random_clusters(sets, MODEL, method, seed=7).items():
        changed = mask != rule[name]
        assert int(changed.sum()) == abs(surplus[name])
        assert not (changed & (rule[name] != (surplus[name] > 0))).any()


def test_a_control_of_one_layer_does_not_depend_on_the_others() -> None:
    sets = sets_of(MODEL)
    whole, part = andc(sets, MODEL), andc(sets, MODEL, encoders=[2], classifier=False)
    for control in (lambda like: random_clusters(sets, MODEL, like, seed=0), lambda like: shuffled(like, seed=0)):
        assert_same(control(part), {name: control(whole)[name] for name in part})


def test_magnitude_keeps_the_largest_weights() -> None:
    like = random_masks(seed=0, share=0.3)
    for name, mask in magnitude(MODEL, like).items():
        size = MODEL.get_parameter(name).detach().abs()
        assert size[mask].min() > size[~mask].max()
    flat = network()
    nn.init.ones_(flat.classifier.weight)
    assert torch.equal(
        magnitude(flat, like)["classifier.weight"].flatten().nonzero()[:, 0], torch.arange(int(like["classifier.weight"].sum()))
    )


def test_density_counts_the_ones() -> None:
    masks = {"a": torch.tensor([[True, False], [False, False]]), "b": torch.tensor([[True], [True]])}
    assert density(masks) == {"a": 0.25, "b": 1.0, "total": 0.5}
    assert np.isnan(density({})["total"])


def test_masks_of_the_published_network_take_less_than_a_second() -> None:
    with torch.device("meta"):  # its weights are not needed
        model = create_model("cct_7_3x1", num_classes=100)
    sets = sets_of(model, share=0.04, labels=100)
    started = time.perf_counter()
    masks = andc(sets, model)
    assert time.perf_counter() - started < 1
    assert len(masks) == 15
    assert 0.1 < density(masks)["total"] < 0.2  # 1 − (1 − 0.04²)¹⁰⁰ = 0.148


# the mask held


@pytest.mark.parametrize("recipe", [ADAMW, SGD, replace(ADAMW, precision="bfloat16")], ids=["adamw", "sgd", "bfloat16"])
def test_masked_weights_are_zero_after_every_step_and_all_others_train(
    recipe: Recipe, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, before, masks = network(), network().state_dict(), andc(sets_of(MODEL, share=0.4), MODEL)  # leaves no dead unit
    kind, steps = (torch.optim.SGD if recipe.optimizer == "sgd" else torch.optim.AdamW), []
    step = kind.step

    def watched(self: Any, *args: Any) -> Any:
        steps.append(all((model.get_parameter(name)[~mask] == 0).all() for name, mask in masks.items()))
        return step(self, *args)

    monkeypatch.setattr(kind, "step", watched)  # sees the weights before every step: after the one before
    history = train(model, few_digits, recipe, masks=masks, seed=0, device=CPU, progress=False)
    assert [row["epoch"] for row in history] == [1, 2]
    assert steps == [True] * 8
    for name, parameter in model.named_parameters():
        kept = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert (parameter[~kept] == 0).all(), name
        if name != "pool.bias":  # the softmax over tokens cancels it
            assert (parameter[kept] != before[name][kept]).double().mean() > 0.9, name


class Multiplied(nn.Module):
    """A weight that is multiplied by its mask wherever it is used."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


@pytest.mark.parametrize("recipe", [ADAMW, SGD], ids=["adamw", "sgd"])
def test_a_held_mask_trains_as_a_network_that_multiplies_its_weights_by_it(recipe: Recipe, few_digits: Dataset) -> None:
    masks = random_masks(seed=1, share=0.4)
    held, literal = network(), network()
    for name, mask in masks.items():
        parametrize.register_parametrization(literal.get_submodule(name.removesuffix(".weight")), "weight", Multiplied(mask))
    losses = [row["train_loss"] for row in train(held, few_digits, recipe, masks=masks, seed=0, device=CPU, progress=False)]
    expected = [row["train_loss"] for row in train(literal, few_digits, recipe, seed=0, device=CPU, progress=False)]
    assert losses == pytest.approx(expected, abs=1e-5)
    difference = (logits(held) - logits(literal)).abs().max()
    assert difference < 1e-3, f"difference {difference:.1e}"


def test_all_ones_train_as_no_mask_bit_for_bit(few_digits: Dataset) -> None:
    plain, under = network(), network()
    train(plain, few_digits, ADAMW, seed=0, device=CPU, progress=False)
    train(under, few_digits, ADAMW, masks=constant_masks(True), seed=0, device=CPU, progress=False)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(under.state_dict()[name], tensor), name


def test_masks_survive_checkpoints_and_other_masks_are_refused(few_digits: Dataset, tmp_path: Path) -> None:
    masks, path = andc(sets_of(MODEL), MODEL), tmp_path / "checkpoint.safetensors"
    options: dict[str, Any] = {"seed": 0, "device": CPU, "progress": False, "fingerprint": "one", "checkpoint": path}
    uninterrupted, resumed = network(), network()
    train(uninterrupted, few_digits, ADAMW, masks=masks, seed=0, device=CPU, progress=False)
    with pytest.raises(Stopped):
        train(network(), few_digits, ADAMW, masks=masks, deadline=0.0, **options)  # after one step
    with safe_open(path, framework="pt") as file:
        for name, mask in masks.items():
            assert (file.get_tensor(f"model.{name}")[~mask] == 0).all()
    with pytest.raises(CheckpointError, match="belongs to another training"):
        train(network(), few_digits, ADAMW, masks=shuffled(masks, seed=0), **options)
    train(resumed, few_digits, ADAMW, masks=masks, **options)
    for name, tensor in uninterrupted.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_checkpoint_of_unmasked_weights_is_refused(few_digits: Dataset, tmp_path: Path) -> None:
    masks, model = andc(sets_of(MODEL), MODEL), network()
    options: dict[str, Any] = {"seed": 0, "device": CPU, "progress": False, "checkpoint": tmp_path / "checkpoint.safetensors"}
    with pytest.raises(Stopped):
        train(network(), few_digits, ADAMW, deadline=0.0, **options)
    with pytest.raises(CheckpointError, match="belongs to another training"):  # its momentum knows nothing of the masks
        train(model, few_digits, ADAMW, masks=masks, **options)


def test_frozen_layers_stay_as_they_are(few_digits: Dataset) -> None:
    masks = andc(sets_of(MODEL), MODEL, encoders=[2])
    model, before = network(), masked(masks).state_dict()
    model.requires_grad_(False)
    model.encoders[1].requires_grad_(True)
    train(model, few_digits, ADAMW, masks=masks, seed=0, device=CPU, progress=False)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith("encoders.1.")}


# real removal


@pytest.mark.parametrize("seed", range(4))
def test_the_compact_network_computes_what_the_masked_one_does(seed: int) -> None:
    masks = random_masks(seed, share=0.15)
    model = network()
    small, left = compact(model, masks)
    difference = (logits(small) - logits(masked(masks))).abs().max()
    assert difference < 1e-5, f"difference {difference:.1e}"
    for b in (0, 1):
        first, second = (masks[f"encoders.{b}.{layer}.weight"] for layer in ("ff1", "ff2"))
        dead = sum(not first[h].any() or not second[:, h].any() for h in range(18))
        assert 0 < dead < 18
        assert small.sites[f"block{b + 1}.ff_hidden"] == 18 - dead
        assert {left[f"encoders.{b}.ff1.weight"].shape[0], left[f"encoders.{b}.ff2.weight"].shape[1]} == {18 - dead}
    assert all(torch.equal(tensor, network().state_dict()[name]) for name, tensor in model.state_dict().items())  # untouched
    again, _ = compact(small, left)  # nothing more to remove
    assert again.sites == small.sites
    torch.testing.assert_close(logits(again), logits(small))


def test_a_constant_unit_moves_into_the_bias() -> None:
    masks = {"encoders.0.ff1.weight": torch.ones(18, 12, dtype=torch.bool)}
    masks["encoders.0.ff1.weight"][4] = False  # ff2 without a mask reads it all the same
    model = network()
    with torch.no_grad():
        model.encoders[0].ff1.bias[4] = 3.0
    small, _ = compact(model, masks)
    expected = model.encoders[0].ff2.bias + 2.9959 * model.encoders[0].ff2.weight[:, 4]  # gelu(3) = 3 Φ(3)
    torch.testing.assert_close(small.encoders[0].ff2.bias, expected, atol=1e-4, rtol=0)
    apply_masks(model, masks)
    torch.testing.assert_close(logits(small), logits(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [True, False])
def test_all_and_nothing_kept(value: bool) -> None:
    masks = constant_masks(value)
    small, _ = compact(network(), masks)
    assert [small.sites[f"block{b}.ff_hidden"] for b in (1, 2)] == [18 * value] * 2
    for other in (small, blocked(network(), masks)):
        torch.testing.assert_close(logits(other), logits(masked(masks)), atol=1e-5, rtol=0)
    if not value:
        assert torch.equal(logits(masked(masks)), network().classifier.bias.detach().expand(5, 10))
    total = macs(network(), masks)["total"]
    assert (total.kept, total.blocks, total.components) == ((total.dense, total.dense, 5) if value else (0, 0, 0))
    assert total.compact == (total.dense if value else 12 * 10)  # the classifier stays


def test_a_compact_network_is_trained_further_under_what_is_left(few_digits: Dataset) -> None:
    small, left = compact(network(), random_masks(seed=0, share=0.15))
    history = train(small, few_digits, ADAMW, masks=left, seed=0, device=CPU, progress=False)
    assert all((small.get_parameter(name)[~mask] == 0).all() for name, mask in left.items())
    assert history[-1]["train_loss"] < history[0]["train_loss"]


@st.composite
def bipartite(draw: st.DrawFn) -> Tensor:
    rows, columns = draw(st.integers(0, 12)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    return torch.rand(rows, columns, generator=generator) < draw(st.sampled_from((0.0, 0.05, 0.1, 0.3, 1.0)))


def literal_components(mask: Tensor) -> list[tuple[set[int], set[int]]]:
    """Grow a block from any one until nothing joins it."""
    found, left = [], {(int(j), int(i)) for j, i in mask.nonzero()}
    while left:
        block = {left.pop()}
        while joined := {one for one in left if any(one[0] == j or one[1] == i for j, i in block)}:
            block |= joined
            left -= joined
        found.append(({j for j, _ in block}, {i for _, i in block}))
    return found


@given(mask=bipartite())
def test_blocks_are_the_connected_components(mask: Tensor) -> None:
    form = block_permutation(mask)
    assert sorted(form.rows.tolist()) == list(range(mask.shape[0]))
    assert sorted(form.columns.tolist()) == list(range(mask.shape[1]))
    top, left, blocks = 0, 0, []
    for height, width in form.blocks:
        blocks.append((set(form.rows[top : top + height].tolist()), set(form.columns[left : left + width].tolist())))
        top, left = top + height, left + width
    expected = literal_components(mask)
    assert len(blocks) == len(expected)
    assert all(block in blocks for block in expected)
    sizes = [height * width for height, width in form.blocks]
    assert sizes == sorted(sizes, reverse=True)


def test_spectral_order_shows_near_blocks() -> None:
    """Two blocks joined by a few ones are one component; the order still keeps the two apart."""
    rng = np.random.default_rng(0)
    group_of_row, group_of_column = rng.permutation(np.arange(40) % 2), rng.permutation(np.arange(30) % 2)
    mask = (group_of_row[:, None] == group_of_column) & (rng.random((40, 30)) < 0.6) | (rng.random((40, 30)) < 0.03)
    form = block_permutation(torch.from_numpy(mask))
    assert len(form.blocks) == 1
    assert np.count_nonzero(np.diff(group_of_row[form.rows])) == 1
    assert np.count_nonzero(np.diff(group_of_column[form.columns])) == 1


@given(mask=bipartite(), biased=st.booleans())
def test_block_linear_is_the_masked_layer_exactly(mask: Tensor, biased: bool) -> None:
    if len(mask) == 0:
        mask = mask.new_zeros(3, mask.shape[1])  # torch warns at an empty layer
    dense = nn.Linear(mask.shape[1], len(mask), bias=biased)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.copy_(torch.randint(-9, 10, parameter.shape))  # sums of whole numbers are exact in any order
    x = torch.randint(-9, 10, (2, 3, mask.shape[1])).float()
    found = BlockLinear(dense, mask)(x)
    with torch.no_grad():
        dense.weight.mul_(mask)
    assert torch.equal(found, dense(x))


def test_the_network_of_blocks_computes_what_the_masked_one_does_and_trains() -> None:
    masks = random_masks(seed=0, share=0.05)
    network_of_blocks = blocked(network(), masks)
    assert sum(isinstance(module, BlockLinear) for module in network_of_blocks.modules()) == 5
    assert network_of_blocks.sites == MODEL.sites
    torch.testing.assert_close(logits(network_of_blocks), logits(masked(masks)), atol=1e-5, rtol=0)
    network_of_blocks(torch.randn(2, 1, 8, 8)).sum().backward()
    used = [p for module in network_of_blocks.modules() if isinstance(module, BlockLinear) for p in module.parameters()]
    assert all(p.grad is not None for p in used)


def test_macs_by_hand() -> None:
    masks = {"encoders.0.ff1.weight": torch.zeros(18, 12, dtype=torch.bool), "classifier.weight": torch.zeros(10, 12, dtype=torch.bool)}
    masks["encoders.0.ff1.weight"][:2, :3] = True  # one block of 2 × 3, its corner empty
    masks["encoders.0.ff1.weight"][0, 0] = False
    masks["classifier.weight"][0, :2] = True
    masks["classifier.weight"][9, 11] = True
    cost = macs(MODEL, masks)
    tokens = MODEL.config.num_tokens
    assert tokens == 16
    first, last = cost["encoders.0.ff1.weight"], cost["classifier.weight"]
    assert (first.dense, first.kept, first.compact, first.blocks, first.components) == (16 * 216, 16 * 5, 16 * 24, 16 * 6, 1)
    assert (last.dense, last.kept, last.compact, last.blocks, last.components) == (120, 3, 120, 3, 2)
    assert cost["total"].dense == 16 * 216 + 120
    small, _ = compact(MODEL, masks)
    assert first.compact == tokens * small.encoders[0].ff1.weight.numel()
    form = blocked(MODEL, masks)
    assert first.blocks == tokens * sum(block.numel() for block in form.encoders[0].ff1.blocks)


# refusals


def test_refusals_name_what_is_wrong() -> None:
    sets = sets_of(MODEL)
    fewer = {site: s for site, s in sets.items() if site != "block1.ff_hidden"}
    mask = {"classifier.weight": torch.ones(10, 12, dtype=torch.bool)}
    wrong: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: layers(nn.Linear(2, 2)), TypeError, "no layers to prune are defined for Linear"),
        (lambda: andc(sets, MODEL, encoders=[3]), ValueError, "no encoder 3 to prune: this model has encoders 1 to 2"),
        (lambda: andc(sets, MODEL, encoders=[0]), ValueError, "no encoder 0"),
        (lambda: andc(fewer, MODEL), ValueError, "no diagonal sets for site 'block1.ff_hidden'; given are block1.mha"),
        (lambda: andc(sets | {"block1": sets["block1"][:5]}, MODEL), ValueError, "'block1' has 12 units in this model, .* have 5"),
        (lambda: andc(sets | {"block2": sets["block2"][:, :7]}, MODEL), ValueError, r"encoders.1.ff1.weight joins sets over 7 labels"),
        (lambda: andc(sets_of(MODEL, labels=7), MODEL), ValueError, r"classifier.weight joins sets over 7 labels \(block2\) and 10"),
        (lambda: random_clusters(sets, MODEL, {"pool.weight": mask["classifier.weight"]}, seed=0), ValueError, "'pool.weight'"),
        (lambda: magnitude(MODEL, {"nothing": mask["classifier.weight"]}), ValueError, "no parameter 'nothing'"),
        (lambda: apply_masks(network(), {"nothing": mask["classifier.weight"]}), ValueError, "no parameter 'nothing' to mask"),
        (lambda: apply_masks(network(), {"classifier.weight": mask["classifier.weight"].T}), ValueError, r"\(10, 12\), got .*\(12, 10\)"),
        (lambda: apply_masks(network(), {"classifier.weight": torch.ones(10, 12)}), ValueError, "must be Boolean"),
        (lambda: compact(network(), {"pool.weight": torch.ones(1, 12, dtype=torch.bool)}), ValueError, "'pool.weight' is no layer"),
        (lambda: macs(network(), {"classifier.weight": mask["classifier.weight"].T}), ValueError, r"must have shape \(10, 12\)"),
    ]  # fmt: skip
    with unchecked():
        for call, kind, message in wrong:
            with pytest.raises(kind, match=message):
                call()
