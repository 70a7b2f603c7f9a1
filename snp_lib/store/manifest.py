"""What a finished run holds, its manifest and its arrays, and the one check of each (defined here)."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from snp_lib import experiments
from snp_lib.experiments import Experiment
from snp_lib.models import configuration
from snp_lib.store import answers
from snp_lib.store.disk import OutdatedError, StoreError
from snp_lib.store.schema import RUN, Check

FORMAT = "snp-run-1"

FILES = ("arrays.npz", "weights.safetensors")  # of every run; a record comes without the weights

ARRAYS_LIMIT = 200_000_000  # bytes the arrays of a run or of a measurement may take unpacked


class SkewError(ValueError):
    """Whole, but made by another version of the library or of its experiment; the message says what to do."""


class DefinitionError(SkewError):
    """Made by another definition of its experiment, or by an experiment that the catalogue does not have."""


@contextmanager
def refusing(what: str, advice: str = "") -> Iterator[None]:
    """Turn what is raised while something stored is read into a StoreError that names it; advice goes with damage alone."""
    try:
        yield
    except DefinitionError as error:
        raise OutdatedError(f"{what} {error}") from error
    except SkewError as error:
        raise StoreError(f"{what} {error}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {what}: {error}.{advice}") from error


def snapshot_name(epoch: int) -> str:
    """File of the weights after so many epochs."""
    return f"snapshot-{epoch:03d}.safetensors"


def files_of(described: dict[str, Any]) -> list[str]:
    """The files that the manifest of an experiment, so described, vouches for."""
    return [*FILES, *map(snapshot_name, described.get("snapshots", ()))]


def check_format(stored: object, ours: str) -> None:
    """Compare a format such as ``snp-run-1`` with the one this version reads.

    Raises:
        SkewError: the same kind in a newer or older version; says which.
        ValueError: of another kind.
    """
    if stored == ours:
        return
    kind, _, version = ours.rpartition("-")
    number = re.fullmatch(rf"{kind}-([0-9]{{1,9}})", stored) if isinstance(stored, str) else None
    if number is None:
        raise ValueError(f"has format {stored!r:.60}; this version reads {ours!r}")
    if int(number[1]) > int(version):
        raise SkewError(f"has format {stored!r}, newer than {ours!r}, which this version reads. Update snp_lib here.")
    raise SkewError(f"has format {stored!r}, older than {ours!r}, which this version reads. Make it again with an up-to-date snp_lib.")


def seal(manifest: dict[str, Any]) -> bytes:
    """The bytes of a manifest with its digest, the SHA-256 of everything else in it; raises ValueError for NaN or infinity."""
    content = {field: value for field, value in manifest.items() if field != "digest"}
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    head = {"format": content.pop("format"), "digest": hashlib.sha256(plain.encode()).hexdigest()}
    return json.dumps(head | content, indent=1).encode() + b"\n"


def parse(content: bytes, ours: str, schema: Check) -> dict[str, Any]:
    """A manifest of either kind from its bytes: every field in its range, every byte as :func:`seal` wrote it.

    Args:
        ours: the format that this version reads.

    Raises:
        SkewError: of a newer or older format, or from before digests.
        ValueError: no manifest, or changed since it was written; names the field where one is amiss.
    """
    try:
        manifest = json.loads(content)
        if not isinstance(manifest, dict):
            raise ValueError(f"no manifest: {manifest!r:.60}")
        check_format(manifest.get("format"), ours)
        if "digest" not in manifest:
            raise SkewError("was made before manifests had a digest. `snp upgrade` adds it after a full check.")
        schema(manifest, "")
        if seal(manifest) != content:
            raise ValueError("its digest is not that of its content: it was changed since it was written")
    except RecursionError as error:
        raise ValueError("no manifest: nested too deep") from error
    return manifest


def parse_manifest(content: bytes) -> dict[str, Any]:
    """The manifest of a finished run from its bytes; raises as :func:`parse`, and ValueError where it contradicts itself."""
    manifest = parse(content, FORMAT, RUN)
    described, sites = manifest["experiment"], manifest["sites"]
    complete = {
        "history": [row["epoch"] for row in manifest["history"]] == list(range(1, described["recipe"]["epochs"] + 1)),
        "metrics": manifest["metrics"]["readout_accuracy"].keys() == sites.keys(),
        "num_heads": _heads_fit(manifest["num_heads"], sites),
        "files": sorted(manifest["files"]) == sorted(files_of(described)),
    }
    if wrong := [field for field, holds in complete.items() if not holds]:
        raise ValueError(f"not that of a finished run: incomplete in {', '.join(wrong)}")
    if (digest := experiments.digest(described)) != manifest["hash"]:
        raise ValueError(f"contradicts itself: its hash is {manifest['hash']}, that of its description {digest}")
    return manifest


def upgraded(content: bytes) -> bytes:
    """A manifest from before digests with what it lacks: its digest and, of a run, the configuration of its network.

    Anything else, such as one that has a digest, is returned as it is. Nothing more is checked.
    """
    try:
        manifest = json.loads(content)
        if "digest" in manifest:
            return content
        fields = dict(manifest)
        if manifest["format"] == FORMAT:  # models did not change between the first run and the first digest
            experiment = manifest["experiment"]
            model = model_of(experiment["model"], experiment["model_options"], len(manifest["class_names"]))
            fields = {"format": FORMAT, "experiment": experiment, "model": model} | manifest
        return seal(fields)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError):
        return content  # no manifest; who reads it will say why


def model_of(name: str, options: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """The whole configuration of a network as plain JSON, its defaults resolved; raises as :func:`snp_lib.models.configuration`."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(configuration(name, num_classes=num_classes, **options))))
    return plain


def _heads_fit(heads: int, sites: dict[str, int]) -> bool:
    """Heads divide the nodes of every ``mha`` site; a network without attention has none."""
    return all(heads > 0 and channels % heads == 0 for site, channels in sites.items() if site.endswith(".mha"))


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
    model = model_of(experiment.model, experiment.model_options, len(manifest["class_names"]))
    changed = differences(described, experiment.describe()) or differences(manifest["model"], model, "model")
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
    of_images = () if lean else ("logits", "labels")
    try:
        arrays = read_arrays(source)
        if odd := sorted({*shapes, *of_images} ^ arrays.keys()):
            raise ValueError(f"missing or unexpected: {', '.join(map(repr, odd[:3]))}")
        if of_images:
            shapes["labels"] = arrays["labels"].shape[:1]
            shapes["logits"] = (*shapes["labels"], classes)
        for name, array in arrays.items():
            dtype = np.uint8 if name == "labels" else np.float16
            if array.shape != shapes[name] or array.dtype != dtype or 0 in array.shape:
                raise ValueError(f"{name!r} is {array.dtype}{list(array.shape)}; expected {np.dtype(dtype)}{list(shapes[name])}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name!r} holds numbers that are not finite")
        if of_images:
            answers.check(arrays["logits"], arrays["labels"], manifest["metrics"]["test_accuracy"])
    except ValueError as error:
        raise ValueError(f"arrays.npz does not hold the arrays of this run: {error}") from error
    return arrays


def read_arrays(source: Path | BytesIO) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name; nothing is ever unpickled.

    Raises:
        ValueError: unreadable, a name that stands twice, or too large when unpacked.
    """
    try:
        with zipfile.ZipFile(source) as file:  # looked at before numpy reads, which keeps no count of names and sizes
            members = file.infolist()
        if len({info.filename for info in members}) < len(members):
            raise ValueError("a name stands twice")
        if (size := sum(info.file_size for info in members)) > ARRAYS_LIMIT:
            raise ValueError(f"{size:,} bytes unpacked; it may take {ARRAYS_LIMIT:,}")
        with np.load(source, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # zipfile and numpy meet damage with a dozen kinds of error
        raise ValueError(str(error)) from error


def differences(stored: Any, wanted: Any, path: str = "") -> list[str]:
    """Names of the fields in which two descriptions differ, dotted."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        keys = sorted(stored.keys() | wanted.keys())
        return [d for k in keys for d in differences(stored.get(k), wanted.get(k), f"{path}.{k}" if path else k)]
    return [] if json.dumps(stored) == json.dumps(wanted) else [path]  # 1, 1.0 and true are three values
