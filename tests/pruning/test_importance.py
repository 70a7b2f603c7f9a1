"""Connections between filters: the rule by loops, its controls and rivals, and fine-tuning as the released code of paper C does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from snp_lib.data import Dataset
from snp_lib.latency import count_macs
from snp_lib.models import create_model
from snp_lib.models.vgg import VGG
from snp_lib.pruning import andc, blocked, compact, finetune, macs, magnitude, prune, random_clusters, shuffled
from snp_lib.pruning.importance import l1_norm, strongest_connections, strongest_filters, taylor
from snp_lib.pruning.masks import Masks, connections, random_sets, whole_connections
from snp_lib.store import weights
from snp_lib.training.recipe import Recipe

SGD = Recipe(
    epochs=1, batch_size=48, lr=0.01, weight_decay=1e-3, optimizer="sgd", momentum=0.9, crop_padding=1, flip=False, normalization="unit"
)
PRUNED = ["blocks.7.conv.weight", "blocks.8.conv.weight", "blocks.9.conv.weight", "classifier.weight"]


def network(seed: int = 0) -> VGG:
    torch.manual_seed(seed)
    model = create_model("vgg11", num_classes=10, narrowing=32, in_channels=1)
    assert isinstance(model, VGG)
    return model.to(memory_format=torch.channels_last).eval()


MODEL = network()


def sets_of(seed: int = 0, share: float = 0.15) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {site: rng.random((units, 10)) < share for site, units in MODEL.sites.items()}


def method_of(seed: int = 0, share: float = 0.15) -> Masks:
    return andc(sets_of(seed, share), MODEL, encoders=[8, 9, 10])


def by_loops(sets: dict[str, np.ndarray]) -> Masks:
    """AFCC weight by weight: filters of consecutive layers with a common label, and the 2 × 2 places of a filter to its labels."""
    known = {site: [set(np.flatnonzero(row)) for row in rows] for site, rows in sets.items()}
    out = {}
    for b in (8, 9, 10):
        mask = torch.zeros(MODEL.get_parameter(f"blocks.{b - 1}.conv.weight").shape, dtype=torch.bool)
        for i, after in enumerate(known[f"block{b}"]):
            for j, before in enumerate(known[f"block{b - 1}"]):
                mask[i, j, :, :] = len(after & before) > 0
        out[f"blocks.{b - 1}.conv.weight"] = mask
    mask = torch.zeros(10, MODEL.sites["block10"] * 4, dtype=torch.bool)
    for label in range(10):
        for j, of_filter in enumerate(known["block10"]):
            for place in range(4):
                mask[label, 4 * j + place] = label in of_filter
    return out | {"classifier.weight": mask}


@pytest.mark.parametrize(("seed", "share"), [(0, 0.0), (1, 0.05), (2, 0.15), (3, 0.4), (4, 1.1)])
def test_masks_of_filters_are_the_literal_rule(seed: int, share: float) -> None:
    found, expected = method_of(seed, share), by_loops(sets_of(seed, share))
    assert list(found) == list(expected) == PRUNED
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_connections_and_their_weights_are_the_same_thing() -> None:
    method = method_of()
    connected = connections(method, MODEL)
    assert {name: tuple(mask.shape) for name, mask in connected.items()} == {
        PRUNED[0]: (16, 8), PRUNED[1]: (16, 16), PRUNED[2]: (16, 16), PRUNED[3]: (10, 16)
    }  # fmt: skip
    assert all(torch.equal(mask, method[name]) for name, mask in whole_connections(connected, MODEL).items())
    with pytest.raises(ValueError, match=r"'blocks\.0\.conv\.weight' is no layer between units"):
        connections({"blocks.0.conv.weight": torch.ones(2, 1, 3, 3, dtype=torch.bool)}, MODEL)


def test_controls_keep_whole_connections_and_as_many() -> None:
    sets, method = sets_of(), method_of()
    worth = l1_norm(MODEL, PRUNED)
    arms = [
        random_clusters(sets, MODEL, method, seed=0, labels=5),
        shuffled(method, seed=0, model=MODEL),
        strongest_connections(worth, method, MODEL),
    ]
    for arm in arms:
        assert {name: int(mask.sum()) for name, mask in arm.items()} == {name: int(mask.sum()) for name, mask in method.items()}
        assert all(torch.equal(whole_connections(connections({name: arm[name]}, MODEL), MODEL)[name], arm[name]) for name in arm)
        assert any(not torch.equal(arm[name], method[name]) for name in arm)
    largest = magnitude(MODEL, method)
    assert any(connections({name: largest[name]}, MODEL)[name].sum() > connections(method, MODEL)[name].sum() for name in PRUNED)
    assert {row.sum() for row in random_sets(sets, seed=0, labels=5)["block9"]} == {5}


def test_the_l1_norm_of_a_connection_by_loops() -> None:
    worth = l1_norm(MODEL, PRUNED)
    weight, classifier = (MODEL.get_parameter(name).detach() for name in (PRUNED[1], "classifier.weight"))
    for i, j in np.ndindex(3, 5):
        assert worth[PRUNED[1]][i, j].item() == pytest.approx(sum(abs(float(w)) for w in weight[i, j].flatten()), rel=1e-5)
        assert worth["classifier.weight"][i, j].item() == pytest.approx(float(classifier[i, 4 * j : 4 * j + 4].abs().sum()), rel=1e-5)


def batches(n: int = 60) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(n, 1, 32, 32, generator=generator), torch.randint(10, (n,), generator=generator)
    yield from zip(images.split(25), labels.split(25), strict=True)


def test_the_taylor_expansion_is_the_first_order_change_of_the_loss() -> None:
    model = network(1)
    worth = taylor(model, PRUNED, batches(), lambda x: x)
    images, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    weight, step = model.get_parameter(PRUNED[2]), 1e-2
    with torch.no_grad():
        for i, j in ((0, 0), (3, 7), (15, 2)):  # towards zero by a small step of the connection's weights
            losses = []
            for sign in (1, -1):
                kept = weight[i, j].clone()
                weight[i, j] *= 1 + sign * step
                losses.append(F.cross_entropy(model.double()(images.double()), labels).item())
                model.float()
                weight[i, j] = kept
            assert worth[PRUNED[2]][i, j].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-2, abs=1e-7)
    assert all(p.grad is None for p in model.parameters())


def test_the_weakest_filters_go_with_all_they_read_and_write() -> None:
    method, worth = method_of(share=0.25), l1_norm(MODEL, PRUNED)
    found = connections(strongest_filters(worth, method, MODEL), MODEL)
    norms = {b: MODEL.get_parameter(f"blocks.{b - 1}.conv.weight").detach().abs().flatten(1).sum(1) for b in (8, 9, 10)}
    alive = {b: found[f"blocks.{b - 1}.conv.weight"].any(1) for b in norms}
    kept = {int(mask.sum()) for mask in alive.values()}
    assert len(kept) == 1  # sixteen filters in each of the three layers: the same share is the same number
    for b, mask in alive.items():
        assert norms[b][mask].min() > norms[b][~mask].max()
        reader = found[f"blocks.{b}.conv.weight"] if b < 10 else found["classifier.weight"]
        assert torch.equal(reader.any(0), mask)
    wanted, left = (sum(int(mask.sum()) for mask in masks.values()) for masks in (method, whole_connections(found, MODEL)))
    (number,) = kept
    sizes = [(8 * n + 2 * n * n) * 9 + 10 * n * 4 for n in (number - 1, number, number + 1)]
    assert left == sizes[1]
    assert abs(left - wanted) == min(abs(size - wanted) for size in sizes)


def test_single_layers_lose_the_filters_they_write_and_a_classifier_those_it_reads() -> None:
    worth = l1_norm(MODEL, PRUNED)
    for name in PRUNED:
        method = {name: method_of(share=0.25)[name]}
        found = connections(strongest_filters(worth, method, MODEL), MODEL)[name]
        alive = found.any(0) if name == "classifier.weight" else found.any(1)
        assert torch.equal(found, (alive if name == "classifier.weight" else alive.unsqueeze(1)).expand_as(found))
        assert 0 < int(alive.sum()) < len(alive)


def test_work_is_counted_by_kernels_and_pixels() -> None:
    method = method_of()
    costs, connected = macs(MODEL, method), connections(method, MODEL)
    assert costs[PRUNED[1]].dense == 16 * 16 * 9 * 4 * 4
    assert costs[PRUNED[1]].kept == int(connected[PRUNED[1]].sum()) * 9 * 4 * 4
    assert costs["classifier.weight"].dense == 10 * 16 * 4
    silent = {site: rows.copy() for site, rows in sets_of().items()}
    silent["block9"][:4] = False  # filters that recognise nothing lose all they read and write
    cost = macs(MODEL, andc(silent, MODEL, encoders=[8, 9, 10]))[PRUNED[2]]
    assert cost.compact <= 12 * 16 * 9 * 16


@pytest.fixture
def digits(few_digits: Dataset) -> Dataset:
    """At 32 pixels."""
    inputs = few_digits.train.inputs.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return replace(few_digits, train=replace(few_digits.train, inputs=inputs))


@pytest.mark.parametrize("moving", [False, True])
def test_what_is_masked_stays_zero_to_the_file_and_frozen_normalisation_moves_only_when_told(
    moving: bool, digits: Dataset, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    masks: dict[str, Masks] = {"afcc": method_of(), "dense": {}}
    networks = {name: prune(MODEL, each) for name, each in masks.items()}
    finetune(MODEL, networks, masks, digits, SGD, encoder=8, seed=0, moving=moving, progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in MODEL.state_dict().items())
    for name, tuned in networks.items():
        weights.write(tmp_path / name, tuned.state_dict())
        with safe_open(tmp_path / name, framework="pt") as file:
            for key, mask in masks[name].items():
                assert (file.get_tensor(key)[~mask] == 0).all()
                assert (file.get_tensor(key)[mask] != 0).any()
        for key, tensor in tuned.state_dict().items():
            if not key.startswith(("blocks.7.", "blocks.8.", "blocks.9.", "classifier")):
                statistics = key.endswith(("running_mean", "running_var", "num_batches_tracked"))
                assert torch.equal(tensor, before[key]) == (not (statistics and moving)), key
    first, other = (tuned.state_before(8) for tuned in networks.values())
    assert all(torch.equal(tensor, other[key]) for key, tensor in first.items())


def test_parameters_that_need_no_gradient_stay(digits: Dataset) -> None:
    tuned = prune(MODEL, {})
    for name, parameter in tuned.named_parameters():
        parameter.requires_grad_(name.startswith(("blocks.7.", "blocks.8.")))
    finetune(MODEL, {"pair": tuned}, {"pair": {}}, digits, SGD, encoder=7, seed=0, progress=False)
    changed = {name.rsplit(".", 2)[0] for name, p in tuned.named_parameters() if not torch.equal(p, MODEL.get_parameter(name))}
    assert changed == {"blocks.7", "blocks.8"}


def test_networks_made_smaller_compute_the_same() -> None:
    sets = sets_of(share=0.25)
    for site in ("block8", "block9", "block10"):
        sets[site][:5] = False  # filters without a cluster go, their normalisation with them
    masks = andc(sets, MODEL, encoders=[8, 9, 10])
    lively = network()
    with torch.no_grad():
        for tensor in (*lively.parameters(), *(b for b in lively.buffers() if b.is_floating_point())):
            tensor.add_(torch.rand_like(tensor), alpha=0.1)
        x, masked = lively.example(3), prune(lively, masks)
        small, left = compact(lively, masks)
        read = [connections(masks, lively)[name].any(0) for name in PRUNED]  # filters that something reads stay
        assert [small.sites[f"block{b}"] for b in (7, 8, 9, 10)] == [8, *(int(mask.sum()) for mask in read[1:])]
        assert all(not mask[:5].any() for mask in read[1:])
        assert {name: small.get_parameter(name).shape for name in masks} == {name: mask.shape for name, mask in left.items()}
        torch.testing.assert_close(small(x), masked(x))
        torch.testing.assert_close(blocked(lively, masks)(x), masked(x))
        nothing = {name: torch.zeros_like(mask) for name, mask in masks.items()}
        torch.testing.assert_close(blocked(lively, nothing)(x), prune(lively, nothing)(x))
    assert small.get_parameter("blocks.8.norm.weight").shape == (small.sites["block9"],)
    assert count_macs(small) < count_macs(lively)
