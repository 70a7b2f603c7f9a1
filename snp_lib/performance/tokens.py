"""Which tokens drive a unit: how far the inputs that hold a token lie from all inputs in the unit's pooled feature (defined here)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def token_effects(
    pooled: Float[np.ndarray, "input unit"], tokens: Int[np.ndarray, "input place"], known: int, *, fewest: int
) -> Float[np.ndarray, "token unit"]:
    """Mean of each unit over the inputs that hold a token minus its mean over all, in standard deviations over inputs.

    Args:
        pooled: what a readout pools of every input.
        tokens: of every input, 0 where there is none.
        known: number of tokens that there are.
        fewest: tokens in fewer inputs than this are NaN.

    Returns:
        One row per token, NaN for padding; zero for a unit that never varies.
    """
    holds = np.zeros((len(tokens), known), dtype=np.float32)
    np.put_along_axis(holds, tokens, 1, axis=1)
    holds[:, 0] = 0
    spread = pooled.std(axis=0)
    deviations = (pooled - pooled.mean(axis=0)) / np.where(spread > 0, spread, 1)
    counts = holds.sum(axis=0)
    effects = holds.T @ deviations / np.maximum(counts, 1)[:, None]
    effects[counts < max(1, fewest)] = np.nan
    return np.asarray(effects)
