"""Data sets by name, images as uint8 and texts as int64 tensors: verified, never half there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snp_lib.data import bags, images, text
from snp_lib.data.dataset import DataError as DataError, Dataset as Dataset, Split as Split, ceiling as ceiling, hygiene as hygiene
from snp_lib.machine import data_dir


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set comes from, and what is known of it without loading it.

    Attributes:
        load: from the data folder, the size and whether to show progress.
        labels: how many there are.
        folder: below the data folder, None if bundled.
        tokens: whether inputs are tokens with a vocabulary.
        superclasses: whether labels have groups.
        baselines: test accuracy of simpler classifiers by name, from the data folder and whether to show progress; None: none are known.
    """

    load: Callable[[Path, int | None, bool], Dataset]
    labels: int
    folder: str | None
    tokens: bool = False
    superclasses: bool = False
    baselines: Callable[[Path, bool], dict[str, float]] | None = None


def _texts(name: str, labels: int, folder: str | None, *, superclasses: bool = False) -> Source:
    return Source(
        load=functools.partial(text.load, name),
        labels=labels,
        folder=folder,
        tokens=True,
        superclasses=superclasses,
        baselines=lambda root, progress: bags.bag_accuracy(text.read(name, root, progress)),
    )


SOURCES: dict[str, Source] = {
    "digits": Source(load=images.digits, labels=10, folder=None),
    "cifar100": Source(load=images.cifar100, labels=100, folder="cifar-100-python"),
    "flowers102": Source(load=images.flowers102, labels=102, folder="flowers-102"),
    "flowers102-trainval": Source(load=images.flowers102_trainval, labels=102, folder="flowers-102"),
    "cldr": _texts("cldr", 100, None, superclasses=True),
    "cldr-10": _texts("cldr-10", 10, None, superclasses=True),
    "banking77": _texts("banking77", 77, "banking77"),
    "clinc150": _texts("clinc150", 150, "clinc150", superclasses=True),
}
"""Every data set by name; one more is one more entry."""


def source(name: str, root: str | Path | None = None) -> Source:
    """Where a data set comes from, one of ``SOURCES`` or a table of one's own, see :func:`snp_lib.data.text.keep_own`.

    Raises:
        ValueError: unknown name.
        DataError: the table cannot be read.
    """
    folder = Path(root).expanduser() if root is not None else data_dir()
    if name.startswith(text.OWN) and text.own_table(name, folder).is_file():
        return _texts(name, len(text.own_texts(text.own_table(name, folder)).class_names), text.OWN_FOLDER)
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}; there are {', '.join(SOURCES)}")
    return SOURCES[name]


def load(name: str, root: str | Path | None = None, *, size: int | None = None, progress: bool = True) -> Dataset:
    """Load a data set by name, downloading it when it is missing.

    Args:
        name: ``digits`` (bundled with scikit-learn, no network), ``cifar100``, ``flowers102``, ``flowers102-trainval``,
            which trains on the official training and validation images together; or texts: ``cldr`` (names in a hundred languages,
            bundled with babel) and ``cldr-10`` (ten of them), ``banking77`` and ``clinc150`` (intents), or a table of one's own
            that is kept, such as ``own-tickets``.
        root: folder of the data sets in torchvision's layout; else ``SNP_DATA_DIR``, else ``data/cache/``. Unused by what is bundled.
        size: side of the square images in pixels. Default 8 (digits), 32 (CIFAR-100), 224 (Flowers-102); texts have none.
        progress: show a progress bar while decoding.

    Returns:
        The data set, with the official split where there is one (Flowers-102 has 1,020 train, 1,020 validation, 6,149
        test); for digits every fourth image is a test image (defined here).

    Raises:
        ValueError: unknown name, or a size that this data set cannot have.
        DataError: no network, a damaged file, a folder that cannot be written; nothing half-written is left.
    """
    found = source(name, root)
    if size is not None and size < 1:
        raise ValueError(f"size must be positive, got {size}")
    return found.load(Path(root).expanduser() if root is not None else data_dir(), size, progress)
