"""Named experiments: frozen, hashed, and refused when they cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from shared import unchecked

from snp_lib import experiments
from snp_lib.experiments import SCALES, get, parse_seeds
from snp_lib.experiments.experiment import initial_model
from snp_lib.experiments.paper_b import HEADS, WIDE
from snp_lib.machine import records_dir
from snp_lib.models import create_model, fronts


@pytest.mark.parametrize(("name", "scale"), [(name, scale) for name, entry in experiments.CATALOGUE.items() for scale in entry.cost])
def test_every_named_experiment_describes_a_network_that_can_be_built(name: str, scale: Any) -> None:
    experiment = get(name, scale, 3)
    assert experiment.id == f"{name}-{scale}-s3"
    create_model(experiment.model, num_classes=10, **experiment.model_options)
    assert experiments.CATALOGUE[name].published.keys() <= experiments.CATALOGUE[name].cost.keys()


def test_the_hash_is_stable_and_sees_every_field() -> None:
    first = get("cct", "smoke", 0)
    assert first.hash == get("cct", "smoke", 0).hash
    others = [
        get("cct", "smoke", 1),
        first.vary("other"),
        replace(first, dataset_size=8),
        replace(first, model_options=first.model_options | {"dropout": 0.1}),
        replace(first, recipe=replace(first.recipe, lr=1e-3)),
        replace(first, readout=replace(first.readout, lr=1e-3)),
    ]
    assert len({first.hash, *(other.hash for other in others)}) == 1 + len(others)


def test_the_training_hash_sees_what_the_weights_depend_on_and_nothing_else() -> None:
    first = get("cct", "smoke", 0)
    assert first.training_hash == first.vary("other").training_hash
    assert first.training_hash == replace(first, readout=replace(first.readout, epochs=1)).training_hash
    assert first.training_hash != replace(first, seed=1).training_hash
    assert first.training_hash != replace(first, recipe=replace(first.recipe, lr=1e-3)).training_hash


def test_wrong_names_scales_and_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown experiment 'vgg'; there are .*cct"):
        get("vgg", "smoke", 0)
    with unchecked(), pytest.raises(ValueError, match="no scale 'huge'"):
        get("cct", "huge", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must be"):
        get("cct", "smoke", -1)


def test_a_data_set_names_its_experiment() -> None:
    assert experiments.on("cifar100", "small", 1) == get("cct", "small", 1)
    assert experiments.on("flowers102", "paper", 0).dataset == "flowers102"
    assert experiments.on("flowers102-trainval", "small", 0).name == "flowers-trainval"
    with pytest.raises(ValueError, match="the chapters know cifar100, flowers102, flowers102-trainval, not 'mnist'"):
        experiments.on("mnist", "small", 0)


@pytest.mark.parametrize("scale", experiments.SCALES)
def test_training_and_validation_together_change_the_images_and_nothing_else(scale: Any) -> None:
    alone, together = get("flowers", scale, 1), get("flowers-trainval", scale, 1)
    assert replace(together, name="flowers", dataset=alone.dataset) == alone
    assert together.dataset == ("digits" if scale == "smoke" else "flowers102-trainval")


@pytest.mark.parametrize("scale", SCALES)
def test_networks_by_their_number_of_heads(scale: Any) -> None:
    counts = experiments.head_counts(scale)
    assert counts == sorted({4, *HEADS[scale]})
    assert experiments.head_counts(scale, f"{counts[-1]}, {counts[0]}") == [counts[0], counts[-1]]
    for wrong in ("5", "4", "4,5", "4,", "4;16", "4,4"):
        with pytest.raises(ValueError, match=f"scale '{scale}' has networks of {', '.join(map(str, counts))} heads: name two"):
            experiments.head_counts(scale, wrong)
    for count in counts:
        experiment = experiments.with_heads(count, scale, 1)
        assert experiment.seed == 1
        assert initial_model(experiment, 10).config.num_heads == count
    assert experiments.with_heads(4, scale, 0) == experiments.get("cct", scale, 0)
    with pytest.raises(ValueError, match=f"at scale {scale} there are networks of {', '.join(map(str, counts))} heads, not of 5"):
        experiments.with_heads(5, scale, 0)
    own = initial_model(experiments.get("cct", scale, 0), 10).config
    for count in WIDE[scale]:
        config = initial_model(experiments.with_heads(count, scale, 0, wide=True), 10).config
        assert (config.num_heads, config.embed_dim // config.num_heads) == (count, own.embed_dim // own.num_heads)
    assert experiments.with_heads(4, scale, 0, wide=True) == experiments.get("cct", scale, 0)
    with pytest.raises(ValueError, match="wide heads, not of 5"):
        experiments.with_heads(5, scale, 0, wide=True)


def test_an_order_of_another_seed_changes_the_order_alone() -> None:
    base, other = get("cct", "small", 0), get("cct-o1", "small", 0)
    assert (base.order_seed, other.order_seed, other.seed) == (None, 1, 0)
    heads = replace(base, readout=other.readout, snapshots=None)
    assert replace(other, name="cct", order_seed=None) == heads
    assert len({base.training_hash, other.training_hash, get("cct-o2", "small", 0).training_hash}) == 3
    assert "order_seed" not in base.describe()
    with pytest.raises(ValueError, match="order_seed must be a non-negative integer, got -1"):
        replace(base, order_seed=-1)
    with pytest.raises(ValueError, match="unknown experiment 'cct-o01'"):
        get("cct-o01", "small", 0)


def test_seeds_from_text() -> None:
    assert parse_seeds("0, 1,12") == [0, 1, 12]
    for wrong in ("", "0,", "1,1", "-1", "a", "0;1", "1.5"):
        with pytest.raises(ValueError, match="expected distinct seeds"):
            parse_seeds(wrong)


def test_a_pooling_that_is_not_named_changes_no_hash_and_one_that_is_does() -> None:
    first = get("cct", "small", 0)
    assert "pooling" not in first.describe()["readout"]
    assert first.hash == json.loads((records_dir() / first.id / "manifest.json").read_text(encoding="utf-8"))["hash"]
    mean = replace(first, readout=replace(first.readout, pooling="mean"))
    assert (mean.hash != first.hash, mean.training_hash) == (True, first.training_hash)
    with pytest.raises(ValueError, match=r"one number per channel: .*stages\.stage"):
        replace(first, readout=replace(first.readout, pooling="flat"))


def test_what_the_hash_takes_for_granted_has_not_changed() -> None:
    """Configurations are compared with the records when these are read; how a front is narrow stands in none."""
    assert fronts.NARROW == 4
