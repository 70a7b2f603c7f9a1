"""Spectra against sums written out, sinusoids that are known, Parseval; rings of noise, and what they do to a classifier."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from networks import lively

from snp_lib.analysis.fourier import (
    FLOOR,
    correct_under_noise,
    diagonal_frequencies,
    relative_log_amplitude,
    ring,
    ring_noise,
)
from snp_lib.data import Dataset
from snp_lib.data.augment.crops import Normalize


def amplitude(channel: np.ndarray, k: int) -> float:
    """Of frequency k on the diagonal, written out."""
    side = len(channel)
    return abs(sum(channel[y, x] * cmath.exp(-2j * math.pi * k * (x + y) / side) for y in range(side) for x in range(side)))


@pytest.mark.parametrize("side", [4, 5])
def test_every_frequency_of_the_diagonal_against_the_sum(side: int) -> None:
    maps = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = relative_log_amplitude(maps.float()).numpy()
    frequencies = diagonal_frequencies(side)
    assert found.shape == (2, len(frequencies))
    for image in range(2):
        for k in range(len(frequencies)):
            logs = [math.log(amplitude(c, k) + FLOOR) - math.log(amplitude(c, 0) + FLOOR) for c in maps[image].numpy()]
            assert found[image, k] == pytest.approx(np.mean(logs), abs=1e-4)


def test_the_last_frequency_is_that_of_nyquist() -> None:
    np.testing.assert_allclose(diagonal_frequencies(8), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(diagonal_frequencies(5), [0, 0.4, 0.8])  # an odd side has no such frequency
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    board = 1 + 0.5 * (-1.0) ** (rows + columns)  # a chessboard alternates at every step, along the diagonal in both directions
    found = relative_log_amplitude(board[None, None])[0]
    assert found[-1] == pytest.approx(math.log(0.5), abs=1e-5)
    assert found[1:-1].max() < -15


def test_a_known_sinusoid_shows_at_its_frequency() -> None:
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    maps = 2 + torch.cos(2 * math.pi * 3 * (rows + columns) / 16)
    found = relative_log_amplitude(maps[None, None])[0]
    assert found.argsort(descending=True)[:2].tolist() == [0, 3]
    assert found[3] == pytest.approx(math.log(0.5 / 2), abs=1e-4)


def test_parseval_the_rings_of_noise_hold_its_energy() -> None:
    side = 16
    noise = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    edges = [2 * k / side for k in range(1, side // 2 + 1)]  # the spacing of frequencies: disjoint rings, all but zero
    rings = [ring(side, frequency) for frequency in edges]
    assert torch.equal(sum(inside.int() for inside in rings), 1 - (torch.arange(side * side) == 0).int().view(side, side))
    parts = [ring_noise(noise.float(), frequency) for frequency in edges]
    energy = sum(part.double().square().sum((2, 3)) for part in parts) + noise.sum((2, 3)) ** 2 / side**2
    torch.testing.assert_close(energy, noise.square().sum((2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frequency", [0.1, 0.5, 0.9])
def test_a_ring_is_symmetric_and_where_it_should_be(frequency: float) -> None:
    inside = ring(32, frequency)
    assert torch.equal(inside, inside.T)
    assert torch.equal(inside, inside.roll((-1, -1), (0, 1)).flip(0, 1))  # k and −k
    across = 2 * torch.arange(17) / 32
    expected = ((across - frequency).abs() * math.pi <= 0.2).nonzero().flatten().tolist()
    assert inside[0, :17].nonzero().flatten().tolist() == expected
    assert len(expected) in (2, 3)
    with pytest.raises(ValueError, match="above 0 and is at most 1"):
        ring(32, 1.5)


def test_noise_of_equal_energy_and_noise_as_it_comes() -> None:
    white = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).sign()
    low, high = (ring_noise(white, frequency).square().mean((1, 2, 3)) for frequency in (0.1, 0.9))
    assert (high / low).min() > 5  # at equal ε the high ring carries more
    assert float(high.mean()) == pytest.approx(float(ring(32, 0.9).float().mean()), rel=0.1)
    for frequency in (0.1, 0.9):
        torch.testing.assert_close(ring_noise(white, frequency, 0.25).square().mean((1, 2, 3)), torch.full((4,), 0.25))


def test_images_under_noise_against_single_passes(few_digits: Dataset) -> None:
    model, prepare = lively("cct_2_3x1").train(), Normalize(few_digits.train.inputs)
    found = correct_under_noise(model, few_digits.test, prepare, (0.0, 0.5, 1.0), epsilon=3.0, equal_energy=False, seed=5)
    assert model.training
    images = prepare(few_digits.test.inputs)
    white = 3.0 * torch.randn(images.shape, generator=torch.Generator().manual_seed(5)).sign()
    model.eval()
    for row, noise in zip(found, (0, ring_noise(white, 0.5), ring_noise(white, 1.0)), strict=True):
        with torch.no_grad():
            assert np.array_equal(row, (model(images + noise).argmax(1) == few_digits.test.labels).numpy())
    assert not np.array_equal(found[0], found[1])
    equal = correct_under_noise(model, few_digits.test, prepare, (0.5, 1.0), epsilon=3.0, equal_energy=True, seed=5)
    share = float(torch.stack([ring(8, 0.5), ring(8, 1.0)]).double().mean())
    with torch.no_grad():
        logits = model(images + ring_noise(white, 1.0, 9 * share))
    assert np.array_equal(equal[1], (logits.argmax(1) == few_digits.test.labels).numpy())
