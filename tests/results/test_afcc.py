"""AFCC hung off a run: its arms at equal density, the three protocols, and that no test image decides anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snp_lib.data import Split
from snp_lib.pruning import finetune, prune
from snp_lib.pruning.masks import Masks
from snp_lib.results import measure
from snp_lib.results.afcc import (
    ARMS,
    WAYS,
    Afcc,
    afcc_accuracy,
    afcc_of,
    diagonal_sets_of,
    first_pruned,
    layer_by_layer,
    masks_of,
    other_ways,
    pruned_layers,
    with_readout,
)
from snp_lib.results.filters import Filters
from snp_lib.results.setting import Setting
from snp_lib.results.tuning import FineTuning
from snp_lib.store import Run
from snp_lib.training.prediction import accuracy, predict

UNTUNED = FineTuning(epochs=0)
FEW = FineTuning(images=100, lr_share=0.2)


@pytest.fixture
def run(vgg_run: Run, filters_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SNP_RUNS_DIR", str(filters_folder))
    return vgg_run


def setting_of(run: Run) -> Setting:
    return Setting(run, "cpu", progress=False)


def counts(masks: Masks) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def test_masks_follow_the_clusters_of_the_training_split(run: Run) -> None:
    setting = setting_of(run)
    masks = masks_of(setting, "afcc", (0.3,), setting.network)["0.3"]
    assert list(masks) == pruned_layers(setting.network)
    kept = Filters().read(run)
    known = {
        site: [set(np.flatnonzero(row > np.float32(0.3))) for row in kept[f"train/shares/{site}"].astype(np.float32)] for site in run.sites
    }
    for b in (8, 9, 10):
        for i, j in ((0, 0), (5, 3), (11, 30)):
            expected = bool(known[f"block{b}"][i] & known[f"block{b - 1}"][j])
            assert (masks[f"blocks.{b - 1}.conv.weight"][i, j] == expected).all()
    for label, j in ((0, 0), (3, 7), (9, 63)):
        places = masks["classifier.weight"].shape[1] // run.sites["block10"]
        assert (masks["classifier.weight"][label, places * j : places * (j + 1)] == (label in known["block10"][j])).all()


@pytest.mark.parametrize("only", [None, 8, 11])
def test_arms_keep_as_many_weights(run: Run, only: int | None) -> None:
    setting = setting_of(run)
    found = {arm: masks_of(setting, arm, (0.4,), setting.network, only=only)["0.4"] for arm in ARMS}
    assert found.pop("dense") == {}
    method = counts(found["afcc"])
    for arm, masks in found.items():
        if arm.endswith("filters"):
            nearest = max(mask[0].numel() for mask in masks.values()) * 4  # about the weights of one filter
            assert abs(sum(counts(masks).values()) - sum(method.values())) <= nearest
        else:
            assert counts(masks) == method, arm
    assert len({tuple(mask.numpy().tobytes() for mask in masks.values()) for masks in found.values()}) == len(found) - 1  # fresh is afcc


def test_no_decision_sees_a_test_label(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets measured and masks made anew with other test labels, those of the Taylor expansion too."""
    arms = [arm for arm in ARMS if arm != "dense"]
    before = {arm: masks_of(setting_of(run), arm, (0.4,), run.network())["0.4"] for arm in arms}
    setting = setting_of(run)
    order = torch.randperm(len(setting.dataset.test), generator=torch.Generator().manual_seed(0))
    setting.__dict__["dataset"] = replace(setting.dataset, test=Split(setting.dataset.test.inputs, setting.dataset.test.labels[order]))
    kept, scrambled = Filters().read(run), Filters().compute(setting)
    assert not np.array_equal(kept["statistics"], scrambled["statistics"])
    monkeypatch.setattr(Filters, "read", lambda self, run: scrambled)
    for arm in arms:
        after = masks_of(setting, arm, (0.4,), run.network())["0.4"]
        assert all(torch.equal(mask, after[name]) for name, mask in before[arm].items()), arm


def test_the_classifier_becomes_the_readout_of_the_last_layer(run: Run) -> None:
    replaced, setting = with_readout(run.network(), run), setting_of(run)
    logits = predict(replaced, setting.dataset.test, setting.prepare)
    assert accuracy(logits, setting.dataset.test.labels) == pytest.approx(Filters().read(run)["readout_accuracy"][-1], abs=0.005)
    found = Afcc(arm="dense", tuning=UNTUNED).make(run, device="cpu", progress=False)
    assert found["before"][0, 0] == accuracy(logits, setting.dataset.test.labels)
    kept = Afcc(arm="dense", tuning=UNTUNED, replaced=False).make(run, device="cpu", progress=False)
    assert kept["before"][0, 0] == run.metrics["test_accuracy"]


def test_it_is_what_pruning_and_fine_tuning_one_network_gives(run: Run) -> None:
    setting = setting_of(run)
    model = with_readout(setting.network, run)
    found = Afcc(arm="shuffled", thetas=(0.3, 0.6), tuning=FEW).make(run, device="cpu", progress=False)
    masks = masks_of(setting, "shuffled", (0.6,), model)["0.6"]
    network, few = prune(model, masks), FEW.dataset(setting.dataset, 0)
    recipe = FEW.recipe(run.experiment.recipe, 0.2)
    assert found["before"][1, 0] == accuracy(predict(network, setting.dataset.test, setting.prepare), setting.dataset.test.labels)
    finetune(model, {"one": network}, {"one": masks}, few, recipe, encoder=8, seed=0, progress=False)
    assert found["after"][1, 0] == accuracy(predict(network, setting.dataset.test, setting.prepare), setting.dataset.test.labels)
    assert found["density"].shape == (2, 4)
    assert found["total"][0] > found["total"][1]


def test_pairs_learn_one_after_the_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[list[str], set[str], int]] = []
    from snp_lib.results import afcc

    def look(model: Any, networks: Any, masks: Any, dataset: Any, recipe: Any, **options: Any) -> Any:
        (network,) = networks.values()
        learning = {name.rsplit(".", 2)[0] for name, p in network.named_parameters() if p.requires_grad}
        steps.append((list(*masks.values()), learning, len(dataset.train)))
        assert (options["encoder"], options["moving"]) == (7, True)
        return finetune(model, networks, masks, dataset, recipe, **options)

    monkeypatch.setattr(afcc, "finetune", look)
    found = Afcc(arm="afcc", protocol="pairs", thetas=(0.3,), tuning=FineTuning(images=400, lr_share=0.2)).make(
        run, device="cpu", progress=False
    )
    names = pruned_layers(run.network())
    assert [step[0] for step in steps] == [names[:1], names[:2], names[:3], names]
    assert [step[1] for step in steps] == [
        {"blocks.6", "blocks.7"}, {"blocks.7", "blocks.8"}, {"blocks.8", "blocks.9"}, {"blocks.9", "classifier"}
    ]  # fmt: skip
    assert [step[2] for step in steps] == [100] * 4
    assert found["after"].shape == (1, 2)


def test_tables_gather_what_was_measured(run: Run) -> None:
    measure([run], *afcc_of(run), device="cpu", progress=False)
    table = afcc_accuracy([run])
    assert set(table.arm) == set(ARMS)
    assert {"density", "before", "after", "after_top5", "compact", "blocks"} <= set(table)
    assert layer_by_layer([run]).layer.unique().tolist() == ["convolution 8", "convolution 9", "convolution 10", "classifier"]
    ways = other_ways([run])
    assert ways.way.nunique() == 1 + len(WAYS) / 2
    assert (ways.groupby("way").arm.nunique() == 2).all()


def test_refusals(run: Run) -> None:
    with pytest.raises(ValueError, match="unknown arm 'andc'; there are afcc, random clusters"):
        Afcc(arm="andc").make(run, device="cpu", progress=False)
    with pytest.raises(ValueError, match="no layer 3 to prune: those pruned are 8 to 11, the classifier last"):
        Afcc(arm="afcc", only=3).make(run, device="cpu", progress=False)
    assert first_pruned(run.network()) == 8
    assert diagonal_sets_of(run, 0.3).keys() == run.sites.keys()
