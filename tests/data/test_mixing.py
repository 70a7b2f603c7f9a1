"""Mixup, CutMix and random erasing: the labels' weights are the pixels' shares, and the draws have the papers' distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st
from scipy.stats import beta, chisquare, kstest
from torch import Tensor

from snp_lib.data.augment.mixing import mix, random_box, random_erasing, symmetric_beta


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def own_or_partner(n: int, channels: int = 3, side: int = 12) -> Tensor:
    """Ones in the first half of the batch, zeros in the second: a mixed pixel of the first half is the own weight."""
    images = torch.zeros(n, channels, side, side)
    images[: n // 2] = 1
    return images


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 3.0])
def test_weights_have_the_beta_distribution(alpha: float) -> None:
    draws = symmetric_beta(torch.full((20_000,), alpha, dtype=torch.float64), generator())
    assert kstest(draws.numpy(), beta(alpha, alpha).cdf).pvalue > 0.001


@given(
    st.integers(0, 10_000),
    st.integers(2, 9),
    st.integers(1, 3),
    st.sampled_from([(0.8, 1.0), (0.8, 0.0), (0.0, 1.0), (0.1, 0.1)]),
    st.sampled_from([0.0, 0.1]),
)
def test_labels_sum_to_one_and_weigh_what_is_seen(seed: int, n: int, channels: int, alphas: tuple[float, float], smoothing: float) -> None:
    classes = 5
    images = torch.randn(n, channels, 8, 10, generator=generator(seed))
    labels = torch.randint(0, classes, (n,), generator=generator(seed))
    mixed, soft = mix(images, labels, classes, generator(seed), mixup_alpha=alphas[0], cutmix_alpha=alphas[1], smoothing=smoothing)
    torch.testing.assert_close(soft.sum(1), torch.ones(n))
    one_hot = torch.nn.functional.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes
    for i in range(n):
        partner = n - 1 - i
        if partner == i:
            torch.testing.assert_close(mixed[i], images[i])
            torch.testing.assert_close(soft[i], one_hot[i])
            continue
        # the own share of every pixel, read off the mixed image
        share = ((mixed[i] - images[partner]).double() * (images[i] - images[partner])).sum(0) / (images[i] - images[partner]).square().sum(
            0
        )
        torch.testing.assert_close(
            soft[i], one_hot[i] * share.mean().float() + one_hot[partner] * (1 - share.mean().float()), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(("alphas", "switch", "expected"), [((0.8, 1.0), 0.3, 0.3), ((0.8, 0.0), 0.5, 0.0), ((0.0, 1.0), 0.5, 1.0)])
def test_each_image_chooses_its_method(alphas: tuple[float, float], switch: float, expected: float) -> None:
    n = 4000
    mixed, soft = mix(
        own_or_partner(n), torch.arange(n) * 2 // n, 2, generator(), mixup_alpha=alphas[0], cutmix_alpha=alphas[1], switch_prob=switch
    )
    own = mixed[: n // 2, 0].flatten(1)
    flat = (own == own[:, :1]).all(1) & (own[:, 0] > 0) & (own[:, 0] < 1)  # one share everywhere: mixup
    sharp = ((own == 0) | (own == 1)).all(1)
    assert (flat | sharp).all()
    cut = int((~flat).sum())
    if expected in (0.0, 1.0):
        assert cut == expected * n / 2
    else:
        assert chisquare([cut, n / 2 - cut], [expected * n / 2, (1 - expected) * n / 2]).pvalue > 0.001
    if alphas[0]:
        assert kstest(soft[: n // 2, 0][flat].numpy(), beta(alphas[0], alphas[0]).cdf).pvalue > 0.001
    assert len(own[:, 0].unique()) > 1


def cutmix_box(height: int, width: int, own: float, row: int, column: int) -> Tensor:
    """The naive twin: the box of CutMix around a given middle."""
    half_h, half_w = int(height * math.sqrt(1 - own)) // 2, int(width * math.sqrt(1 - own)) // 2
    box = torch.zeros(height, width, dtype=torch.bool)
    box[max(row - half_h, 0) : row + half_h, max(column - half_w, 0) : column + half_w] = True
    return box


def test_cutmix_boxes_are_those_of_the_paper() -> None:
    height, width, n = 7, 10, 1000
    own = torch.rand(n, generator=generator(4), dtype=torch.float64)
    boxes = random_box(own, height, width, generator(5))
    draws = generator(5)
    rows, columns = (torch.randint(0, length, (n,), generator=draws) for length in (height, width))
    for box, weight, row, column in zip(boxes, own, rows, columns, strict=True):
        assert torch.equal(box, cutmix_box(height, width, float(weight), int(row), int(column)))


@pytest.mark.parametrize("channels", [1, 3])
def test_erased_images_and_areas_have_the_stated_distribution(channels: int) -> None:
    n, side, probability, area = 10_000, 32, 0.25, (0.02, 1 / 3)
    images = torch.full((n, channels, side, side), 9.0)
    out = random_erasing(images, generator(), probability=probability, area=area)
    erased = out != 9
    assert torch.equal(erased.all(1), erased.any(1))  # all channels at the same places
    erased = erased.any(1)
    chosen = erased.flatten(1).any(1)
    assert chisquare([int(chosen.sum()), n - int(chosen.sum())], [n * probability, n * (1 - probability)]).pvalue > 0.001
    boxes = erased[chosen]
    heights, widths = boxes.any(2).sum(1), boxes.any(1).sum(1)
    assert torch.equal(boxes.flatten(1).sum(1), heights * widths)  # rectangles
    assert heights.max() < side
    assert widths.max() < side
    # drawn again one at a time, as timm does
    twin = naive_boxes(len(heights), side, area, (0.3, 1 / 0.3))
    for ours, theirs in ((heights, twin[:, 0]), (widths, twin[:, 1]), (heights * widths, twin.prod(1))):
        error = math.sqrt(float(ours.double().var() + theirs.double().var()) / len(ours))
        assert abs(float(ours.double().mean() - theirs.double().mean())) < 4 * error
    noise = out[:, 0][erased]
    assert kstest(noise[:20_000].numpy(), "norm").pvalue > 0.001
    tops = boxes[heights == 8].any(2).byte().argmax(1)
    assert chisquare(torch.bincount(tops, minlength=side - 7).numpy()).pvalue > 0.001


def naive_boxes(n: int, side: int, area: tuple[float, float], aspect: tuple[float, float]) -> Tensor:
    """Heights and widths of n erased boxes, drawn one by one."""
    draws, found = torch.rand(20 * n, 2, generator=generator(7), dtype=torch.float64).tolist(), []
    for u, v in draws:
        pixels = side * side * (area[0] + (area[1] - area[0]) * u)
        shape = math.exp(math.log(aspect[0]) + (math.log(aspect[1]) - math.log(aspect[0])) * v)
        height, width = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if height < side and width < side:
            found.append((height, width))
        if len(found) == n:
            break
    return torch.tensor(found)


def test_aspect_is_height_over_width() -> None:
    out = random_erasing(torch.full((500, 1, 32, 32), 9.0), generator(), probability=1.0, area=(0.1, 0.1), aspect=(3.0, 3.0))
    boxes = (out != 9)[:, 0]
    assert (boxes.any(2).sum(1) == round(math.sqrt(102.4 * 3))).all()
    assert (boxes.any(1).sum(1) == round(math.sqrt(102.4 / 3))).all()


def test_nothing_is_erased_where_no_box_fits() -> None:
    images = torch.randn(50, 1, 8, 8, generator=generator())
    assert torch.equal(random_erasing(images, generator(), probability=1.0, area=(1.0, 1.0), aspect=(1.0, 1.0)), images)


def test_the_generator_alone_decides_and_the_layout_stays() -> None:
    images = torch.randn(64, 3, 12, 12, generator=generator()).contiguous(memory_format=torch.channels_last)
    labels, state, before = torch.arange(64) % 10, torch.get_rng_state(), images.clone()

    def run(seed: int) -> tuple[Tensor, Tensor]:
        draws = generator(seed)
        mixed, soft = mix(images, labels, 10, draws, mixup_alpha=0.8, cutmix_alpha=1.0)
        return random_erasing(mixed, draws), soft

    first, again, other = run(1), run(1), run(2)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)
    assert first[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "options",
    [
        {"mixup_alpha": 0.0, "cutmix_alpha": 0.0},
        {"mixup_alpha": -1.0, "cutmix_alpha": 1.0},
        {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "switch_prob": 1.5},
        {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "smoothing": -0.1},
    ],
)
def test_mix_refuses_numbers_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        mix(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long), 2, generator(), **options)


@pytest.mark.parametrize("options", [{"probability": 1.1}, {"area": (0.5, 0.2)}, {"area": (0.0, 0.2)}, {"aspect": (0.0, 1.0)}])
def test_erasing_refuses_numbers_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        random_erasing(torch.zeros(2, 1, 4, 4), generator(), **options)  # type: ignore[arg-type]
