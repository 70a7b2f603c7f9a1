"""What members share, looked at run by run, and gains of cells of the design against committees counted one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from snp_lib import experiments
from snp_lib.analysis import committee
from snp_lib.analysis.crossed import crossed, gains
from snp_lib.experiments import initial_model
from snp_lib.results.committee import CONVOLUTIONAL, ORDERS, PATCHES, TRANSFORMERS
from snp_lib.results.shared import (
    CELLS,
    CONVOLUTIONAL_BESIDE,
    Crossing,
    cells_of,
    claimed_gains,
    compared,
    control,
    crossing,
    differences,
    heads_beside_seeds,
    pairs,
    trained_alike,
    trios,
)
from snp_lib.store import Run

Pair = tuple[Run, Run]


def like(run: Run, *, device: str = "", train: float | None = None, epochs: int | None = None, **changes: Any) -> Run:
    """The same run under another description, as if trained otherwise."""
    changes |= {} if epochs is None else {"recipe": replace(run.experiment.recipe, epochs=epochs)}
    manifest = run.manifest | ({"device": device} if device else {})
    if train is not None:
        manifest |= {"history": [{"train_accuracy": 0.0}, {"train_accuracy": train}]}
    return Run(replace(run.experiment, **changes), run.path, manifest)


def accuracy(*runs: Run) -> float:
    decided = committee.decide(np.stack([run.logits for run in runs]).astype(np.float64))
    return float((decided == runs[0].labels).mean())


def gain(*runs: Run) -> float:
    return accuracy(*runs) - float(np.mean([accuracy(run) for run in runs]))


def six(four: Sequence[Run]) -> list[Run]:
    """Two and four heads at three seeds; the logits of seed 2 are those of two other networks."""
    named = {2: "cct-h2", 4: "cct"}
    runs = [like(run, name=named[run.num_heads]) for run in four]
    return [
        *runs,
        like(runs[3], seed=2, name="cct-h2", model_options=runs[0].experiment.model_options),
        like(runs[0], seed=2, name="other-h2"),
    ]


def names(table: Any) -> list[str]:
    return sorted(table.members)


def test_networks_of_other_heads_begin_as_the_same_and_those_without_the_first_encoder_do_not() -> None:
    def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
        parameters = initial_model(experiments.get(name, "small", seed), 100).named_parameters()
        return {key: value for key, value in parameters if value.numel() > 1 and value.min() < value.max()}

    first = weights("cct", 0)
    for name in ("cct-h2", "cct-h32", "cct-o1"):
        assert all(torch.equal(value, first[key]) for key, value in weights(name, 0).items())
    for name, seed in (("cct-k1", 0), ("cct-k1-full1", 0), ("cct", 1)):
        other = weights(name, seed)
        assert not any(first[key].shape == value.shape and torch.equal(first[key], value) for key, value in other.items() if key in first)


def test_what_a_pair_shares(four: list[Run]) -> None:
    table = crossing({"all": four}).table.set_index("members")

    def traits(a: int, b: int) -> list[str]:
        row = table.loc[f"{four[a].experiment.id}, {four[b].experiment.id}"]
        return [row[trait] for trait in ("shape", "heads", "initialisation", "order")]

    assert traits(0, 1) == ["same", "other", "same", "same"]
    assert traits(0, 2) == ["same", "same", "other", "other"]
    assert traits(0, 3) == ["same", "other", "other", "other"]


@pytest.mark.parametrize(
    ("changes", "initialisation", "order"),
    [
        ({"name": "again"}, "same", "same"),
        ({"name": "again", "device": "NVIDIA H200"}, "same", "other"),
        ({"name": "again", "device": "16 CPU cores"}, "same", "same"),
        ({"name": "again", "order_seed": 5}, "same", "other"),
        ({"name": "again", "epochs": 9}, "same", "other"),
        ({"seed": 5, "order_seed": 0}, "other", "same"),
        ({"seed": 5}, "other", "other"),
    ],
)
def test_order_hangs_on_its_seed_the_recipe_and_the_generator(
    four: list[Run], changes: dict[str, Any], initialisation: str, order: str
) -> None:
    (row,) = crossing({"two": [four[0], like(four[0], **changes)]}).table.to_dict("records")
    assert (row["shape"], row["heads"], row["initialisation"], row["order"]) == ("same", "same", initialisation, order)
    assert row["gain"] == row["disagreement"] == 0


def test_another_shape_is_never_initialised_alike(four: list[Run]) -> None:
    other = like(four[0], name="again", model_options=four[0].experiment.model_options | {"mlp_ratio": 1.0})
    (row,) = crossing({"two": [four[0], other]}).table.to_dict("records")
    assert (row["shape"], row["heads"], row["initialisation"], row["order"]) == ("other", "same", "other", "same")


def test_every_committee_is_counted_as_it_decides(four: list[Run]) -> None:
    found = crossing({"all": four, "first": four[:2]}, 2, between={"across": (four[:1], four[2:])})
    assert found.table.groupby("family").size().to_dict() == {"all": 6, "first": 1, "across": 2}
    assert len(found.runs) == 4
    by_name = {run.experiment.id: run for run in four}
    for _, row in found.table.iterrows():
        a, b = (by_name[name] for name in row.members.split(", "))
        assert row.counts == (a.num_heads, b.num_heads)
        assert row.accuracy == pytest.approx(accuracy(a, b))
        assert row["mean"] == pytest.approx((accuracy(a) + accuracy(b)) / 2)
        assert row.best == pytest.approx(max(accuracy(a), accuracy(b)))
        assert row.gain == pytest.approx(gain(a, b))
        assert row.gain_best == pytest.approx(row.accuracy - row.best)
        assert row.per_error == pytest.approx(row.gain / (1 - row["mean"]))
        answers = [run.logits.argmax(1) for run in (a, b)]
        assert row.disagreement == pytest.approx(np.mean(answers[0] != answers[1]))
        assert row.error_correlation == pytest.approx(np.corrcoef([each != a.labels for each in answers])[0, 1])
    with pytest.raises(ValueError, match="no committees of 5"):
        crossing({"all": four}, 5)


def test_trios_share_a_trait_all_or_not_at_all(four: list[Run]) -> None:
    runs = six(four)
    assert len(crossing({"all": runs}, 3).table) == 20
    found = trios({TRANSFORMERS: runs}).table
    assert set(found[["heads", "initialisation", "order"]].to_numpy().ravel()) <= {"same", "other"}
    expected = []
    for trio in combinations(runs, 3):
        heads, seeds = ({getter(run) for run in trio} for getter in (lambda run: run.num_heads, lambda run: run.experiment.seed))
        if len(heads) in (1, 3) and len(seeds) in (1, 3):
            expected.append(", ".join(run.experiment.id for run in trio))
    assert names(found) == sorted(expected)
    assert expected


def test_a_contrast_is_that_of_the_committees_alone(four: list[Run]) -> None:
    runs = six(four)
    found = crossing({"all": runs})
    cell, against = found.where(heads="other", initialisation="other"), found.where(heads="same", initialisation="other")
    gained = gains(found.together, found.alone, found.chosen)
    seeds = np.array([run.experiment.seed for run in runs])
    for networks, units in ((False, seeds), (True, np.arange(len(runs)))):
        one, other = found.contrast(cell, against, networks=networks), crossed(gained, found.chosen, cell * 1 - against * 1, units)
        assert (one.estimate, one.over_images) == pytest.approx((other.estimate, other.over_images))
        np.testing.assert_allclose(one.values, other.values)
    by_hand = [gain(a, b) for a, b in combinations(runs, 2) if a.num_heads != b.num_heads and a.experiment.seed != b.experiment.seed]
    assert found.contrast(cell).estimate == pytest.approx(np.mean(by_hand))
    for cells in ((~cell & cell,), (cell, ~cell & cell)):
        with pytest.raises(ValueError, match="no committee of this kind"):
            found.contrast(*cells)


def design(four: Sequence[Run]) -> tuple[Crossing, list[Run], list[Run]]:
    """Compact transformers, a residual network and the 2 × 2 of initialisation and order, all from four networks."""
    small = [like(run, name="cct" if run.num_heads == 4 else "cct-h2", train=0.5) for run in four]
    filters = [like(run, name="resnet", model="resnet8", train=0.51) for run in (four[3], four[0])]
    filters[1] = like(filters[1], seed=1)
    filters[0] = like(filters[0], seed=0)
    apart = [small[1], small[3], like(small[3], name="cct-o1", seed=0, order_seed=1), like(small[1], name="cct-o0", seed=1, order_seed=0)]
    return pairs({TRANSFORMERS: small, CONVOLUTIONAL: filters}, apart), small, filters


def test_pairs_cross_initialisation_with_order(four: list[Run]) -> None:
    found, small, filters = design(four)
    counted = {name: int(found.where(**conditions).sum()) for name, conditions in CELLS.items()}
    assert counted == {
        "other heads, other initialisation and order": 2,
        "same heads, other initialisation and order": 2,
        "other heads, other initialisation, same order": 1,
        "same heads, other initialisation, same order": 2,
        "other heads, same initialisation, other order": 0,
        "same heads, same initialisation, other order": 2,
        "other heads, same initialisation and order": 2,
        "other first encoder, other order": 0,
        "other first encoder, same order": 0,
        "half the width, other seeds": 0,
        "plain vision transformer, other seeds": 0,
        "residual network, other seeds": 1,
    }
    same_order = found.where(**CELLS["same heads, other initialisation, same order"])
    assert names(found.table[same_order]) == ["cct-smoke-s0, cct-o0-smoke-s1", "cct-smoke-s1, cct-o1-smoke-s0"]
    same_start = found.where(**CELLS["same heads, same initialisation, other order"])
    assert names(found.table[same_start]) == ["cct-smoke-s0, cct-o1-smoke-s0", "cct-smoke-s1, cct-o0-smoke-s1"]
    assert names(found.table[(found.table.family == ORDERS) & (found.table.heads == "other")]) == [
        f"{name}, cct-h2-smoke-s0" for name in ("cct-o0-smoke-s1", "cct-o1-smoke-s0", "cct-smoke-s0", "cct-smoke-s1")
    ]
    assert int(found.where(family=CONVOLUTIONAL_BESIDE).sum()) == 4
    fewer = pairs({TRANSFORMERS: small, PATCHES: filters}, [small[1]])
    assert not fewer.where(family=ORDERS).any()


def test_rows_of_cells_are_those_of_their_contrasts(four: list[Run]) -> None:
    found, small, _ = design(four)
    table = cells_of({"one": found, "two": crossing({TRANSFORMERS: small[:2]})}, CELLS)
    assert table[table.scale == "two"].cell.tolist() == ["other heads, same initialisation and order"]
    row = table[(table.scale == "one") & (table.cell == "other heads, same initialisation and order")].iloc[0]
    of_it = [(small[0], small[1]), (small[2], small[3])]
    assert row.pairs == 2
    assert row.gain == pytest.approx(100 * np.mean([gain(*pair) for pair in of_it]))
    assert row["over best"] == pytest.approx(100 * np.mean([accuracy(*pair) - max(map(accuracy, pair)) for pair in of_it]))
    assert row.members == pytest.approx(100 * np.mean([accuracy(run) for run in small]))
    cell = found.where(**CELLS[row.cell])
    assert (row.low, row.high) == pytest.approx(tuple(100 * end for end in found.contrast(cell, networks=True).interval))
    assert (row.seeds_low, row.seeds_high) == pytest.approx(tuple(100 * end for end in found.contrast(cell).interval))


def test_differences_are_of_the_cells_they_name(four: list[Run]) -> None:
    found, small, _ = design(four)
    table = differences(found, (4,))
    assert table.index.tolist() == [
        "other heads minus same heads, other seeds",
        "other heads, other minus same initialisation and order",
    ]
    other = np.mean([gain(small[0], small[3]), gain(small[1], small[2])])
    same = np.mean([gain(small[0], small[2]), gain(small[1], small[3])])
    shared = np.mean([gain(small[0], small[1]), gain(small[2], small[3])])
    assert table.difference.tolist() == pytest.approx([100 * (other - same), 100 * (other - shared)])
    assert table[["committees", "against"]].to_numpy().tolist() == [[2, 2], [2, 2]]
    alone = found.contrast(*heads_beside_seeds(found))
    assert table["se images"].iloc[0] == pytest.approx(100 * alone.over_images)
    assert np.isnan(table["se seeds"].iloc[0])  # of two seeds, one alone forms no pair of other seeds
    assert heads_beside_seeds(found, (2,))[0].sum() == 0
    assert heads_beside_seeds(found, (2,))[1].sum() == 1
    families = {"one": {TRANSFORMERS: six(four)}}
    both = compared(families, {"one": found}, (4,))
    assert set(both.index.get_level_values(0)) <= {"pairs, one", "trios, one"}
    assert both.loc["pairs, one"].equals(table)


def test_claims_are_jackknife_values_and_a_poor_control_decides_nothing(four: list[Run]) -> None:
    found, small, filters = design(four)
    claimed = claimed_gains(found)
    other = np.mean([gain(small[0], small[3]), gain(small[1], small[2])])
    same = np.mean([gain(small[0], small[2]), gain(small[1], small[3])])
    per_error = [gain(*pair) / (1 - np.mean([accuracy(run) for run in pair])) for pair in ((small[1], small[3]), tuple(filters))]
    assert claimed["committee-heads"] == pytest.approx([other - same])  # two seeds: nothing is left for a jackknife
    assert claimed["committee-cnn"] == pytest.approx([per_error[0] - per_error[1]], abs=1e-6)
    assert claimed["committee-cnn-none"] == pytest.approx([accuracy(*filters) - max(map(accuracy, filters))])
    three = [*small, like(small[0], seed=2), like(small[3], seed=2)]
    again = [*filters, like(filters[0], seed=2)]
    whole = claimed_gains(pairs({TRANSFORMERS: three, CONVOLUTIONAL: again}))
    assert [len(values) for values in whole.values()] == [3, 3, 3]
    poor = claimed_gains(pairs({TRANSFORMERS: three, CONVOLUTIONAL: [like(run, train=0.4) for run in again]}))
    assert poor["committee-cnn"] == pytest.approx([np.mean(whole["committee-cnn"])], abs=1e-6)
    assert poor["committee-cnn-none"] == whole["committee-cnn-none"]
    assert list(claimed_gains(pairs({TRANSFORMERS: small}))) == ["committee-heads"]


@pytest.mark.parametrize(("train", "epochs", "alike"), [(0.5, 1, True), (0.519, 1, True), (0.55, 1, False), (0.5, 2, False)])
def test_a_control_is_trained_as_long_and_as_well(four: list[Run], train: float, epochs: int, alike: bool) -> None:
    runs = [like(four[0], name="a", train=0.5), like(four[2], name="a", train=0.5), like(four[1], name="b", train=train, epochs=epochs)]
    assert trained_alike(crossing({"all": runs}), "a", "b") == alike


def test_the_control_network_by_network(four: list[Run]) -> None:
    found, small, filters = design(four)
    table = control(found, {"cct": "transformers", "resnet": "filters", "vit": "none"})
    assert table.index.tolist() == ["transformers", "filters"]
    for name, pair, train in (("transformers", (small[1], small[3]), 50), ("filters", tuple(filters), 51)):
        mean = np.mean([accuracy(run) for run in pair])
        row = table.loc[name]
        assert (row.epochs, row["train (%)"]) == (pair[0].experiment.recipe.epochs, pytest.approx(train))
        assert (row["test (%)"], row.gain) == pytest.approx((100 * mean, 100 * gain(*pair)))
        assert row["per error (%)"] == pytest.approx(100 * gain(*pair) / (1 - mean), abs=1e-4)
