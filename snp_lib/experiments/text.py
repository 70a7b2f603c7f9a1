"""The experiments on texts: a small transformer that reads words or characters, its nodes and heads (defined here).

Nobody measured single nodes or heads of a text classifier before; papers A and B end by asking for it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from snp_lib import data
from snp_lib.data import text
from snp_lib.experiments.experiment import Entry, Experiment, Scale
from snp_lib.machine import data_dir
from snp_lib.performance.readout import ReadoutRecipe
from snp_lib.training.recipe import TEXT_16

PREFIX = "text-"
"""How the name of an experiment on texts begins; the rest is that of its data set."""

HEADS = ReadoutRecipe(epochs=3, batch_size=64, kinds=("mha",))


def clinc150(scale: Scale, seed: int) -> Experiment:
    """150 intents in ten domains from 15,000 short questions (Larson et al. 2019), read as whole words.

    - small: four encoders of width 128 with four heads, :data:`snp_lib.training.recipe.TEXT_16`, four minutes of one core; the nodes
      and heads of its attention are read. A linear SVM on the authors' bag of words has 91.0 %.
    - smoke: as ``cldr``.

    Command: ``snp train text-clinc150 --scale small --seeds 0,1,2,3,4,5,6,7,8,9``.
    """
    return (
        _small("text-clinc150", "clinc150", seed, vocabulary=2819, length=30) if scale == "small" else _smoke("text-clinc150", scale, seed)
    )


def clinc150_shallow(scale: Scale, seed: int) -> Experiment:
    """The same with a single encoder: does reading words need depth?

    Command: ``snp train text-clinc150-shallow --scale small --seeds 0,1,2``.
    """
    return clinc150(scale, seed).vary("text-clinc150-shallow", model="text_1")


def banking77(scale: Scale, seed: int) -> Experiment:
    """77 intents of bank customers from 10,003 questions (Casanueva et al. 2020), the network and recipe of CLINC150.

    Command: ``snp train text-banking77 --scale small --seeds 0,1,2``.
    """
    name = "text-banking77"
    return _small(name, "banking77", seed, vocabulary=1498, length=40) if scale == "small" else _smoke(name, scale, seed)


def cldr(scale: Scale, seed: int) -> Experiment:
    """Which of a hundred languages is this name? 500 names of each, read character by character, no download.

    - small: the network of CLINC150, 6 epochs of 50,000 names in batches of 128.
    - smoke: ten languages, two encoders of width 32, seconds.

    Command: ``snp train text-cldr --scale small --seeds 0``.
    """
    if scale != "small":
        return _smoke("text-cldr", scale, seed)
    base = _small("text-cldr", "cldr", seed, vocabulary=2168, length=32)
    return replace(
        base, recipe=replace(base.recipe, epochs=6, eval_every=3, batch_size=128), readout=replace(base.readout, epochs=2, batch_size=128)
    )


def _small(name: str, dataset: str, seed: int, **options: Any) -> Experiment:
    return Experiment(
        name=name,
        scale="small",
        seed=seed,
        dataset=dataset,
        model="text_4",
        model_options=options,
        recipe=TEXT_16,
        readout=HEADS,
        lean=True,
    )


def _smoke(name: str, scale: Scale, seed: int) -> Experiment:
    recipe = replace(TEXT_16, epochs=3, batch_size=128, lr=4e-3, eval_every=3)
    return Experiment(
        name=name,
        scale=scale,
        seed=seed,
        dataset="cldr-10",
        model="text_2",
        model_options={"vocabulary": 122, "length": 32, "embed_dim": 32},
        recipe=recipe,
        readout=replace(HEADS, epochs=2, batch_size=128),
        lean=True,
    )


def keep_own(path: Path) -> str:
    """Keep a table of one's own in the data folder; returns the name of its experiment, such as ``text-own-tickets``.

    Raises:
        DataError: as :func:`snp_lib.data.text.keep_own`.
    """
    return PREFIX + text.keep_own(path, data_dir())


def own(name: str, scale: Scale, seed: int) -> Experiment | None:
    """The experiment on a table of one's own that is kept in the data folder, such as ``text-own-tickets``; None for another name.

    The network and recipe of CLINC150 at small and of the ten languages at smoke, batches of fewer texts where there are few; all
    sites are read.

    Raises:
        DataError: the table is there and cannot be read.
    """
    dataset_name = name.removeprefix(PREFIX)
    if not dataset_name.startswith(text.OWN) or name == dataset_name or not text.own_table(dataset_name, data_dir()).is_file():
        return None
    dataset = data.load(dataset_name, progress=False)
    assert dataset.vocabulary is not None
    shape = {"vocabulary": len(dataset.vocabulary), "length": dataset.train.inputs.shape[1]}
    base = _small(name, dataset_name, seed) if scale == "small" else _smoke(name, scale, seed)
    batch = min(base.recipe.batch_size, len(dataset.train))
    return replace(
        base,
        dataset=dataset_name,
        model_options=base.model_options | shape,
        recipe=replace(base.recipe, batch_size=batch),
        readout=replace(base.readout, batch_size=batch, kinds=None),
        lean=None,
    )


SCALES: tuple[Scale, ...] = ("smoke", "small")
"""The scales of a table of one's own."""

COST: dict[Scale, str] = {"smoke": "seconds", "small": "five minutes of one core a seed with its readouts"}
ENTRIES: dict[str, Entry] = {
    "text-cldr": Entry(build=cldr, summary="transformer on characters: which of a hundred languages is a name", cost=COST),
    "text-clinc150": Entry(build=clinc150, summary="transformer on words: 150 intents in ten domains", cost=COST),
    "text-clinc150-shallow": Entry(
        build=clinc150_shallow, summary="the same with a single encoder", cost=dict.fromkeys(COST, "a third of that")
    ),
    "text-banking77": Entry(build=banking77, summary="transformer on words: 77 intents of bank customers", cost=COST),
}
"""The entries of these experiments in the catalogue."""
