"""Silencing before the pooling against the literal loop: one readout pass per unit on features of which all others are zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from snp_lib.performance import group_units, unit_matrices
from snp_lib.performance.readout import TokenReadout
from snp_lib.performance.silencing import SilencedFirst, jaccard


@pytest.mark.parametrize("units", [12, 3, 1])
@torch.no_grad()
def test_one_pass_equals_one_readout_pass_per_unit(units: int) -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(40, 7, 12), torch.arange(40) % 5
    readout = TokenReadout(12, 5)
    torch.nn.init.normal_(readout.score.weight)  # far from equal weights
    pooled = SilencedFirst(readout, units).pool(features)
    means = torch.stack([pooled[labels == label].mean(0) for label in range(5)])
    found = unit_matrices(group_units(means, units), group_units(readout.linear.weight, units))
    total = torch.zeros(40, 5)
    for unit, channels in enumerate(torch.arange(12).chunk(units)):
        alone = torch.zeros_like(features)
        alone[:, :, channels] = features[:, :, channels]
        fields = readout(alone)
        expected = torch.stack([fields[labels == label].mean(0) for label in range(5)])
        torch.testing.assert_close(found[unit], expected, atol=1e-5, rtol=1e-5)
        total += fields
    torch.testing.assert_close(SilencedFirst(readout, units)(features), total, atol=1e-5, rtol=1e-5)
    assert torch.allclose(total, readout(features), atol=1e-4) == (units == 1)  # otherwise the fields do not add up


def test_equal_scores_leave_no_difference() -> None:
    features, readout = torch.randn(3, 7, 12), TokenReadout(12, 5)
    torch.nn.init.zeros_(readout.score.weight)
    torch.testing.assert_close(SilencedFirst(readout, 12)(features), readout(features))


def test_units_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="12 channels do not divide into 5 units"):
        SilencedFirst(TokenReadout(12, 5), 5)


@given(st.integers(0, 1000), st.integers(2, 6), st.integers(1, 8))
def test_agreement_of_sets_one_pair_at_a_time(seed: int, units: int, labels: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.random((units, labels)) < rng.random() for _ in range(2))
    same, other = [], []
    for u in range(units):
        for v in range(units):
            one, two = set(np.flatnonzero(first[u])), set(np.flatnonzero(second[v]))
            if one | two:
                (same if u == v else other).append(len(one & two) / len(one | two))
    expected = [np.mean(values) if values else np.nan for values in (same, other)]
    np.testing.assert_allclose(jaccard(first, second), expected, rtol=1e-5)
