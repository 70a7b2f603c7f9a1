"""The logits of a run as they are kept: rounded, so that a record is small, and with every answer as it was (defined here)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float16, UInt8

STEP = 1 / 32  # what one logit may be off is half of it, a hundredth of what logits of one label spread over images
ROUNDED = 2e-3  # of the test accuracy, or three images of a small split: logits of earlier runs are rounded otherwise and may tie


def rounded(logits: Float[np.ndarray, "image label"]) -> Float16[np.ndarray, "image label"]:
    """Logits in multiples of ``STEP``, the largest of an image as much larger as keeps its label the answer.

    A quarter of the bytes of half precision go, as those digits are noise to a compressor and to a committee alike.

    Args:
        logits: finite, in any floating-point precision.
    """
    nearest = np.round(logits.astype(np.float64) / STEP) * STEP
    answers, images = logits.argmax(1), np.arange(len(logits))
    rivals = nearest.copy()
    rivals[images, answers] = -np.inf
    largest = rivals.max(1) + STEP * (rivals.argmax(1) < answers)  # of equal logits the first is the answer
    nearest[images, answers] = np.maximum(nearest[images, answers], largest)
    return nearest.astype(np.float16)


def check(logits: Float[np.ndarray, "image label"], labels: UInt8[np.ndarray, " image"], said: float) -> None:
    """Raise ValueError unless the labels are among those of the logits and the accuracy is the one said, but for rounding."""
    classes = logits.shape[1]
    if labels.max() >= classes:
        raise ValueError(f"'labels' holds {labels.max()}; there are {classes} classes")
    measured = (logits.argmax(1) == labels).mean()
    if abs(measured - said) > max(ROUNDED, 3.5 / len(labels)):
        raise ValueError(f"its logits have a test accuracy of {measured:.4f}, its manifest says {said:.4f}")
