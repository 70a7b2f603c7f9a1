"""Learning-rate schedules as plain functions of the step."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, total: int, warmup: int, peak: float, start: float = 1e-6, end: float = 1e-5) -> float:
    """Linear from ``start`` to ``peak`` over ``warmup`` steps, then half a cosine down to ``end`` at ``total``.

    The schedule of the CCT recipes (arXiv:2104.05704, released configurations), per step instead of per epoch.
    """
    if step < warmup:
        return start + (peak - start) * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress))
