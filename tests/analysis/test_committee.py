"""Committees on cases counted by hand, ties in votes included, and against the plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from shared import unchecked

from snp_lib import latency
from snp_lib.analysis import committee
from snp_lib.analysis.committee import RULES, Members, decide
from snp_lib.results.committee import gather
from snp_lib.store import Run

# three members, four images, three labels; probabilities, so that means can be read off
BELIEFS = np.array(
    [
        [[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.98, 0.01, 0.01]],
        [[0.2, 0.5, 0.3], [0.4, 0.5, 0.1], [0.1, 0.2, 0.7], [0.30, 0.40, 0.30]],
        [[0.2, 0.1, 0.7], [0.5, 0.4, 0.1], [0.3, 0.4, 0.3], [0.30, 0.40, 0.30]],
    ]
)
LABELS = np.array([2, 0, 1, 0])


def test_the_three_rules_by_hand() -> None:
    logits = np.log(BELIEFS)
    # votes: 0 1 2, a tie of three that the largest mean probability (0.333, 0.3, 0.367) settles for 2; 0 1 0; 1 2 1; 0 1 1
    assert decide(logits, "majority vote").tolist() == [2, 0, 1, 1]
    # mean probabilities of the last image: 0.527, 0.27, 0.203; geometric means: 0.445, 0.117, 0.097
    assert decide(logits, "mean softmax").tolist() == [2, 0, 1, 0]
    # products: 0.024, 0.015, 0.021; 0.1, 0.08, 0.001; 0.003, 0.064, 0.021; 0.088, 0.0016, 0.0009
    assert decide(logits, "mean logit").tolist() == [0, 0, 1, 0]


def test_a_tie_of_two_is_never_settled_for_a_third_label() -> None:
    beliefs = np.array([[[0.50, 0.05, 0.45]], [[0.05, 0.50, 0.45]]])  # 2 has the largest mean and no vote
    assert decide(np.log(beliefs), "mean softmax").tolist() == [2]
    assert decide(np.log(beliefs), "majority vote").tolist() == [0]  # equal means, too: the first label
    beliefs[1] = [[0.03, 0.52, 0.45]]
    assert decide(np.log(beliefs), "majority vote").tolist() == [1]


def test_a_committee_of_one_and_of_copies_is_its_member() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 50, 7))
    for rule in RULES:
        assert np.array_equal(decide(logits, rule), logits[0].argmax(-1))
        assert np.array_equal(decide(np.repeat(logits, 4, axis=0), rule), logits[0].argmax(-1))


@given(seed=st.integers(0, 10**6), count=st.integers(1, 5), rule=st.sampled_from(RULES))
def test_decisions_image_by_image(seed: int, count: int, rule: str) -> None:
    logits = np.random.default_rng(seed).normal(size=(count, 6, 4))
    found = decide(logits, rule)  # type: ignore[arg-type]
    for image in range(6):
        each = [logits[m, image] for m in range(count)]
        beliefs = [np.exp(row) / np.exp(row).sum() for row in each]
        mean = sum(beliefs) / count
        if rule == "mean logit":
            expected = int(np.argmax(sum(each)))
        elif rule == "mean softmax":
            expected = int(np.argmax(mean))
        else:
            ballots = [int(np.argmax(row)) for row in each]
            most = max(ballots.count(label) for label in ballots)
            expected = max((label for label in set(ballots) if ballots.count(label) == most), key=lambda label: mean[label])
        assert found[image] == expected


@pytest.mark.parametrize("rule", RULES)
def test_what_a_committee_holds_adds_up_and_agrees_with_what_it_decides(rule: committee.Rule) -> None:
    logits = np.random.default_rng(1).normal(size=(5, 40, 4))
    held = committee.probabilities(logits, rule)
    np.testing.assert_allclose(held.sum(-1), 1)
    decided = decide(logits, rule)
    np.testing.assert_array_equal(held[np.arange(40), decided], held.max(-1))


def accuracies(members: Members, rule: committee.Rule) -> list[float]:
    """Of a committee, of its members on average, and of the best of them."""
    alone = committee.right(members, None).mean(axis=1)
    return [committee.right(members, rule).mean(), alone.mean(), alone.max()]


def test_every_committee_of_a_size() -> None:
    members = Members(np.log(BELIEFS), LABELS, ("a", "b", "c"))
    alone = [3 / 4, 0, 3 / 4]  # they decide 0 0 1 0, 1 1 2 1 and 2 0 1 1
    found = [accuracies(drawn, "mean softmax") for drawn in committee.draws(members, 2)]
    assert len(found) == 3
    for row, pair in zip(found, combinations(range(3), 2), strict=True):
        expected = (decide(np.log(BELIEFS)[list(pair)], "mean softmax") == LABELS).mean()
        assert row == [expected, np.mean([alone[m] for m in pair]), max(alone[m] for m in pair)]
    assert [accuracies(drawn, "mean logit")[0] for drawn in committee.draws(members, 1)] == alone
    assert [drawn.names for drawn in committee.draws(members, 2)] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert committee.right(members, "majority vote").mean() == 3 / 4
    for size in (0, 4):
        with pytest.raises(ValueError, match="needs 1 to 3 members"):
            list(committee.draws(members, size))


def test_disagreement_and_correlation_by_hand() -> None:
    answers = BELIEFS.argmax(axis=-1)
    wrong = answers != LABELS
    # decisions: a 0 0 1 0, b 1 1 2 1, c 2 0 1 1: a and b differ on 4, a and c on 2, b and c on 3 of 4
    assert committee.disagreement(answers) == pytest.approx((4 + 2 + 3) / 12)
    # errors of a: 1 0 0 0, of c: 0 0 0 1: both have mean 1/4 and variance 3/16, covariance −1/16
    assert committee.error_correlation(wrong[[0, 2]]) == pytest.approx(-1 / 3)
    assert math.isnan(committee.error_correlation(wrong))  # b is wrong everywhere
    assert math.isnan(committee.disagreement(answers[:1]))
    assert math.isnan(committee.error_correlation(wrong[:1]))


def test_calibration_error_by_hand() -> None:
    held = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    labels = np.array([0, 1, 0, 1])
    # two bins of (0.5, 0.75], (0.75, 1]: right 2 of 2 at 0.65 on average, 1 of 2 at 0.85
    assert committee.calibration_error(held, labels, bins=4) == pytest.approx((2 * 0.35 + 2 * 0.35) / 4)
    assert committee.calibration_error(np.eye(3), np.arange(3)) == 0
    assert committee.calibration_error(np.eye(3), np.array([1, 2, 0])) == 1
    # two votes each for the first and the second label and one for the third, decided for the second, which is right
    assert committee.calibration_error(np.array([[0.4, 0.4, 0.2]]), np.array([1])) == pytest.approx(0.4)
    assert committee.calibration_error(np.array([[0.4, 0.4, 0.2]]), np.array([1]), decided=np.array([1])) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="at least one bin"):
        committee.calibration_error(held, labels, bins=0)


def test_a_committee_is_a_network(smoke_run: Run) -> None:
    other = smoke_run.network(0)
    together, images = committee.SoftCommittee([smoke_run.network(), other]).eval(), torch.rand(7, 1, 16, 16)
    with torch.no_grad():
        each = [smoke_run.network()(images), other(images)]
        found = together(images)
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)
    assert found.argmax(1).tolist() == decide(np.stack([logits.numpy() for logits in each])).tolist()
    assert latency.count_macs(together) == 2 * latency.count_macs(other)
    with pytest.raises(ValueError, match="at least one member"):
        committee.SoftCommittee([])


def test_wrong_calls_are_refused() -> None:
    with unchecked(), pytest.raises(ValueError, match="unknown rule 'loudest'; there are mean logit"):
        decide(np.zeros((2, 3, 4)), "loudest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one member"):
        decide(np.zeros((0, 3, 4)))
    with pytest.raises(ValueError, match="at least one member"):
        gather([])


def test_members_come_from_runs_that_saw_the_same_images(smoke_run: Run) -> None:
    other = replace(smoke_run, manifest=smoke_run.manifest | {"data_checksum": "another"})
    members = gather([smoke_run, smoke_run])
    assert members.logits.shape == (2, *smoke_run.logits.shape)
    assert members.names == (smoke_run.experiment.id,) * 2
    accuracy = committee.right(members, None)[0].mean()
    assert accuracy == pytest.approx(smoke_run.metrics["test_accuracy"], abs=5e-3)
    with pytest.raises(ValueError, match="were tested on different images"):
        gather([smoke_run, other])
    relabelled = replace(smoke_run, manifest=smoke_run.manifest | {"class_names": list("abcdefghij")})
    with pytest.raises(ValueError, match="know different labels"):
        gather([smoke_run, relabelled])
