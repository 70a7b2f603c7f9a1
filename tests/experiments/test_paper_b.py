"""Variants of the compact transformer: what changes, and that nothing else does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from snp_lib import experiments
from snp_lib.experiments import CATALOGUE, SCALES, get
from snp_lib.experiments.paper_b import FRONTS, HEAD_SITES, HEADS, NODE_SITES, SHORTCUTS, WIDE, variant, without_first
from snp_lib.models import create_model
from snp_lib.models.cct import CCT


def network(name: str, scale: Any) -> CCT:
    experiment = get(name, scale, 0)
    torch.manual_seed(0)
    model = create_model(experiment.model, num_classes=10, **experiment.model_options)
    assert isinstance(model, CCT)
    return model


@pytest.mark.parametrize("scale", SCALES)
def test_more_heads_share_the_same_width(scale: Any) -> None:
    plain = network("cct", scale)
    for heads in HEADS[scale]:
        model = network(f"cct-h{heads}", scale)
        assert model.config == replace(plain.config, num_heads=heads)
        assert {name: p.shape for name, p in model.named_parameters()} == {name: p.shape for name, p in plain.named_parameters()}
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))  # the same start, too


@pytest.mark.parametrize("scale", SCALES)
def test_wide_variants_keep_the_width_of_a_head(scale: Any) -> None:
    plain = network("cct", scale).config
    for heads in WIDE[scale]:
        shape = network(f"cct-h{heads}-wide", scale).config
        assert shape == replace(plain, num_heads=heads, embed_dim=plain.embed_dim // plain.num_heads * heads)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("front", [*FRONTS, *SHORTCUTS, "-separable3", "-full2-shortcut"])
def test_encoders_are_replaced_and_the_others_stay_as_they_are(front: str, scale: Any) -> None:
    plain = network("cct", scale).config
    for count in range(1, plain.depth):
        model = network(f"cct-k{count}{front}", scale)
        form, layers = (front[1:].removesuffix("-shortcut")[:-1], int(front.removesuffix("-shortcut")[-1])) if front else (None, 1)
        options = {"front": form, "front_layers": layers, "front_shortcut": front.endswith("-shortcut")}
        assert model.config == replace(plain, depth=plain.depth - count, **options)
        assert (model.front is None) == (front == "")
        assert len(model.sites) == 4 * (plain.depth - count)


def test_what_the_catalogue_lists_is_what_its_name_says() -> None:
    for name, entry in CATALOGUE.items():
        if name.startswith(("cct-h", "cct-k")):
            for scale in entry.cost:
                assert variant(get("cct", scale, 1), name) == get(name, scale, 1)
    lean = {name for name in CATALOGUE if name.startswith("cct-") and get(name, "medium" if name != "cct-h2" else "small", 0).lean}
    assert lean == {*experiments.convolutions_first(shortcut=True), *(f"cct-k{k}{front}" for k in (2, 3) for front in ("", "-full1"))}


def test_variants_beyond_the_catalogue() -> None:
    assert get("cct-h64-wide", "small", 0).model_options["embed_dim"] == 64 * 32
    assert variant(get("cct", "small", 0), "cct") is None
    for name, message in {
        "cct-k9-full1": "between 1 and 4 can go, not 9",
        "cct-k1-deep2": "no front '-deep2'",
        "cct-k1-full0": "no front '-full0'",
        "cct-kone": "unknown experiment 'cct-kone'",
        "cct-h2-wider": "unknown experiment 'cct-h2-wider'",
    }.items():
        with pytest.raises(ValueError, match=message):
            get(name, "small", 0)


def test_recipe_data_and_seed_are_those_of_the_base() -> None:
    base = get("cct", "small", 2)
    for name in (name for name in CATALOGUE if name.startswith(("cct-h", "cct-k")) and "small" in CATALOGUE[name].cost):
        changed = get(name, "small", 2)
        assert changed.readout.kinds == (HEAD_SITES if name.startswith("cct-h") else NODE_SITES)
        same = {"model": base.model, "model_options": base.model_options, "snapshots": base.snapshots, "lean": None}
        assert replace(changed, name="cct", readout=replace(changed.readout, kinds=None), **same) == base
        assert changed.hash != base.hash


def test_a_network_keeps_an_encoder() -> None:
    base = get("cct", "smoke", 0)
    assert without_first(base, 2).model == "cct_1_3x1"
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"has 3 encoders: between 1 and 2 can go, not {count}"):
            without_first(base, count)
