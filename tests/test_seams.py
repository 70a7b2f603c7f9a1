"""What grows most: a network, a data set, a measurement and a pruning rule, each registered from outside the library.

The network reads tokens, not images, so that the whole way from training to tables is seen to ask for nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snp_lib import data, experiments, models, results, run_all
from snp_lib.data.dataset import Split, make_dataset
from snp_lib.experiments import Entry, Experiment
from snp_lib.latency import count_macs
from snp_lib.models.encoder import Encoder, Transformer
from snp_lib.models.sites import Family
from snp_lib.performance import ReadoutRecipe
from snp_lib.pruning.masks import Masks, Sets
from snp_lib.results import families, heads, pruning, sites, stages
from snp_lib.results.setting import Measurement, Setting
from snp_lib.store import Run
from snp_lib.training import Recipe

WORDS, LENGTH, LABELS = 30, 6, 5


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    num_classes: int
    depth: int
    width: int = 16
    num_heads: int = 2


class Words(Transformer):
    """Encoders on embedded words, their mean classified: one file."""

    embedding = ("table.",)

    def __init__(self, cfg: WordsConfig) -> None:
        super().__init__()
        self.config = cfg
        self.table = nn.Embedding(WORDS, cfg.width)
        self.encoders = nn.ModuleList(Encoder(cfg.width, cfg.num_heads, 2 * cfg.width) for _ in range(cfg.depth))
        self.classifier = nn.Linear(cfg.width, cfg.num_classes)

    @property
    def num_tokens(self) -> int:
        return LENGTH

    def embed(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.table(x)
        return embedded

    def classify(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.classifier(tokens.mean(1))
        return logits

    def example(self, batch: int) -> Tensor:
        return torch.randint(WORDS, (batch, LENGTH), generator=torch.Generator().manual_seed(0))


WORDS_FAMILY = Family(pattern=re.compile(r"words_([1-9])"), parts=("depth",), config=WordsConfig, network=Words, hint="words_2 (encoders)")


def sentences(root: Path, size: int | None, progress: bool) -> data.Dataset:
    """Sentences in which words of their label stand more often than others."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % LABELS
    words = torch.randint(WORDS, (300, LENGTH), generator=generator)
    telling = labels[:, None] + LABELS * torch.randint(WORDS // LABELS, (300, LENGTH), generator=generator)
    inputs = torch.where(torch.rand(300, LENGTH, generator=generator) < 0.6, telling, words)
    return make_dataset("sentences", list("abcde"), Split(inputs[:200], labels[:200]), Split(inputs[200:], labels[200:]))


def words(scale: Any, seed: int) -> Experiment:
    recipe = Recipe(epochs=3, batch_size=20, lr=5e-3, weight_decay=0.0, crop_padding=0, flip=False)
    readout = ReadoutRecipe(epochs=3, batch_size=20)
    return Experiment(name="words", scale=scale, seed=seed, dataset="sentences", model="words_2", recipe=recipe, readout=readout)


@dataclass(frozen=True, kw_only=True)
class Loudness(Measurement):
    """Mean absolute feature of every site."""

    what: ClassVar[str] = "loudness"

    def name(self, run: Run) -> str:
        return "loudness"

    def options(self, run: Run) -> dict[str, Any]:
        return {}

    def compute(self, setting: Setting) -> dict[str, np.ndarray]:
        inputs = setting.prepare(setting.dataset.test.inputs.to(setting.torch_device))
        with torch.no_grad():
            features = setting.network(inputs, sites=list(setting.run.sites))[1]
        return {site: feature.abs().mean().cpu().numpy() for site, feature in features.items()}


def every_other(sets: Sets, model: models.Network, method: Masks, seed: int) -> Masks:
    """Keep every other weight of each layer."""
    return {name: (torch.arange(mask.numel()) % 2 == 0).view(mask.shape) for name, mask in method.items()}


@pytest.fixture
def registered(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each."""
    monkeypatch.setattr(models, "FAMILIES", [*models.FAMILIES, WORDS_FAMILY])
    monkeypatch.setitem(data.SOURCES, "sentences", data.Source(load=sentences, labels=LABELS, folder=None))
    monkeypatch.setitem(experiments.CATALOGUE, "words", Entry(build=words, summary="for this test", cost={"smoke": "a second"}))
    monkeypatch.setitem(results.MEASUREMENTS, "loudness", lambda run: [Loudness()])
    monkeypatch.setitem(pruning.RULES, "every other", every_other)


@pytest.mark.usefixtures("registered")
def test_a_network_of_words_goes_the_whole_way() -> None:
    runs = run_all([experiments.get("words", "smoke", 0)], measured=["all"], device="cpu", progress=False)
    assert families.test_accuracy(runs).accuracy.min() > 0.5  # chance is 0.2
    assert sites.site_statistics(runs).snr.min() > 0
    assert set(stages.statistics_at_stages(runs).epoch) == {0, 3}
    lost = heads.explanations(runs, [heads.head_ablation(run) for run in runs])
    assert lost.block.tolist() == [1, 2]
    table = pruning.pruned_accuracy(runs)
    kept = table[table.arm == "every other"]
    assert kept.density.tolist() == pytest.approx([0.5] * len(kept), abs=0.01)
    assert set(table.arm) == {*pruning.RULES, "fresh", "dense"}
    assert set(Loudness().read(runs[0])) == set(runs[0].sites)
    network = runs[0].network()
    hidden = network.before(network.example(3), 2)
    torch.testing.assert_close(network.behind(hidden, 2), network(network.example(3)))
    assert count_macs(network) > 0


@pytest.mark.usefixtures("registered")
def test_a_recipe_for_images_is_refused_for_words() -> None:
    flipped = words("smoke", 0)
    flipped = flipped.vary("words-flipped", recipe=replace(flipped.recipe, flip=True))
    with pytest.raises(ValueError, match="flip is an augmentation of images; for tokens switch it off in the recipe"):
        run_all([flipped], device="cpu", progress=False)
