"""Heads switched off from the middle of the network against hooks on whole passes; claims against what is lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import twins
from scipy import stats
from shared import unchecked
from torch import Tensor

from snp_lib.analysis.ablation import HeadAblation, Replacement, ablate_heads, ablated_logits, kept_heads
from snp_lib.data import Dataset, Split
from snp_lib.data.augment.crops import Normalize
from snp_lib.models import create_model
from snp_lib.models.cct import CCT
from snp_lib.models.sites import evaluating
from snp_lib.performance.statistics import claims_explain

HEADS = 3
SITES = ("block1.mha", "block2.mha", "block3.mha")
EVERY = np.array([[bool(code >> h & 1) for h in range(HEADS)] for code in range(2**HEADS)])  # row 0 keeps none, row 7 all


@torch.no_grad()
def network(order: str = "released") -> CCT:
    torch.manual_seed(0)
    model = create_model("cct_3_3x1", num_classes=10, in_channels=1, image_size=8, embed_dim=12, num_heads=HEADS, block_order=order)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.3)  # every head shows in the logits
    return model.eval()


def images_of(dataset: Dataset) -> Tensor:
    return Normalize(dataset.train.inputs)(dataset.test.inputs)


def measured(model: CCT, dataset: Dataset, kept: np.ndarray = EVERY, **options: object) -> HeadAblation:
    return ablate_heads(model, dataset.test, Normalize(dataset.train.inputs), kept, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["released", "prenorm"])
def test_logits_equal_whole_passes_with_hooks_at_every_block(order: str, few_digits: Dataset) -> None:
    model, images = network(order), images_of(few_digits)
    for rows in (1, 250, 10_000):  # one variant at a time, two, all
        intact, ablated = ablated_logits(model, images, EVERY, rows=rows)
        assert torch.equal(intact, model(images).detach())
        assert tuple(ablated) == SITES
        for site in SITES:
            for kept, logits in zip(EVERY, ablated[site], strict=True):
                with torch.no_grad(), twins.heads_off(model, site, kept):
                    torch.testing.assert_close(logits, model(images), atol=1e-6, rtol=1e-6)
            assert (ablated[site][:-1] - intact).abs().amax((1, 2)).min() > 1e-2  # every variant but the last changes something


def test_one_variant_at_a_time_is_the_hooked_pass_bit_for_bit(few_digits: Dataset) -> None:
    model, images = network(), images_of(few_digits)
    _, ablated = ablated_logits(model, images, EVERY, rows=1)
    for site in SITES:
        for kept, logits in zip(EVERY, ablated[site], strict=True):
            with torch.no_grad(), twins.heads_off(model, site, kept):
                assert torch.equal(logits, model(images))


def test_without_any_head_the_projection_writes_its_bias_alone(few_digits: Dataset) -> None:
    model, images = network(), images_of(few_digits)
    with torch.no_grad():
        tokens = model.embed(images)
        tokens = model.encoders[0].after_attention(tokens, torch.zeros_like(tokens))["block"]
        for encoder in list(model.encoders)[1:]:
            tokens = encoder(tokens)["block"]
        expected = model.classify(tokens)
    none = np.zeros((1, HEADS), dtype=bool)
    assert torch.equal(ablated_logits(model, images, none, sites=["block1.mha"])[1]["block1.mha"][0], expected)


def test_a_head_alone_and_all_the_others_write_complementary_features(few_digits: Dataset) -> None:
    removed, alone, pairs = (kept_heads(kind, HEADS) for kind in ("removed", "alone", "pairs"))
    assert np.array_equal(removed, ~alone)
    assert removed.tolist() == [[False, True, True], [True, False, True], [True, True, False]]
    assert pairs.tolist() == [[False, False, True], [False, True, False], [True, False, False]]
    assert kept_heads("pairs", 6).shape == (15, 6)
    assert (kept_heads("pairs", 6).sum(axis=1) == 4).all()
    model, images = network(), images_of(few_digits)
    # what a block's projection adds is linear in the heads: one taken away and the same alone add up to both ends
    with torch.no_grad():
        last = model.encoders[-1]
        _, features = model(images, sites=["block3.mha"])
        on = torch.from_numpy(np.stack([removed[0], alone[0]])).repeat_interleave(4, dim=1)
        parts = [last.projection(features["block3.mha"] * mask) - last.projection.bias for mask in on]
        torch.testing.assert_close(sum(parts) + last.projection.bias, last.projection(features["block3.mha"]), atol=1e-5, rtol=1e-5)
    found = measured(model, few_digits)
    for two, one in zip(pairs, alone[::-1], strict=True):  # of three heads, two taken away leave one alone
        assert np.array_equal(found.accuracy_of(SITES[1], two[None]), found.accuracy_of(SITES[1], one[None]))


@pytest.mark.parametrize("replacement", ["zero", "mean"])
def test_accuracies_equal_one_hooked_pass_per_variant(replacement: Replacement, few_digits: Dataset) -> None:
    model, images, labels = network(), images_of(few_digits), few_digits.test.labels
    found = measured(model, few_digits, replacement=replacement, batch_size=33)

    @torch.no_grad()
    def accuracy() -> np.ndarray:
        right = (model(images).argmax(1) == labels).numpy()
        return np.array([right[labels.numpy() == label].mean() for label in range(10)])

    assert (found.sites, found.replacement, found.accuracy.shape) == (SITES, replacement, (3, 8, 10))
    assert found.baseline == pytest.approx(accuracy())
    assert found.counts.tolist() == torch.bincount(labels).tolist()
    changed = 0
    for site in SITES:
        with torch.no_grad():
            mean = model(images, sites=[site])[1][site].mean((0, 1))
        for v, kept in enumerate(EVERY):
            with twins.heads_off(model, site, kept, mean if replacement == "mean" else None):
                assert found.accuracy[SITES.index(site), v] == pytest.approx(accuracy())
            changed += not np.array_equal(found.accuracy[SITES.index(site), v], found.baseline)
        assert np.array_equal(found.accuracy_of(site, EVERY[-1:])[0], found.baseline)
    assert changed >= 18  # of 21 true ablations


def test_what_is_lost_is_read_head_by_head(few_digits: Dataset) -> None:
    found = measured(network(), few_digits, sites=["block3.mha", "block1.mha"])
    assert found.sites == ("block1.mha", "block3.mha")  # in the order of the forward pass
    lost = found.lost("block3.mha", kept_heads("removed", HEADS))
    assert lost.shape == (HEADS, 10)
    for h in range(HEADS):
        row = 7 - 2**h  # all heads but h
        assert np.array_equal(lost[h], found.baseline - found.accuracy[1, row])
    with pytest.raises(ValueError, match=r"no head was switched off at 'block2.mha'; measured were block1.mha, block3.mha"):
        found.lost("block2.mha", EVERY)
    few = measured(network(), few_digits, kept_heads("alone", HEADS), sites=["block1.mha"])
    with pytest.raises(ValueError, match=r"keeps heads \[1, 2\] was not measured"):
        few.lost("block1.mha", kept_heads("removed", HEADS))


def test_a_constant_head_is_its_own_mean(few_digits: Dataset) -> None:
    model = network()
    with torch.no_grad():
        model.encoders[1].attention.qkv.weight[24:28] = 0  # values of head 0: it writes zero, which is also its mean
    kept = kept_heads("removed", HEADS)
    for replacement in ("zero", "mean"):
        found = measured(model, few_digits, kept, sites=["block2.mha"], replacement=replacement)
        assert (found.lost("block2.mha", kept[:1]) == 0).all()
        assert (found.lost("block2.mha", kept[1:]) != 0).any()


def test_the_model_is_left_as_it_was(few_digits: Dataset) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    model.encoders[1].eval()  # a part that its owner has frozen
    modes = [module.training for module in model.modules()]
    found = measured(model, few_digits)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert np.array_equal(found.accuracy, measured(model.eval(), few_digits).accuracy)  # no dropout in between
    with pytest.raises(RuntimeError, match="stop"), evaluating(model.train()):
        raise RuntimeError("stop")
    assert model.training


def test_wrong_calls_are_refused_by_name(few_digits: Dataset) -> None:
    model = network()
    with pytest.raises(ValueError, match=r"\(variant, 3\) for a model of 3 heads, got shape \(4, 4\)"):
        measured(model, few_digits, kept_heads("alone", 4))
    with pytest.raises(ValueError, match="3 heads, got shape"):
        measured(model, few_digits, EVERY[:0])
    for site in ("block4.mha", "block1.ff"):
        with pytest.raises(ValueError, match=f"unknown site '{site}'; heads live at block1.mha, block2.mha, block3.mha"):
            measured(model, few_digits, sites=[site])
    with pytest.raises(ValueError, match="at least one site"):
        measured(model, few_digits, sites=[])
    with unchecked(), pytest.raises(ValueError, match="replacement must be"):
        measured(model, few_digits, replacement="noise")
    with unchecked(), pytest.raises(ValueError, match="variants must be"):
        kept_heads("triples", 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pairs of 1 heads do not exist"):
        kept_heads("pairs", 1)
    with pytest.raises(ValueError, match="rows must be at least 1"):
        measured(model, few_digits, rows=0)
    seen = few_digits.test.labels != 4
    split = Split(few_digits.test.inputs[seen], few_digits.test.labels[seen])
    with pytest.raises(ValueError, match="label 4 has no input"):
        ablate_heads(model, split, Normalize(few_digits.train.inputs), EVERY)
    with unchecked(), pytest.raises(ValueError, match="claims and lost must agree"):
        claims_explain(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        claims_explain(np.ones((2, 3)), np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="bootstrap must be at least 1"):
        claims_explain(np.ones((2, 3)), np.ones((2, 3)), bootstrap=0)


def test_the_correlation_is_scipys_and_resamples_are_of_whole_labels() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 6, (4, 30))
    lost = 0.02 * counts + rng.normal(0, 0.05, counts.shape)
    found = claims_explain(counts, lost, bootstrap=50, permutations=60, seed=7)
    assert found.correlation == pytest.approx(stats.spearmanr(counts.ravel(), lost.ravel()).statistic)
    twin = np.random.default_rng(7)
    orders = twin.permuted(np.tile(np.arange(30), (60, 1)), axis=1)
    draws = twin.integers(30, size=(50, 30))
    null = [stats.spearmanr(counts.ravel(), lost[:, order].ravel()).statistic for order in orders]
    resampled = [stats.spearmanr(counts[:, draw].ravel(), lost[:, draw].ravel()).statistic for draw in draws]
    assert found.interval == pytest.approx(tuple(np.quantile(resampled, (0.025, 0.975))))
    assert found.p == (1 + sum(value >= found.correlation for value in null)) / 61
    assert found.null_mean == pytest.approx(np.mean(null))


def test_claims_explain_what_is_lost_and_nothing_where_nothing_is_to_explain() -> None:
    rng = np.random.default_rng(3)
    counts = rng.permutation(120).reshape(4, 30)
    assert claims_explain(counts, counts / 200).correlation == pytest.approx(1)
    assert claims_explain(counts, counts / 200).p == 1 / 1001
    assert claims_explain(counts, -counts / 200).correlation == pytest.approx(-1)
    assert claims_explain(counts, -counts / 200).p > 0.99
    flat = claims_explain(np.ones((4, 30)), counts / 200)
    assert all(math.isnan(value) for value in (flat.correlation, *flat.interval, flat.p, flat.null_mean))


def test_an_important_head_and_a_fragile_label_are_told_from_an_expert() -> None:
    rng = np.random.default_rng(5)
    head, label, noise = np.array([[0.0], [10], [20], [30]]), 10 * rng.random((1, 80)), rng.normal(0, 1, (2, 4, 80))
    important = claims_explain(head + noise[0], head + noise[1])
    assert important.correlation > 0.8
    assert important.p > 0.01  # it is as large with the labels shuffled
    assert important.null_mean == pytest.approx(important.correlation, abs=0.05)
    fragile = claims_explain(label + noise[0], label + noise[1])
    assert fragile.p < 0.01
    within = claims_explain(label + noise[0], label + noise[1], within_label=True)
    assert abs(within.correlation) < 0.15
    assert within.p > 0.01
    expert = claims_explain(label + noise[0], 5 - label + noise[0], within_label=True)
    assert expert.correlation > 0.9
    assert expert.p == 1 / 1001


def test_p_values_of_claims_that_explain_nothing_are_uniform() -> None:
    rng = np.random.default_rng(2)
    found = [claims_explain(*rng.normal(size=(2, 3, 12)), bootstrap=1, permutations=99, seed=i).p - rng.random() / 100 for i in range(300)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    inside = []
    for seed in range(100):
        x, noise = rng.normal(size=(2, 2, 60))
        low, high = claims_explain(x, x + noise, bootstrap=200, permutations=1, seed=seed).interval
        inside.append(low < 6 / math.pi * math.asin(math.sqrt(0.5) / 2) < high)  # Spearman's ρ of a normal pair with r = 1/√2
    assert 0.87 <= np.mean(inside) <= 1
