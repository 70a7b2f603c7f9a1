"""Texts with labels: names in a hundred languages (CLDR), BANKING77, CLINC150, and a table of one's own.

A text is whole words and single punctuation marks in lower case, or its characters. The vocabulary is that of the training split,
what occurs there twice or more; everything else is one unknown token. Token 0 is padding.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from snp_lib.data import languages
from snp_lib.data.dataset import DataError, Dataset, Split, make_dataset
from snp_lib.data.files import fetch, provide, verify

SPECIAL = ("", "<unknown>")
"""The first tokens of every vocabulary, padding and unknown."""

WORDS, CHARACTERS = 40, 32
"""Tokens that a text has at most, as words and as characters; a longer one is cut at its end."""

HELD_OUT = 5
"""Of a table without a column ``split`` every fifth text of a label is a test text."""

Labelled = list[tuple[str, str]]
"""Texts with their labels."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """A data set before it is cut into tokens. ``superclasses`` gives the group of each label, where labels have one."""

    train: Labelled
    test: Labelled
    validation: Labelled | None = None
    superclasses: dict[str, str] | None = None
    characters: bool = False  # in place of words
    labels: tuple[str, ...] = ()  # in their order; empty: alphabetical, case ignored

    @property
    def class_names(self) -> list[str]:
        return list(self.labels) or sorted({label for _, label in self.train}, key=lambda label: (label.lower(), label))

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text."""
        return list(text) if self.characters else re.findall(r"\w+|[^\w\s]", text.lower())


def tokenised(name: str, texts: Texts) -> Dataset:
    """The data set of these texts as tokens, as many a text as the longest in the training split has, if not too many.

    Raises:
        DataError: a text without a token.
    """
    counts = Counter(token for text, _ in texts.train for token in texts.tokens(text))
    often = sorted((token for token, count in counts.items() if count > 1), key=lambda token: (-counts[token], token))
    vocabulary = (*SPECIAL, *often)
    number = {token: i for i, token in enumerate(vocabulary)}
    label_number = {label: i for i, label in enumerate(texts.class_names)}
    most = CHARACTERS if texts.characters else WORDS
    length = min(most, max(len(texts.tokens(text)) for text, _ in texts.train))

    def split(labelled: Labelled) -> Split:
        inputs = torch.zeros(len(labelled), length, dtype=torch.int64)
        for row, (text, label) in enumerate(labelled):
            tokens = texts.tokens(text)[:length]
            if not tokens:
                raise DataError(f"{name}: the text {text!r} of label {label!r} has no word in it. Leave it out or correct it.")
            inputs[row, : len(tokens)] = torch.tensor([number.get(token, 1) for token in tokens])
        return Split(inputs, torch.tensor([label_number[label] for _, label in labelled]))

    groups = None if texts.superclasses is None else tuple(texts.superclasses[label] for label in texts.class_names)
    return make_dataset(
        name,
        texts.class_names,
        split(texts.train),
        split(texts.test),
        None if texts.validation is None else split(texts.validation),
        vocabulary=vocabulary,
        superclasses=groups,
    )


def cldr_texts(codes: Sequence[str] | None, root: Path, progress: bool) -> Texts:
    """Names in these languages, None for all hundred; bundled, read by characters. See :mod:`snp_lib.data.languages`."""
    families = languages.families()
    chosen = list(families) if codes is None else sorted(codes)
    titles = {code: languages.title(code) for code in chosen}
    drawn = {code: languages.names(code) for code in chosen}
    train, test = ([(name, titles[code]) for code in chosen for name in drawn[code][part]] for part in (0, 1))
    superclasses = {titles[code]: families[code] for code in chosen}
    return Texts(train=train, test=test, superclasses=superclasses, characters=True, labels=tuple(titles.values()))


BANKING77 = "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/57ec275d8078af65b7731c2a98be812d844a6d6b/banking_data/"
BANKING77_FILES = {
    "train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
    "test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
}
CLINC150 = "https://raw.githubusercontent.com/clinc/oos-eval/828f8093932c8fe6ca7936c3d2e52903b1c523de/data/"
CLINC150_FILES = {
    "data_full.json": "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
    "domains.json": "b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a",
}


def _files(name: str, address: str, files: dict[str, str], root: Path, progress: bool) -> Path:
    """The folder of a data set below the data folder, its files downloaded where they are missing, and verified."""

    def download(partial_root: Path) -> None:
        (partial_root / name).mkdir()
        for file in files:
            fetch(address + file, partial_root / name / file, progress=progress)

    provide(name, root, name, download, layout=f"{', '.join(files)} from {address}")
    verify(name, root, name, {f"{name}/{file}": digest for file, digest in files.items()}, algorithm="sha256")
    return root / name


def banking77_texts(root: Path, progress: bool) -> Texts:
    """BANKING77, 77 intents of bank customers (Casanueva et al., arXiv:2003.04807), CC-BY-4.0, on its official split."""
    folder = _files("banking77", BANKING77, BANKING77_FILES, root, progress)

    def rows(file: str) -> Labelled:
        table = csv.DictReader(io.StringIO((folder / file).read_bytes().decode("utf-8"), newline=""))
        return [(row["text"].strip(), row["category"]) for row in table]

    return Texts(train=rows("train.csv"), test=rows("test.csv"))


def clinc150_texts(root: Path, progress: bool) -> Texts:
    """CLINC150, 150 intents in ten domains (Larson et al., EMNLP 2019, D19-1131), CC-BY-3.0, on its official split.

    Its out-of-scope texts, which have no label, are in none of the splits.
    """
    folder = _files("clinc150", CLINC150, CLINC150_FILES, root, progress)
    content = json.loads((folder / "data_full.json").read_text(encoding="utf-8"))
    domains = json.loads((folder / "domains.json").read_text(encoding="utf-8"))
    train, validation, test = ([(text, label) for text, label in content[part]] for part in ("train", "val", "test"))
    superclasses = {label: domain.replace("_", " ") for domain, labels in domains.items() for label in labels}
    return Texts(train=train, test=test, validation=validation, superclasses=superclasses)


def own_texts(path: Path) -> Texts:
    """A table of one's own with the columns ``text`` and ``label`` and, if wished, ``split`` (train or test), as CSV in UTF-8.

    Without that column every fifth text of a label is a test text, in the order of the table.

    Raises:
        DataError: the table cannot be read, a row lacks something, or a label has no text to train on or to test with; names the
            row.
    """
    try:
        table = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
        rows = list(table)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): give a CSV file with the columns text and label") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 (byte {error.start}): save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path} is no CSV file ({error}): expected the columns text and label") from error
    columns = table.fieldnames or []
    if not {"text", "label"} <= set(columns):
        raise DataError(f"{path} has the columns {', '.join(columns) or 'none'}; expected text and label, and split if wished")
    parts: dict[str, Labelled] = {"train": [], "test": []}
    seen: Counter[str] = Counter()
    for number, row in enumerate(rows, start=2):
        text, label = (row["text"] or "").strip(), (row["label"] or "").strip()
        if lacking := [column for column, full in (("text", re.search(r"\w", text)), ("label", label)) if not full]:
            raise DataError(f"{path}, row {number}: no {lacking[0]}. Fill it in or leave the row out.")
        part = row["split"] if "split" in columns else "test" if seen[label] % HELD_OUT == HELD_OUT - 1 else "train"
        if part not in parts:
            raise DataError(f"{path}, row {number}: split is {part!r}; expected train or test")
        parts[part].append((text, label))
        seen[label] += 1
    for part, labelled in parts.items():
        if missing := sorted(seen.keys() - {label for _, label in labelled}):
            verb = "to test with" if part == "test" else "to train on"
            raise DataError(f"{path}: label {missing[0]!r} has no text {verb}. Give it {HELD_OUT} texts or more, or a column split.")
    if not 2 <= len(seen) <= 256:
        raise DataError(f"{path} has {len(seen)} labels; expected 2 to 256")
    return Texts(train=parts["train"], test=parts["test"])


OWN = "own-"
"""How the name of a data set begins that is a table of one's own; the rest is the name of the table below ``OWN_FOLDER``."""

OWN_FOLDER = "own"


def own_table(name: str, root: Path) -> Path:
    """Where the table of a data set of one's own is kept below the data folder."""
    return root / OWN_FOLDER / f"{name.removeprefix(OWN)}.csv"


def keep_own(path: Path, root: Path) -> str:
    """Copy a table of one's own into the data folder after a full check; returns the name of its data set, such as ``own-tickets``.

    Raises:
        DataError: as :func:`own_texts` and :func:`tokenised`; or another table of that name is kept there already.
    """
    name = OWN + (re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "table")
    tokenised(name, own_texts(path))
    target, content = own_table(name, root), path.read_bytes()
    if target.exists() and target.read_bytes() != content:
        raise DataError(f"another table is kept as {target}: give {path.name} another name, or delete that one and the runs on it")
    partial = target.with_suffix(f".partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise DataError(f"cannot write {target} ({error.strerror}): make room, or choose another folder by SNP_DATA_DIR") from error
    return name


READERS: dict[str, Callable[[Path, bool], Texts]] = {
    "cldr": partial(cldr_texts, None),
    "cldr-10": partial(cldr_texts, languages.FEW),
    "banking77": banking77_texts,
    "clinc150": clinc150_texts,
}
"""The named data sets of texts, from the data folder and whether to show progress."""


def load(name: str, root: Path, size: int | None, progress: bool) -> Dataset:
    """A data set of texts as tokens; raises ValueError for a size, which texts have not."""
    if size is not None:
        raise ValueError(f"{name} holds texts, which have no size")
    return tokenised(name, read(name, root, progress))


def read(name: str, root: Path, progress: bool) -> Texts:
    """The texts of a data set, one of ``READERS`` or a table of one's own."""
    return own_texts(own_table(name, root)) if name.startswith(OWN) else READERS[name](root, progress)
