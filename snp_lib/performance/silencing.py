"""Silencing before the pooling: a unit whose pooling weights come from itself alone (defined here).

The field of :mod:`snp_lib.performance.readout` silences a unit's neighbours after the pooling, whose weights come from all
of them; so fields add up to the logits. Here they are silenced in the features already. The logits are then no sum of
fields, and one would expect to need a readout pass per unit. But of a silenced image only the unit's own channels reach
either the scores or the pooled features, so that one pass serves all units.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from snp_lib.models.padding import masked
from snp_lib.performance.readout import Readout, TokenReadout


class SilencedFirst(Readout):
    """A trained readout of tokens in which every unit pools for itself, as if all others were zero before the pooling.

    Its pooled features make class means, and these matrices, by the same functions as those of the readout itself. Its
    logits are the sum over units of what each puts on the outputs alone.

    Args:
        readout: trained, with sequence pooling; its weights are used, not copied.
        units: of neighbouring channels, such as all nodes or all heads of the site.
    """

    def __init__(self, readout: TokenReadout, units: int) -> None:
        super().__init__()
        if units < 1 or readout.linear.in_features % units:
            raise ValueError(f"{readout.linear.in_features} channels do not divide into {units} units")
        self.score, self.linear, self.units = readout.score, readout.linear, units

    def pool(self, features: Float[Tensor, "n t d"], mask: Bool[Tensor, "n t"] | None = None) -> Float[Tensor, "n d"]:
        """The channels of every unit, pooled with the softmax of the unit's own part of the scores."""
        grouped = features.unflatten(2, (self.units, -1))  # (N, T, U, P)
        scores = (features * self.score.weight).unflatten(2, (self.units, -1)).sum(3)  # (N, T, U)
        pooled: Tensor = (masked(scores, mask).softmax(dim=1).unsqueeze(3) * grouped).sum(1)
        return pooled.flatten(1)


def jaccard(first: Bool[np.ndarray, "unit label"], second: Bool[np.ndarray, "unit label"]) -> tuple[float, float]:
    """How far two diagonal sets of the same node agree, and how far those of two different nodes do, which is chance.

    Agreement is ``|D ∩ D'| / |D ∪ D'|``, averaged over the units, or over all ordered pairs of different units, of which
    at least one recognises a label; NaN where there are none.
    """
    counts = [np.asarray(sets, dtype=np.float32) for sets in (first, second)]
    shared = counts[0] @ counts[1].T
    union = counts[0].sum(1)[:, None] + counts[1].sum(1)[None, :] - shared
    agreement, same = shared / np.maximum(union, 1), np.eye(len(union), dtype=bool)
    found = [agreement[pairs & (union > 0)] for pairs in (same, ~same)]
    own, others = (float(values.mean()) if len(values) else float("nan") for values in found)
    return own, others
