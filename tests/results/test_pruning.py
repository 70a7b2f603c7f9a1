"""Pruning hung off a run: the arms, what they keep, before and after fine-tuning."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from snp_lib import data, latency, store
from snp_lib.performance import binarize, diagonal_sets
from snp_lib.pruning import block_permutation, macs
from snp_lib.pruning.masks import Masks, andc, apply_masks, density
from snp_lib.results import measure
from snp_lib.results.latency import FORMS, PrunedLatency, pruned_latency
from snp_lib.results.pruning import (
    FineTuning,
    Pruning,
    all_arms,
    difference_in_points,
    difference_per_seed,
    encoders_alone,
    lost_by_encoder,
    masks_in_blocks,
    masks_of,
    paired,
    pruned_accuracy,
    prunings,
)
from snp_lib.store import Run, StoreError
from snp_lib.store.derived import Arrays
from snp_lib.training.loop import train
from snp_lib.training.prediction import accuracy, predict, top_accuracy
from snp_lib.training.preparation import make_normalize

THETAS = (0.3, 0.7)
UNTUNED = FineTuning(epochs=0)


@pytest.fixture
def run(smoke_run: Run, own_folders: Path) -> Run:
    """The finished run, in folders of this test alone."""
    path = store.root("runs") / smoke_run.path.name
    shutil.copytree(smoke_run.path, path)
    return replace(smoke_run, path=path)


def pruning(run: Run, arm: Any, **options: Any) -> Arrays:
    return Pruning(arm=arm, **options).make(run, device="cpu", progress=False)


def same(first: Masks, second: Masks) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_masks_come_from_the_training_split(run: Run) -> None:
    model, masks = run.network(), {}
    for split in ("train", "test"):
        sets = {site: diagonal_sets(binarize(run.matrices(site, split=split), 0.3)) for site in run.sites}  # type: ignore[arg-type]
        masks[split] = andc(sets, model)
    assert same(masks_of(run, "andc", 0.3, model), masks["train"])
    assert not same(masks["train"], masks["test"])


@pytest.mark.parametrize("encoder", [None, 1, 3])
def test_arms_keep_as_many_weights_of_the_same_layers(run: Run, encoder: int | None) -> None:
    model = run.network()
    kept = {arm: {name: int(mask.sum()) for name, mask in masks_of(run, arm, 0.4, model, encoder=encoder).items()} for arm in all_arms()}
    assert kept.pop("dense") == {}
    assert len({str(found) for found in kept.values()}) == 1
    assert ("classifier.weight" in kept["andc"]) == (encoder != 1)  # its inputs are the nodes of the last encoder
    spared = masks_of(run, "andc", 0.4, model, encoder=encoder, classifier=False)
    everything = masks_of(run, "andc", 0.4, model, encoder=encoder)
    assert same(spared, {name: mask for name, mask in everything.items() if name != "classifier.weight"})
    assert same(masks_of(run, "fresh", 0.4, model), masks_of(run, "andc", 0.4, model))
    assert not same(masks_of(run, "shuffled", 0.4, model), masks_of(run, "andc", 0.4, model))


@pytest.mark.parametrize("arm", ["andc", "magnitude"])
def test_it_is_what_pruning_and_training_one_network_gives(run: Run, arm: Any) -> None:
    tuning = FineTuning(images=200)
    found = pruning(run, arm, thetas=THETAS, tuning=tuning)
    dataset = data.load("digits", size=16)
    normalize = make_normalize(run.experiment.recipe, dataset.train.inputs)
    for t, theta in enumerate(THETAS):
        model = run.network()
        masks = masks_of(run, arm, theta, model)
        total = macs(model, masks)["total"]
        apply_masks(model, masks)
        logits = predict(model, dataset.test, normalize)
        assert found["before"][t].tolist() == [accuracy(logits, dataset.test.labels), top_accuracy(logits, dataset.test.labels, 5)]
        model.tokenizer.requires_grad_(False)
        model.positions.requires_grad_(False)
        train(
            model,
            tuning.dataset(dataset, 0),
            tuning.recipe(run.experiment.recipe, 1.0),
            seed=0,
            device=torch.device("cpu"),
            masks=masks,
            progress=False,
        )
        logits = predict(model, dataset.test, normalize)
        expected = [accuracy(logits, dataset.test.labels), top_accuracy(logits, dataset.test.labels, 5)]
        assert found["after"][t] == pytest.approx(expected, abs=0.02)  # attention dropout differs where the tokeniser is in eval mode
        assert found["density"][t].tolist() == list(density(masks).values())[:-1]
        assert found["macs"][t].tolist() == [total.dense, total.kept, total.compact, total.blocks]
    assert found["total"][0] > found["total"][1]


def test_the_controls_that_prune_nothing_or_forget_everything(run: Run) -> None:
    dense = pruning(run, "dense", tuning=UNTUNED)
    assert dense["before"][0, 0] == run.metrics["test_accuracy"]
    assert dense["density"].shape == (1, 0)
    assert np.isnan(dense["total"][0])
    fresh = pruning(run, "fresh", encoder=2, thetas=(0.3,), tuning=UNTUNED)
    assert fresh["before"][0, 0] < 0.3  # chance is 0.1
    assert "after" not in fresh


def test_it_is_kept_and_options_are_not_confused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"thetas": THETAS, "tuning": UNTUNED}
    first = pruning(run, "shuffled", **options)
    last = pruning(run, "shuffled", encoder=3, **options)
    assert last["density"].shape == (2, 3)
    monkeypatch.setattr("snp_lib.results.pruning.shared_logits", None)
    assert np.array_equal(pruning(run, "shuffled", **options)["before"], first["before"])
    with pytest.raises(TypeError):  # another measurement, and nothing to make it with
        pruning(run, "shuffled", **options | {"thetas": (0.5,)})


def test_refusals(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no encoder 4 to prune: this model has encoders 1 to 3"):
        pruning(run, "dense", encoder=4)
    with pytest.raises(ValueError, match="must not be negative"):
        FineTuning(epochs=-1)
    with pytest.raises(ValueError, match="9999 images to fine-tune on, but digits has 1347 for training"):
        pruning(run, "dense", tuning=FineTuning(images=9999))
    (run.path / "weights.safetensors").unlink()
    with pytest.raises(StoreError, match="records come without weights"):
        pruning(run, "andc")


def results(*rows: tuple[int, str, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["seed", "arm", "theta", "density", "after"])


def test_tables_gather_what_was_measured(run: Run) -> None:
    options: dict[str, Any] = {"thetas": THETAS, "tuning": UNTUNED}
    with pytest.raises(StoreError, match=r"has no measurement pruning-all-dense-0 with these options\. Make it with `snp measure cct-test"):
        pruned_accuracy([run], arms=("dense", "andc"), **options)  # a table trains nothing
    measure([run], *prunings(arms=("dense", "andc"), **options), device="cpu", progress=False)
    measure([run], *prunings(arms=("andc",), classifier=False, **options), device="cpu", progress=False)
    table = pruned_accuracy([run], arms=("dense", "andc"), **options)
    arrays = pruning(run, "andc", thetas=THETAS, tuning=UNTUNED)
    spared = pruned_accuracy([run], arms=("andc",), classifier=False, **options)
    assert (spared.density.to_numpy() != arrays["total"]).all()
    assert spared.before.iloc[-1] > arrays["before"][-1, 0]  # with its classifier whole it keeps more of its accuracy
    method = table[table.arm == "andc"]
    assert method.theta.tolist() == list(THETAS)
    assert method.density.tolist() == arrays["total"].tolist()
    assert method[["before", "before_top5"]].to_numpy().tolist() == arrays["before"].tolist()
    assert method.kept.tolist() == pytest.approx((arrays["macs"][:, 1] / arrays["macs"][:, 0]).tolist())
    dense = table[table.arm == "dense"].iloc[0]
    assert (dense.density, dense.before, dense["compact"]) == (1.0, run.metrics["test_accuracy"], 1.0)
    assert np.isnan(dense.theta)


def test_paired_differences_by_hand() -> None:
    table = results(
        (0, "andc", 0.3, 0.5, 0.50), (1, "andc", 0.3, 0.6, 0.52), (0, "andc", 0.7, 0.1, 0.2), (1, "andc", 0.7, 0.2, 0.4),
        (1, "shuffled", 0.3, 0.6, 0.51), (0, "shuffled", 0.3, 0.5, 0.47), (0, "shuffled", 0.7, 0.1, 0.3), (1, "shuffled", 0.7, 0.2, 0.3),
        (0, "dense", np.nan, 1.0, 0.6), (1, "dense", np.nan, 1.0, 0.7),
    )  # fmt: skip
    against = paired(table, "andc", "shuffled")
    assert against.theta.tolist() == [0.3, 0.7]
    assert against.density.tolist() == pytest.approx([0.55, 0.15])
    assert against.difference.tolist() == pytest.approx([0.02, 0.0])
    assert against.half_width.tolist() == pytest.approx([12.706 * 0.01, 12.706 * 0.1], rel=1e-3)  # t of two values, sd/√2
    assert difference_per_seed(table, "andc", "shuffled") == pytest.approx([-0.035, 0.055])
    assert difference_per_seed(table, "andc", "dense", theta=0.7) == pytest.approx([-0.4, -0.3])
    assert paired(table, "andc", "dense").difference.tolist() == pytest.approx([-0.14, -0.35])


def test_differences_in_words() -> None:
    table = results(
        (0, "andc", 0.3, 0.5, 0.50), (1, "andc", 0.3, 0.5, 0.52), (0, "shuffled", 0.3, 0.5, 0.47), (1, "shuffled", 0.3, 0.5, 0.51),
        (0, "dense", np.nan, 1.0, 0.6), (1, "dense", np.nan, 1.0, 0.62),
    )  # fmt: skip
    found = difference_in_points(table, "andc", ("dense", "shuffled"))
    assert found.columns.tolist() == ["intact", "shuffled"]
    assert found.index.tolist() == ["0.500"]
    assert found.loc["0.500"].tolist() == ["-10.0 ± 0.0", "2.0 ± 12.7"]


def test_what_each_encoder_loses_alone(run: Run) -> None:
    measure([run], *encoders_alone(run.depth), device="cpu", progress=False)
    table = lost_by_encoder([run])
    assert table.encoder.unique().tolist() == ["1", "2", "3 + classifier", "3"]
    row = table[(table.encoder == "2") & (table.arm == "andc")].iloc[-1]
    alone = pruned_accuracy([run], arms=("andc",), encoder=2, tuning=UNTUNED).before.iloc[-1]
    assert row.lost == pytest.approx(100 * (run.metrics["test_accuracy"] - alone))
    spared = pruned_accuracy([run], arms=("andc",), encoder=3, classifier=False, tuning=UNTUNED)
    assert table[(table.encoder == "3") & (table.arm == "andc")].density.tolist() == spared.density.tolist()


def test_masks_in_blocks_are_the_masks_with_their_nodes_in_another_order(run: Run) -> None:
    shown = masks_in_blocks(run, (0.3, 0.7), site="block3.ff_hidden")
    assert list(shown) == ["θ = 0.3", "θ = 0.7"]
    mask = masks_of(run, "andc", 0.7, run.network())["encoders.2.ff1.weight"]
    form = block_permutation(mask)
    np.testing.assert_array_equal(shown["θ = 0.7"], mask.numpy()[form.rows][:, form.columns])
    with pytest.raises(ValueError, match="no layer that can be pruned has its outputs"):
        masks_in_blocks(run, (0.3,), site="block3.mha")
    assert shown["θ = 0.3"].sum() >= shown["θ = 0.7"].sum() == mask.sum()


def test_latency_of_pruned_networks_is_kept_with_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    timing = PrunedLatency(thetas=THETAS, batches=(1, 3), seconds=0.5, device="cpu")
    (run.path / "weights.safetensors").unlink()  # a record has none
    timed: list[dict[str, Any]] = []
    compare = latency.compare

    def watched(models: Any, *args: Any, **kwargs: Any) -> Any:
        timed.append(dict(models.items()))
        return compare(models, *args, **kwargs)

    monkeypatch.setattr("snp_lib.latency.compare", watched)
    found = timing.make(run)
    assert found["ratio"].shape == (2, 2, 2, 3)
    assert found["noise"].shape == (2, 3)
    assert (found["ratio"][..., 1] <= found["ratio"][..., 0]).all()
    assert (found["passes"] >= 5).all()
    assert list(timed[0]) == ["dense", "compact 0.3", "blocks 0.3", "compact 0.7", "blocks 0.7"]
    images = data.load("digits", size=16).test.inputs[:4] / 255
    masks = masks_of(run, "andc", 0.7, timed[0]["dense"])
    apply_masks(timed[0]["dense"], masks)
    for form in FORMS:  # they are that network, made smaller
        torch.testing.assert_close(timed[0][f"{form} 0.7"](images), timed[0]["dense"](images), atol=1e-5, rtol=0)
    again = timing.make(run)
    assert np.array_equal(again["ratio"], found["ratio"])
    assert len(timed) == 2
    monkeypatch.setattr("snp_lib.store.derived.find", lambda *args: found)
    table = pruned_latency([run], thetas=THETAS, device="cpu")
    assert table[table.form == "dense"].ratio.tolist() == found["noise"][:, 0].tolist()
    chosen = table[(table.form == "blocks") & (table.theta == 0.7) & (table.batch == 3)].iloc[0]
    assert chosen[["ratio", "low", "high"]].tolist() == found["ratio"][1, 1, 1].tolist()
