"""What a finished run holds, its manifest and its arrays, and the one check of each (defined here)."""

from __future__ import annotations

import json
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from snp_lib import experiments
from snp_lib.experiments import Experiment

FORMAT = "snp-run-1"
FILES = ("arrays.npz", "weights.safetensors")  # of every run; a record comes without the weights
ROUNDED = 2e-3  # of the test accuracy, or three images of a small split: logits in half precision may tie
ARRAYS_LIMIT = 200_000_000  # bytes the arrays of a run may take unpacked


class SkewError(ValueError):
    """Whole, but made by another version of the library or of its experiment; the message says what to do."""


class DefinitionError(SkewError):
    """Made by another definition of its experiment, or by an experiment that the catalogue does not have."""


def snapshot_name(epoch: int) -> str:
    """File of the weights after so many epochs."""
    return f"snapshot-{epoch:03d}.safetensors"


def files_of(described: dict[str, Any]) -> list[str]:
    """The files that the manifest of an experiment, so described, vouches for."""
    return [*FILES, *map(snapshot_name, described.get("snapshots", ()))]


def check_format(found: object, ours: str) -> None:
    """Compare a format such as ``snp-run-1`` with the one this version reads.

    Raises:
        SkewError: the same kind in a newer or older version; says which.
        ValueError: of another kind.
    """
    if found == ours:
        return
    kind, _, version = ours.rpartition("-")
    number = re.fullmatch(rf"{kind}-([0-9]{{1,9}})", found) if isinstance(found, str) else None
    if number is None:
        raise ValueError(f"has format {found!r:.60}; this version reads {ours!r}")
    if int(number[1]) > int(version):
        raise SkewError(f"has format {found!r}, newer than {ours!r}, which this version reads. Update snp_lib here.")
    raise SkewError(f"has format {found!r}, older than {ours!r}, which this version reads. Make it again with an up-to-date snp_lib.")


def parse_manifest(text: bytes) -> dict[str, Any]:
    """The manifest of a finished run from its JSON.

    Raises:
        SkewError: of a newer or older format.
        ValueError: no manifest, of a run that is not finished, or at odds with itself.
    """
    try:
        manifest: dict[str, Any] = json.loads(text)
        check_format(manifest["format"], FORMAT)
        _check_finished(manifest)
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"manifest.json is not that of a finished run: {error!r:.200}") from error
    return manifest


def _check_finished(manifest: dict[str, Any]) -> None:
    described, metrics, sites, names = (manifest[key] for key in ("experiment", "metrics", "sites", "class_names"))
    complete = {
        "experiment": isinstance(described["name"], str) and type(described["seed"]) is int,
        "history": len(manifest["history"]) == described["recipe"]["epochs"],
        "metrics": 0 <= metrics["test_accuracy"] <= 1 and metrics["readout_accuracy"].keys() == sites.keys(),
        "sites": len(sites) > 0 and all(type(channels) is int and channels > 0 for channels in sites.values()),
        "num_heads": _heads_fit(manifest["num_heads"], sites),
        "class_names": len(names) > 0 and all(isinstance(name, str) for name in names),
        "code": isinstance(manifest["code"], str) and isinstance(manifest["data_checksum"], str),
        "files": sorted(manifest["files"]) == sorted(files_of(described))
        and all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in manifest["files"].values()),
    }
    if wrong := [key for key, holds in complete.items() if not holds]:
        raise ValueError(f"manifest.json is not that of a finished run: incomplete in {', '.join(wrong)}")
    if (digest := experiments.digest(described)) != manifest["hash"]:
        raise ValueError(f"manifest.json contradicts itself: its hash is {manifest['hash']!r:.60}, that of its description {digest}")


def _heads_fit(heads: Any, sites: dict[str, int]) -> bool:
    """Heads divide the nodes of every ``mha`` site; a network without attention has none."""
    whole = type(heads) is int and heads >= 0
    return whole and all(heads > 0 and channels % heads == 0 for site, channels in sites.items() if site.endswith(".mha"))


def check_definition(manifest: dict[str, Any], experiment: Experiment | None = None) -> Experiment:
    """The experiment that made a run, if it is still defined as it was then.

    Args:
        manifest: from :func:`parse_manifest`.
        experiment: what the run must be; default: what the catalogue has under its name, scale and seed.

    Raises:
        DefinitionError: unknown to the catalogue, or defined in another way; names the fields that differ.
    """
    described = manifest["experiment"]
    if experiment is None:
        try:
            experiment = experiments.get(described["name"], described["scale"], described["seed"])
        except ValueError as error:
            raise DefinitionError(
                f"is of an experiment that this catalogue does not have: {error}. "
                f"Bring snp_lib here to the version that made it ({manifest['code']!r:.60}), or add the experiment to the catalogue."
            ) from error
    changed = differences(described, experiment.describe())
    if changed or (manifest["hash"], manifest["training_hash"]) != (experiment.hash, experiment.training_hash):
        raise DefinitionError(
            f"was made by another definition of {experiment.id} (differs in {', '.join(changed) or 'its hash'}). "
            f"Bring snp_lib here to the version that made it ({manifest['code']!r:.60}), train it again with refresh=True, "
            "or give the changed experiment a name of its own with .vary(name, …)."
        )
    return experiment


def load_arrays(source: Path | BytesIO, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """All arrays of a run, by name: exactly those that the sites of its manifest promise.

    ``logits`` (image, label) and ``labels`` (image,) of the test split; per site ``weight/``, ``means_train/`` and
    ``means_test/`` (label, channel); of a lean run ``weight/`` and ``means_test/`` alone. Labels are uint8, all else finite
    float16. Nothing is ever unpickled.

    Raises:
        ValueError: unreadable, or another name, shape or type of number than promised.
    """
    classes, lean = len(manifest["class_names"]), manifest["experiment"].get("lean")
    kinds = ("weight", "means_test") if lean else ("weight", "means_train", "means_test")
    shapes: dict[str, tuple[int, ...]] = {f"{kind}/{site}": (classes, n) for site, n in manifest["sites"].items() for kind in kinds}
    answers = () if lean else ("logits", "labels")
    try:
        with zipfile.ZipFile(source) as file:  # looked at before numpy reads, which keeps no count of names and sizes
            stored = [info.filename.removesuffix(".npy") for info in file.infolist()]
            size = sum(info.file_size for info in file.infolist())
        if sorted(stored) != sorted([*shapes, *answers]):
            odd = sorted({*shapes, *answers} ^ set(stored)) or ["a name that stands twice"]
            raise ValueError(f"missing or unexpected: {', '.join(map(repr, odd[:3]))}")
        if size > ARRAYS_LIMIT:
            raise ValueError(f"{size:,} bytes unpacked; a run may take {ARRAYS_LIMIT:,}")
        with np.load(source, allow_pickle=False) as file:
            arrays: dict[str, np.ndarray] = dict(file)
        if answers:
            shapes["labels"] = arrays["labels"].shape[:1]
            shapes["logits"] = (*shapes["labels"], classes)
        for name, array in arrays.items():
            dtype = np.uint8 if name == "labels" else np.float16
            if array.shape != shapes[name] or array.dtype != dtype or 0 in array.shape:
                raise ValueError(f"{name!r} is {array.dtype}{list(array.shape)}; expected {np.dtype(dtype)}{list(shapes[name])}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name!r} holds numbers that are not finite")
        if answers:
            _check_answers(arrays["logits"], arrays["labels"], manifest["metrics"]["test_accuracy"])
    except Exception as error:  # zipfile and numpy meet damage with a dozen kinds of error
        raise ValueError(f"arrays.npz does not hold the arrays of this run: {error}") from error
    return arrays


def _check_answers(logits: np.ndarray, labels: np.ndarray, said: float) -> None:
    classes = logits.shape[1]
    if labels.max() >= classes:
        raise ValueError(f"'labels' holds {labels.max()}; there are {classes} classes")
    found = (logits.argmax(1) == labels).mean()
    if abs(found - said) > max(ROUNDED, 3.5 / len(labels)):
        raise ValueError(f"its logits have a test accuracy of {found:.4f}, its manifest says {said:.4f}")


def differences(stored: Any, wanted: Any, path: str = "") -> list[str]:
    """Names of the fields in which two descriptions differ, dotted."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        keys = sorted(stored.keys() | wanted.keys())
        return [d for k in keys for d in differences(stored.get(k), wanted.get(k), f"{path}.{k}" if path else k)]
    return [] if stored == wanted else [path]
