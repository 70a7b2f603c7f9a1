"""Tokens made unknown while training, and which recipes are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from snp_lib.training import Recipe
from snp_lib.training.preparation import preparation
from snp_lib.training.recipe import TEXT_16


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_word_in_ten_is_unknown_while_training_and_none_in_a_test() -> None:
    tokens = torch.randint(2, 90, (400, 20), generator=drawn(0)) * (torch.arange(20) < 15)
    prepared = preparation(TEXT_16, tokens, 5)
    assert torch.equal(prepared.plain(tokens), tokens)
    varied = prepared.augmented(tokens, drawn(1))
    changed = varied != tokens
    assert changed[:, :15].float().mean() == pytest.approx(0.1, abs=0.01)
    assert (varied[changed] == 1).all()
    assert not varied[:, 15:].any()
    assert torch.equal(varied, prepared.augmented(tokens, drawn(1)))
    mixed, labels = prepared.mixed(tokens, torch.arange(400) % 5, drawn(1))
    assert torch.equal(mixed, varied[:, :15])  # columns that hold padding alone are cut off
    assert torch.equal(labels, torch.arange(400) % 5)


def test_without_the_option_nothing_is_varied() -> None:
    tokens = torch.randint(2, 90, (10, 6), generator=drawn(0))
    assert torch.equal(preparation(replace(TEXT_16, token_dropout=None), tokens, 5).augmented(tokens, drawn(1)), tokens)


def test_images_have_no_tokens_to_drop() -> None:
    with pytest.raises(ValueError, match="token_dropout is an augmentation of tokens; for images switch it off"):
        preparation(replace(TEXT_16), torch.zeros(2, 1, 8, 8, dtype=torch.uint8), 5)
    with pytest.raises(ValueError, match=r"token_dropout must lie in \[0, 1\), got 1.0"):
        replace(TEXT_16, token_dropout=1.0)


def test_the_option_changes_no_hash_where_it_is_off() -> None:
    assert Recipe(epochs=1, batch_size=1, lr=1.0, weight_decay=0.0).token_dropout is None
