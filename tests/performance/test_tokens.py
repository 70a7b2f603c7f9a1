"""Effects of tokens on units, one token and one unit at a time."""

from __future__ import annotations

import numpy as np

from snp_lib.performance.tokens import token_effects


def test_effects_one_token_and_unit_at_a_time() -> None:
    rng = np.random.default_rng(0)
    pooled, tokens = rng.normal(size=(60, 3)), rng.integers(0, 12, (60, 5))
    effects = token_effects(pooled, tokens, 14, fewest=4)
    assert effects.shape == (14, 3)
    for token in range(14):
        holding = [row for row in range(60) if token in tokens[row]]
        for unit in range(3):
            if token == 0 or len(holding) < 4:
                assert np.isnan(effects[token, unit])
                continue
            expected = (pooled[holding, unit].mean() - pooled[:, unit].mean()) / pooled[:, unit].std()
            np.testing.assert_allclose(effects[token, unit], expected, rtol=1e-5)
    assert np.isnan(effects[12:]).all()


def test_a_unit_that_never_varies_has_no_effects() -> None:
    effects = token_effects(np.ones((4, 1)), np.array([[1], [1], [2], [2]]), 3, fewest=1)
    assert effects[1:].tolist() == [[0.0], [0.0]]
