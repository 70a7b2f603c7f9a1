"""Variants of the compact transformer: what changes, and that nothing else does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from snp_lib import variants
from snp_lib.experiments import CATALOGUE, SCALES, get
from snp_lib.models import CCT, create_model


def network(name: str, scale: Any) -> CCT:
    experiment = get(name, scale, 0)
    torch.manual_seed(0)
    model = create_model(experiment.model, num_classes=10, **experiment.model_options)
    assert isinstance(model, CCT)
    return model


@pytest.mark.parametrize("scale", SCALES)
def test_more_heads_share_the_same_width(scale: Any) -> None:
    plain = network("cct", scale)
    for heads in variants.HEADS[scale]:
        model = network(f"cct-h{heads}", scale)
        assert model.config == replace(plain.config, num_heads=heads)
        assert {name: p.shape for name, p in model.named_parameters()} == {name: p.shape for name, p in plain.named_parameters()}
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))  # the same start, too


@pytest.mark.parametrize("scale", SCALES)
def test_wide_variants_keep_the_width_of_a_head(scale: Any) -> None:
    plain = network("cct", scale).config
    for heads in variants.WIDE[scale]:
        shape = network(f"cct-h{heads}-wide", scale).config
        assert shape == replace(plain, num_heads=heads, embed_dim=plain.embed_dim // plain.num_heads * heads)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("front", variants.FRONTS)
def test_encoders_are_replaced_and_the_others_stay_as_they_are(front: str, scale: Any) -> None:
    plain = network("cct", scale).config
    for count in variants.REPLACED[scale]:
        model = network(f"cct-k{count}{front}", scale)
        assert model.config == replace(plain, depth=plain.depth - count, **variants.FRONTS[front])
        assert (model.front is None) == (front == "")
        assert len(model.sites) == 4 * (plain.depth - count)


def test_recipe_data_and_seed_are_those_of_the_base() -> None:
    base = get("cct", "small", 2)
    for name in (name for name in CATALOGUE if name.startswith(("cct-h", "cct-k")) and "small" in CATALOGUE[name].cost):
        changed = get(name, "small", 2)
        assert changed.readout.kinds == (variants.HEAD_SITES if name.startswith("cct-h") else variants.NODE_SITES)
        same = {"model": base.model, "model_options": base.model_options, "snapshots": base.snapshots}
        assert replace(changed, name="cct", readout=replace(changed.readout, kinds=None), **same) == base
        assert changed.hash != base.hash


def test_a_network_keeps_an_encoder() -> None:
    base = get("cct", "smoke", 0)
    assert variants.without_first(base, 2).model == "cct_1_3x1"
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"has 3 encoders: between 1 and 2 can go, not {count}"):
            variants.without_first(base, count)
