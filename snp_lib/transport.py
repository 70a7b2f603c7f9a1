"""One file a run, ``ID.snprun``, to carry it to another machine; checked in full at both ends (defined here).

A plain zip of stored members with fixed dates: ``snprun.json`` (the format and the SHA-256 of every other member),
``manifest.json``, ``arrays.npz`` and, on request, ``weights.safetensors``. Reading builds the zip again from the
members found and compares, so that no byte of the file goes unchecked and equal runs are equal files.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any, get_args

from snp_lib import store
from snp_lib.contents import FILES, SkewError, check_definition, check_format, load_arrays, parse_manifest
from snp_lib.disk import locked, write_durably
from snp_lib.experiments import Experiment
from snp_lib.store import Place, Run, StoreError

FORMAT = "snp-transport-1"
SUFFIX = ".snprun"
MARKER = "snprun.json"
LIMITS = {MARKER: 10_000, "manifest.json": 2_000_000, "arrays.npz": 100_000_000, "weights.safetensors": 500_000_000}  # bytes, in order


def pack(run: Run, target_dir: str | Path, *, weights: bool = False) -> Path:
    """Write a finished run of the catalogue as one file, ``target_dir/ID.snprun``; one already there is replaced.

    Equal runs give equal bytes. The file appears whole or not at all.

    Raises:
        StoreError: the run is damaged, not as the catalogue defines it, too large or without the weights asked for, or
            the disk refuses.
    """
    if weights and not (run.path / "weights.safetensors").exists():
        raise StoreError(f"{run.path} has no weights: records come without. Pack it without weights, or train it here with refresh=True.")
    run = store.read(run.path)
    target = Path(target_dir) / f"{run.experiment.id}{SUFFIX}"
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        data = _zip({name: (run.path / name).read_bytes() for name in LIMITS if name in store.RECORD_FILES or (weights and name in FILES)})
        _open(data, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_durably(partial, data)
        if partial.read_bytes() != data:
            raise OSError("the disk gives back other bytes than were written")
        os.replace(partial, target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error}. Make room or choose another folder.") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def verify(path: str | Path) -> dict[str, Any]:
    """Read a transport file, or the folder of a run or record, in full and return its manifest; writes nothing.

    Raises:
        StoreError: damaged in any byte, of another version, or not what the catalogue defines; names the path, what is
            wrong and what to do.
    """
    path = Path(path)
    if not path.is_dir():
        return _read(path)[1]
    run = store.read(path)
    if path.resolve().name != run.experiment.id:
        raise StoreError(f"{path} holds {run.experiment.id}; a run is only found in a folder of its own name. Rename the folder.")
    _ = run.arrays  # reading them checks them
    return run.manifest


def unpack(path: str | Path, *, to: Place = "runs", replace: bool = False) -> Run:
    """Put the run of a transport file among the runs or the records and return it; a record comes without weights.

    Everything is checked before anything is written. Where the same run already stands, nothing is done.

    Args:
        path: a file that :func:`pack` made.
        to: ``runs`` or ``records``.
        replace: put it in the place of another run of the same id.

    Raises:
        StoreError: as :func:`verify`; another run of that id stands there; a record would exceed 8 MB; the disk refuses.
        ValueError: unknown place.
    """
    if to not in get_args(Place):
        raise ValueError(f"a run goes to {' or '.join(get_args(Place))}, got {to!r}")
    path = Path(path)
    experiment, _, members = _read(path)
    if to == "records":
        members = {name: members[name] for name in store.RECORD_FILES}
        store.check_record_size(str(path), members)
    target = store.root(to) / experiment.id
    if not _stands(target, members, path, replace):
        with locked(experiment.id, progress=True):
            if not _stands(target, members, path, replace):  # another process may have made it meanwhile
                store.put(target, members)
    return store.read(target, experiment)


def _stands(target: Path, members: dict[str, bytes], path: Path, replace: bool) -> bool:
    if not target.exists():
        return False
    differing = [name for name, content in members.items() if not (target / name).is_file() or (target / name).read_bytes() != content]
    if differing and not replace:
        raise StoreError(
            f"{path} was not imported: {target} holds another run of this id (differs in {', '.join(differing)}). "
            "Keep the one there, or put this one in its place with replace=True (`snp import --replace`)."
        )
    return not differing


def _read(path: Path) -> tuple[Experiment, dict[str, Any], dict[str, bytes]]:
    try:
        size, most = path.stat().st_size, sum(LIMITS.values())
        if not path.is_file() or size > most:
            raise ValueError(f"no plain file of at most {most:,} bytes")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}. Give the path of a file that `snp record … --to DIR` made.") from error
    return _open(data, path)


def _open(data: bytes, path: Path) -> tuple[Experiment, dict[str, Any], dict[str, bytes]]:
    """Experiment, manifest and members of the bytes of a transport file; ``path`` is how errors name it."""
    try:
        members = _unzip(data)
        manifest = parse_manifest(members["manifest.json"])
        experiment = check_definition(manifest)
        for name in FILES:
            if name in members and _digest(members[name]) != manifest["files"][name]:
                raise ValueError(f"{name} is not the one its manifest vouches for")
        load_arrays(io.BytesIO(members["arrays.npz"]), manifest)
    except SkewError as error:
        raise StoreError(f"{path} {error}") from error
    except ValueError as error:
        raise StoreError(f"{path} is refused: {error}. Copy it again, or pack it anew where it was made.") from error
    return experiment, manifest, members


def _zip(members: dict[str, bytes]) -> bytes:
    marker = {"format": FORMAT, "members": {name: _digest(content) for name, content in members.items()}}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in {MARKER: json.dumps(marker, indent=1).encode() + b"\n", **members}.items():
            info = zipfile.ZipInfo(name)  # its date is 1980-01-01
            info.create_system = 3  # the same bytes whichever system packs
            info.external_attr = 0o100644 << 16  # a plain file
            file.writestr(info, content)
    return stream.getvalue()


def _unzip(data: bytes) -> dict[str, bytes]:
    """All members but the marker; raises SkewError for another version and ValueError for anything else amiss."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            marker = json.loads(_stored(file, MARKER))
            check_format(marker["format"], FORMAT)
            names = [info.filename for info in file.infolist()]
            if names not in (list(LIMITS), list(LIMITS)[:-1]):
                raise ValueError(f"it holds {', '.join(map(repr, names[:5]))}, not {', '.join(LIMITS)}")
            members = {name: _stored(file, name) for name in names[1:]}
            altered = [name for name, content in members.items() if marker["members"][name] != _digest(content)]
    except SkewError:
        raise
    except Exception as error:  # zipfile meets damage with a dozen kinds of error
        raise ValueError(f"damaged, cut off, or no transport file: {error}") from error
    if altered:
        raise ValueError(f"{', '.join(altered)} altered since it was packed (SHA-256)")
    if _zip(members) != data:
        raise ValueError("damaged: it differs from what its members pack to")
    return members


def _stored(file: zipfile.ZipFile, name: str) -> bytes:
    info = file.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > LIMITS[name]:
        raise ValueError(f"{name} is compressed or takes more than {LIMITS[name]:,} bytes")
    return file.read(info)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
