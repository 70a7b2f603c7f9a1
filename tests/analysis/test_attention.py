"""What heads attend to, against attention written out query by query, and what the label explains, against sums and shuffles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from snp_lib.analysis.attention import (
    RIDGE,
    attend_to,
    decoded,
    explained_by_chance,
    explained_by_label,
    halves,
    means_by_label,
    pooled,
    reduced,
    token_distances,
    uniform_distance,
)
from snp_lib.data import Split
from snp_lib.models import create_model
from snp_lib.models.cct import CCT
from snp_lib.models.encoder import attend

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model() -> CCT:
    torch.manual_seed(0)
    made = create_model("cct_2_3x1", num_classes=5, embed_dim=32, num_heads=4, image_size=16)
    for encoder in made.encoders:
        torch.nn.init.normal_(encoder.attention.qkv.weight, std=0.5)  # far from uniform attention
    assert isinstance(made, CCT)
    return made.eval()


def plain(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255


def split_of(images: int, labels: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (images, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return Split(inputs, torch.arange(images) % labels)


@torch.no_grad()
def test_every_head_is_measured_as_its_attention_written_out(model: CCT) -> None:
    split = split_of(7, 5)
    found = attend_to(model, split, plain, batch_size=3, rows=2)
    _, features = model(plain(split.inputs), sites=["block1"])
    side, tokens, width = 8, 64, 8
    for block, stream in ((0, model.embed(plain(split.inputs))), (1, features["block1"])):
        encoder = model.stack()[block]
        query, key, _ = encoder.attention.qkv(encoder.norm1(stream)).chunk(3, dim=-1)
        for image, head in ((0, 0), (6, 3)):
            own = slice(head * width, (head + 1) * width)
            received, entropy, distance = np.zeros(tokens), 0.0, 0.0
            for q in range(tokens):
                scores = [float(query[image, q, own] @ key[image, k, own]) / width**0.5 for k in range(tokens)]
                weights = np.exp(scores) / np.exp(scores).sum()
                received += weights / tokens
                entropy -= (weights * np.log2(weights)).sum() / tokens
                apart = [np.hypot(q // side - k // side, q % side - k % side) for k in range(tokens)]
                distance += (weights * apart).sum() / tokens
            np.testing.assert_allclose(found.maps[block, head, image], received, rtol=1e-3, atol=1e-6)
            assert found.entropy[block, head, image] == pytest.approx(entropy, rel=1e-4)
            assert found.distance[block, head, image] == pytest.approx(distance, rel=1e-4)


@torch.no_grad()
def test_weights_are_those_that_the_outputs_are_made_of(model: CCT) -> None:
    hidden = model.before(plain(split_of(3, 3).inputs), 2)
    encoder = model.stack()[1]
    q, k, v = encoder.attention.qkv(encoder.norm1(hidden)).view(3, 64, 3, 4, 8).permute(2, 0, 3, 1, 4)
    weights = model.attention_weights(hidden, 2)
    torch.testing.assert_close(weights @ v, attend(q, k, v))
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 64))


def test_products_in_bfloat16_give_nearly_the_same_maps(model: CCT) -> None:
    split = split_of(4, 4)
    exact, lowered = attend_to(model, split, plain), attend_to(model, split, plain, bfloat16=True)
    assert lowered.maps.dtype == np.float32
    np.testing.assert_allclose(lowered.maps.sum(-1), 1, rtol=1e-5)  # the weights themselves are not rounded
    assert np.corrcoef(exact.maps.ravel(), lowered.maps.ravel())[0, 1] > 0.98


def test_a_network_that_does_not_describe_its_attention_says_so() -> None:
    resnet = create_model("resnet18", num_classes=5)
    with pytest.raises(NotImplementedError, match="grid"):
        attend_to(resnet, split_of(2, 2), plain)
    with pytest.raises(NotImplementedError, match="attend"):
        resnet.attention_weights(torch.zeros(1), 1)


def test_uniform_attention_has_all_bits_and_the_mean_distance() -> None:
    apart = token_distances(3, 5)
    maps, entropy, distance = reduced(torch.full((2, 1, 15, 15), 1 / 15), apart)
    torch.testing.assert_close(maps, torch.full((2, 1, 15), 1 / 15))
    assert entropy.flatten().tolist() == pytest.approx([np.log2(15)] * 2)
    assert distance.flatten().tolist() == pytest.approx([uniform_distance(3, 5)] * 2)
    assert uniform_distance(1, 2) == 0.5  # half of the queries attend to themselves
    assert apart[0].tolist() == pytest.approx([np.hypot(i // 5, i % 5) for i in range(15)])
    single = torch.eye(15).expand(2, 1, 15, 15)
    assert reduced(single, apart)[1].abs().max() == 0
    assert reduced(single, apart)[2].abs().max() == 0


def test_what_the_label_explains_is_the_sum_of_squares_between_labels() -> None:
    maps, labels = RNG.normal(size=(40, 6)), RNG.permutation(np.arange(40) % 7)
    maps[labels == 2] += 1
    found = explained_by_label(maps, labels, 7)
    total = sum(np.sum((row - maps.mean(0)) ** 2) for row in maps)
    within = sum(np.sum((row - maps[labels == label].mean(0)) ** 2) for row, label in zip(maps, labels, strict=True))
    assert found.sum() == pytest.approx(1 - within / total)
    assert found.argmax() == 2
    assert np.isnan(explained_by_label(np.ones((40, 6)), labels, 7)).all()
    with pytest.raises(ValueError, match="label 7 has no image"):
        explained_by_label(maps, labels, 8)


def test_chance_is_the_mean_over_shuffles() -> None:
    maps, labels = RNG.normal(size=(30, 3)), np.repeat([0, 1, 2], [5, 10, 15])
    shuffles = [explained_by_label(maps, RNG.permutation(labels), 3) for _ in range(3000)]
    chance = explained_by_chance(np.array([5, 10, 15]))
    np.testing.assert_allclose(np.mean(shuffles, axis=0), chance, rtol=0.06)
    assert chance.sum() == pytest.approx(2 / 29)


@pytest.mark.parametrize("whitened", [False, True])
def test_a_label_is_decoded_by_the_nearest_mean_of_the_other_half(whitened: bool) -> None:
    labels = RNG.permutation(np.arange(60) % 4)
    maps = RNG.normal(size=(60, 5)) * [1, 3, 1, 1, 1] + 1.5 * np.eye(5)[labels]
    half, hits = halves(labels, 4), np.zeros(4, dtype=int)
    for i, label in enumerate(labels):
        other = half != half[i]
        means = [maps[other & (labels == each)].mean(0) for each in range(4)]
        spread = np.eye(5)
        if whitened:
            residuals = np.stack([maps[j] - means[labels[j]] for j in np.flatnonzero(other)])
            spread = residuals.T @ residuals / other.sum()
            spread = np.linalg.inv(spread + RIDGE * np.trace(spread) / 5 * np.eye(5))
        apart = [(maps[i] - mean) @ spread @ (maps[i] - mean) for mean in means]
        hits[label] += int(np.argmin(apart)) == label
    assert decoded(maps, labels, 4, whitened=whitened).tolist() == hits.tolist()


def test_whitening_finds_what_a_loud_token_hides() -> None:
    labels = np.arange(400) % 4
    maps = RNG.normal(size=(400, 5)) * [30, 1, 1, 1, 1]
    maps[:, 1:] += 2 * np.eye(4)[labels]
    assert decoded(maps, labels, 4, whitened=True).sum() > 1.5 * decoded(maps, labels, 4).sum()


def test_equal_maps_say_nothing() -> None:
    labels = np.arange(8) % 4
    for whitened in (False, True):
        assert decoded(np.ones((8, 3)), labels, 4, whitened=whitened).sum() == 2  # the first label is always named


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_halves_take_turns_within_each_label(given_labels: list[int]) -> None:
    labels = np.array([*given_labels, *range(4), *range(4)])
    half = halves(labels, 4)
    for label in range(4):
        assert half[labels == label].tolist() == [bool(i % 2) for i in range((labels == label).sum())]


def test_a_label_with_one_image_has_no_halves() -> None:
    with pytest.raises(ValueError, match="label 1 has fewer than two"):
        halves(np.array([0, 0, 1]), 2)


def test_pooling_averages_neighbours_as_far_as_they_pair() -> None:
    maps = RNG.random((2, 16 * 16))
    small = pooled(maps, (16, 16))
    assert small.shape == (2, 8, 8)
    image = maps.reshape(2, 16, 16)
    assert small[1, 3, 5] == pytest.approx(image[1, 6:8, 10:12].mean())
    assert pooled(maps, (16, 16), most=4).shape == (2, 4, 4)
    assert pooled(RNG.random((1, 14 * 14)), (14, 14)).shape == (1, 7, 7)
    assert pooled(RNG.random((1, 9 * 9)), (9, 9)).shape == (1, 9, 9)


def test_means_of_labels_keep_all_other_axes() -> None:
    values, labels = RNG.random((2, 3, 12)), RNG.permutation(np.arange(12) % 4)
    found = means_by_label(values, labels, 4)
    assert found.shape == (2, 3, 4)
    assert found[1, 2, 3] == pytest.approx(values[1, 2, labels == 3].mean())
