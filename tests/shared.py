"""What tests share: shortened experiments, few data, the one list of skipped tests."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

import jaxtyping
import pytest

from snp_lib import data, experiments
from snp_lib.data import Dataset, Split
from snp_lib.store import Run

SKIPS = {
    "cifar100": "set SNP_TEST_DATA to a folder that holds cifar-100-python (torchvision's layout)",
    "flowers102": "set SNP_TEST_DATA to a folder that holds flowers-102 (torchvision's layout)",
    "banking77": "set SNP_TEST_DATA to a folder that holds banking77 (train.csv and test.csv)",
    "clinc150": "set SNP_TEST_DATA to a folder that holds clinc150 (data_full.json and domains.json)",
    "book": "build the book first (make book): the browser tests open its pages",
    "cuda": "run on a machine with a CUDA device: graphs are recorded and kernels compiled there",
    "triton": "install Triton (pip install snp-lib[kernels]): its interpreter runs the kernels without a GPU",
    "timm": "install timm: its networks are read as ours are",
    "transformers": "install transformers: its networks are read as ours are",
    "ray": "install Ray (pip install snp-lib[fleet]): a cluster of this machine shares a set",
    "browser": "install Chromium: the browser tests need a browser",
}


def skip(name: str) -> NoReturn:
    """Skip the running test for a reason of the list above."""
    pytest.skip(SKIPS[name])


def installed(name: str) -> Any:
    """A package that is no dependency; the test is skipped without it."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else skip(name)


@contextmanager
def unchecked() -> Iterator[None]:
    """Signatures unchecked, as for a reader, so that the library's own check of a wrong value is reached."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def shortened(name: str = "cct-test", seed: int = 0) -> experiments.Experiment:
    """The smoke experiment with two epochs for the network and two for the readouts."""
    smoke = experiments.get("cct", "smoke", seed)
    return smoke.vary(name, snapshots=None, recipe=replace(smoke.recipe, epochs=2, eval_every=1), readout=replace(smoke.readout, epochs=2))


def first_digits() -> Dataset:
    """The first 192 training and 100 test images, at 8 pixels: real, and trained on in a blink."""
    digits = data.load("digits")
    train, test = (Split(s.inputs[:n], s.labels[:n]) for s, n in ((digits.train, 192), (digits.test, 100)))
    return replace(digits, train=train, test=test)


def reached(run: Run, name: str, *accuracies: float) -> list[Run]:
    """The same run under another name, once for each of these test accuracies."""
    manifest = run.manifest
    return [
        replace(
            run,
            experiment=replace(run.experiment, name=name, seed=seed),
            manifest=manifest | {"metrics": manifest["metrics"] | {"test_accuracy": accuracy}},
        )
        for seed, accuracy in enumerate(accuracies)
    ]


def shortened_vgg(seed: int = 0, name: str = "vgg11") -> experiments.Experiment:
    """Two epochs on the digits, for the network and for the readouts."""
    smoke = experiments.get(name, "smoke", seed)
    return replace(smoke, recipe=replace(smoke.recipe, epochs=2, eval_every=2), readout=replace(smoke.readout, epochs=2))
