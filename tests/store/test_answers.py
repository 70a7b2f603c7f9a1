"""Logits as they are kept: close to what they were, every answer the same."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from snp_lib.store import answers

NOISE = np.random.default_rng(0)


def by_hand(logits: np.ndarray) -> np.ndarray:
    """Image by image: to the nearest step, then the answer one step up at a time until it is the answer again."""
    kept = []
    for row in logits.astype(float):
        near = [round(value / answers.STEP) for value in row]
        while int(np.argmax(near)) != int(np.argmax(row)):
            near[int(np.argmax(row))] += 1
        kept.append([value * answers.STEP for value in near])
    return np.array(kept, dtype=np.float16)


@pytest.mark.parametrize("spread", [0.02, 0.1, 3.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rounded_logits_are_those_of_a_loop_and_keep_every_answer(spread: float, dtype: Any) -> None:
    logits: np.ndarray = (spread * NOISE.normal(size=(500, 10))).astype(dtype)
    kept = answers.rounded(logits)
    assert np.array_equal(kept, by_hand(logits))
    assert np.array_equal(kept.argmax(1), logits.argmax(1))
    assert np.abs(kept.astype(float) - logits).max() <= 1.5 * answers.STEP
    assert np.array_equal(answers.rounded(kept), kept)
    plain = np.round(logits.astype(float) / answers.STEP)
    assert spread > 1 or not np.array_equal(plain.argmax(1), logits.argmax(1))  # ties that plain rounding would lose


def test_rounded_logits_take_less_room() -> None:
    def size(logits: np.ndarray) -> int:
        stream = io.BytesIO()
        np.savez_compressed(stream, logits=logits)
        return len(stream.getvalue())

    logits = (3 * NOISE.normal(size=(2000, 100))).astype(np.float16)
    assert size(answers.rounded(logits)) < 0.8 * size(logits)


def test_an_accuracy_that_the_logits_do_not_have_is_refused() -> None:
    logits: np.ndarray = np.eye(4)[[0, 1, 2, 3] * 500]
    labels = np.array([0, 1, 2, 3] * 500, dtype=np.uint8)
    answers.check(logits, labels, 1.0)
    answers.check(logits, labels, 0.999)
    with pytest.raises(ValueError, match=r"test accuracy of 1\.0000, its manifest says 0\.9900"):
        answers.check(logits, labels, 0.99)
    with pytest.raises(ValueError, match="holds 7; there are 4 classes"):
        answers.check(logits, labels + np.uint8(4), 1.0)
