"""Accuracy from the statistics of single nodes, against its definition node by node and against exact integrals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from snp_lib.data import Dataset, Split
from snp_lib.models import create_model
from snp_lib.performance import measure
from snp_lib.performance.macroscopic import Moments, gaussian_accuracy, independent, moments, noise_ratio, typical_correlation
from snp_lib.performance.readout import Readout, TokenReadout

SITES = ("block1.mha", "block2.ff")
DRAWS = 40_000


def drawn(seed: int, labels: int = 4, nodes: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Readout, class means, and a covariance of the nodes that is far from diagonal."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((nodes, nodes))
    return rng.standard_normal((labels, nodes)), rng.standard_normal((labels, nodes)), mixing @ mixing.T / nodes


def plain(weight: np.ndarray, means: np.ndarray, covariance: np.ndarray, draws: int) -> np.ndarray:
    """Node activations drawn and fields added up, image by image."""
    rng, found = np.random.default_rng(1), np.zeros(len(means))
    for label in range(len(means)):
        nodes = rng.multivariate_normal(means[label], covariance, size=draws)
        for activations in nodes:
            scores = sum(activations[u] * weight[:, u] for u in range(len(activations)))
            found[label] += np.argmax(scores) == label
    return found / draws


@pytest.mark.parametrize("alone", [False, True])
def test_scores_are_sums_of_fields_of_fluctuating_nodes(alone: bool) -> None:
    weight, means, covariance = drawn(0)
    if alone:
        covariance = np.diag(np.diagonal(covariance))
    of_scores = independent(weight, np.diagonal(covariance)) if alone else weight @ covariance @ weight.T
    fast = gaussian_accuracy(means @ weight.T, of_scores, draws=DRAWS)
    slow = plain(weight, means, covariance, 3000)
    np.testing.assert_allclose(fast, slow, atol=4 * 0.5 / math.sqrt(3000))
    other = gaussian_accuracy(means @ weight.T, independent(weight, np.diagonal(covariance)), draws=DRAWS)
    assert alone == bool(np.allclose(fast, other, atol=0.02))  # correlations matter here


def test_two_outputs_are_told_apart_by_the_normal_distribution() -> None:
    scores, covariance = np.array([[0.8, 0.1], [0.0, -0.3]]), np.array([[1.0, 0.4], [0.4, 2.0]])
    width = math.sqrt(1 + 2 - 0.8)
    expected = [norm.cdf(0.7 / width), norm.cdf(-0.3 / width)]
    np.testing.assert_allclose(gaussian_accuracy(scores, covariance, draws=DRAWS), expected, atol=4 * 0.5 / math.sqrt(DRAWS))


def test_independent_scores_agree_with_the_exact_integral() -> None:
    rng = np.random.default_rng(3)
    scores, sd = rng.standard_normal((5, 5)) + 1.5 * np.eye(5), rng.uniform(0.5, 1.5, 5)

    def exact(label: int) -> float:
        def density(score: float) -> float:
            others = [norm.cdf((score - scores[label, j]) / sd[j]) for j in range(5) if j != label]
            return float(norm.pdf(score, scores[label, label], sd[label]) * np.prod(others))

        return float(quad(density, -12, 12)[0])

    found = gaussian_accuracy(scores, np.diag(sd**2), draws=DRAWS)
    np.testing.assert_allclose(found, [exact(label) for label in range(5)], atol=4 * 0.5 / math.sqrt(DRAWS))


def test_a_covariance_for_each_label_is_that_of_its_label_and_may_be_singular() -> None:
    weight, means, _ = drawn(1)
    variances = np.random.default_rng(5).uniform(0.1, 2, means.shape)
    each = independent(weight, variances)
    for label, output, other in itertools.product(range(4), repeat=3):
        expected = sum(weight[output, u] * weight[other, u] * variances[label, u] for u in range(7))
        assert each[label, output, other] == pytest.approx(expected)
    together = gaussian_accuracy(means @ weight.T, each, draws=DRAWS)
    for label in range(4):
        alone = gaussian_accuracy(means @ weight.T, independent(weight, variances[label]), draws=DRAWS)[label]
        assert together[label] == pytest.approx(alone, abs=4 / math.sqrt(DRAWS))
    still = gaussian_accuracy(means @ weight.T, np.zeros((4, 4)))
    assert still.tolist() == [float(np.argmax(row) == label) for label, row in enumerate(means @ weight.T)]
    with pytest.raises(ValueError, match="draws must be at least 1"):
        gaussian_accuracy(means @ weight.T, np.eye(4), draws=0)


def test_one_vector_added_to_all_outputs_changes_no_prediction() -> None:
    weight, means, covariance = drawn(2)
    moved = weight + np.arange(7)
    for of_nodes in (covariance, np.diag(np.diagonal(covariance))):
        before, after = (gaussian_accuracy(means @ w.T, w @ of_nodes @ w.T, draws=DRAWS) for w in (weight, moved))
        np.testing.assert_allclose(before, after, atol=4 * 0.5 / math.sqrt(DRAWS))
    assert noise_ratio(moved, covariance) == pytest.approx(noise_ratio(weight, covariance))


def test_the_noise_ratio_compares_differences_of_scores_pair_by_pair() -> None:
    weight, _, covariance = drawn(3)
    whole = alone = 0.0
    for i, j in itertools.combinations(range(4), 2):
        difference = weight[i] - weight[j]
        whole += difference @ covariance @ difference
        alone += float((difference**2 * np.diagonal(covariance)).sum())
    assert noise_ratio(weight, covariance) == pytest.approx(whole / alone)
    assert noise_ratio(weight, np.diag(np.diagonal(covariance))) == pytest.approx(1)
    agreeing = np.ones((2, 5)) * np.array([[1.0], [-1.0]])
    assert noise_ratio(agreeing, np.ones((5, 5))) == pytest.approx(5)  # five nodes that move as one


def test_the_typical_correlation_is_that_of_pairs_of_live_nodes() -> None:
    values = np.random.default_rng(4).standard_normal((50, 4))
    values[:, 1] += values[:, 0]
    correlations = np.corrcoef(values.T)
    squares = [correlations[i, j] ** 2 for i, j in itertools.combinations(range(4), 2)]
    with_dead = np.cov(np.column_stack([values, np.full(50, 3.0)]).T)
    assert typical_correlation(with_dead) == pytest.approx(math.sqrt(np.mean(squares)))


@pytest.fixture(scope="module")
def readouts() -> dict[str, Readout]:
    torch.manual_seed(0)
    return {site: TokenReadout(128 if site.endswith("hidden") else 64, 10).eval() for site in SITES}


def test_moments_are_those_of_the_features_that_readouts_see(few_digits: Dataset, readouts: dict[str, Readout]) -> None:
    torch.manual_seed(1)
    options = {"image_size": 8, "in_channels": 1, "embed_dim": 64, "num_heads": 4}
    model = create_model("cct_2_3x1", num_classes=10, **options).eval()

    def prepare(x: torch.Tensor) -> torch.Tensor:
        return x.float() / 16

    found = moments(model, readouts, few_digits.test, prepare, num_classes=10, parts=2, batch_size=13)
    known = measure(model, readouts, few_digits.test, prepare, num_classes=10)
    labels = few_digits.test.labels.numpy()
    with torch.no_grad():
        _, features = model(prepare(few_digits.test.inputs), sites=list(SITES))
        for site, readout in readouts.items():
            pooled = readout.pool(features[site]).double().numpy()
            right = readout(features[site]).argmax(1).numpy() == labels
            for part, chosen in ((0, np.arange(100) % 2 == 0), (1, np.arange(100) % 2 == 1)):
                _agree(found[site][part], pooled[chosen], labels[chosen], right[chosen])
            whole = found[site][0] + found[site][1]
            _agree(whole, pooled, labels, right)
            spread = [pooled[labels == label].var(0, ddof=1) for label in range(10)]
            np.testing.assert_allclose(whole.variances, spread, atol=1e-6)
            np.testing.assert_allclose(whole.means, known.class_means[site].numpy(), atol=1e-5)
            assert whole.hits.sum() / whole.counts.sum() == pytest.approx(known.readout_accuracy[site])


def _agree(found: Moments, pooled: np.ndarray, labels: np.ndarray, right: np.ndarray) -> None:
    groups = [labels == label for label in range(10)]
    np.testing.assert_allclose(found.means, [pooled[g].mean(0) for g in groups], atol=1e-5)
    np.testing.assert_allclose(found.accuracy, [right[g].mean() for g in groups])
    around = pooled - np.stack([pooled[labels == label].mean(0) for label in labels])
    np.testing.assert_allclose(found.covariance, around.T @ around / (len(pooled) - 10), atol=1e-6)


def test_a_part_may_be_all_there_is(few_digits: Dataset, readouts: dict[str, Readout]) -> None:
    model = create_model("cct_2_3x1", num_classes=10, image_size=8, in_channels=1, embed_dim=64, num_heads=4)
    few = Split(few_digits.test.inputs[:30], few_digits.test.labels[:30])
    (whole,) = moments(model, readouts, few, lambda x: x.float() / 16, num_classes=10)["block1.mha"]
    assert whole.counts.tolist() == np.bincount(few.labels.numpy(), minlength=10).tolist()
