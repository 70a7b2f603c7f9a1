"""One file a run, ``ID.snprun``, to carry it to another machine with what was measured of it (defined here).

A plain zip: ``snprun.json`` (the format and the SHA-256 of every other member), ``manifest.json``, ``arrays.npz``, the
measurements of that very run as ``derived/NAME.json`` and ``.npz`` and, on request, ``weights-half.safetensors``. It is
unpacked beside its place, checked there in full as any run is, and then renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import tempfile
import uuid
import zipfile
from pathlib import Path
from typing import get_args

from snp_lib import store
from snp_lib.store import Place, Run, StoreError, derived, runs
from snp_lib.store.disk import flush, locked, replace_file, replace_folder, write_durably
from snp_lib.store.manifest import SkewError, check_definition, check_format, refusing, upgraded
from snp_lib.store.weights import HALF

FORMAT = "snp-transport-2"

OLDER = "snp-transport-1"  # without measurements; a manifest in it may be older than digests: the marker vouches for it

MARKER = "snprun.json"

MEMBER = re.compile(rf"manifest\.json|arrays\.npz|weights(-half)?\.safetensors|derived/{derived.NAME.pattern}\.(json|npz)", re.ASCII)

LIMIT = 500_000_000  # bytes of all members together


def pack(run: Run, target_dir: str | Path, *, weights: bool = False) -> Path:
    """Write a finished run of the catalogue and its measurements as one file, ``target_dir/ID.snprun``.

    One already there is replaced. Equal runs with equal measurements give equal bytes.

    Args:
        weights: network and readouts too, in half precision.

    Raises:
        StoreError: the run is damaged, not as the catalogue defines it or without the weights asked for, or the disk refuses.
    """
    target = Path(target_dir) / f"{run.experiment.id}.snprun"
    with refusing(str(run.path)):
        check_definition(run.manifest)
    members = runs.record_files(run)
    for path in derived.of_run(run):
        derived.check(path)
        members |= {f"derived/{file.name}": file.read_bytes() for file in (path, path.with_suffix(".npz"))}
    try:
        if weights:
            members[HALF] = run.halved_weights()
        target.parent.mkdir(parents=True, exist_ok=True)
        return replace_file(target, _zip(members))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot write {target}: {error}. Make room or choose another folder.") from error


def check(path: str | Path) -> Run:
    """Read a transport file in full and return its run, without a place; nothing is kept.

    Raises:
        StoreError: damaged, of another version, or not what the catalogue defines; says what is wrong and what to do.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _extract(Path(path), Path(folder))


def unpack(path: str | Path, *, to: Place = "runs", replace: bool = False, weights: str | Path | None = None) -> Run:
    """Put the run of a transport file and its measurements among the runs or the records; a record comes without weights.

    Everything is checked before anything is put in place. What already stands is left as it is.

    Args:
        path: a file that :func:`pack` made.
        to: ``runs`` or ``records``.
        replace: put it in the place of another run of the same id, and its measurements in the place of the same ones.
        weights: file of the tensors of network and readouts, ``model.*`` and ``readout.SITE.*`` in half precision, where they
            travelled apart; their readouts must be those of the run, to the last bit.

    Raises:
        StoreError: as :func:`check`; another run of that id stands there, or a measurement with other options; a record
            would exceed 8 MB; the disk refuses.
        ValueError: unknown place.
    """
    if to not in get_args(Place):
        raise ValueError(f"a run goes to {' or '.join(get_args(Place))}, got {to!r}")
    if weights is not None and to == "records":
        raise ValueError("a committed record holds no weights; import them with the run to runs")
    folder = store.root(to) / f".import-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True)
        run = _extract(Path(path), folder)
        if weights is not None:
            write_durably(folder / HALF, run.adopted(Path(weights)))
        if to == "records":
            runs.check_record_size(str(path), runs.record_files(run))
            for file in folder.glob("*.safetensors"):
                file.unlink()
        with locked(run.experiment.id, progress=True):
            return _put(run, Path(path), to, replace)
    except OSError as error:
        raise StoreError(
            f"cannot write to {store.root(to)} ({error}). Make room, or choose a folder you can write to: "
            f"the environment variable SNP_{to.upper()}_DIR."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(run: Run, path: Path, to: Place, replace: bool) -> Run:
    target, stands = store.root(to) / run.experiment.id, False
    with contextlib.suppress(StoreError):
        stands = store.read(target, run.experiment).manifest == run.manifest
    if target.exists() and not stands and not replace:
        raise StoreError(
            f"{path} was not imported: {target} holds another run of this id. "
            "Keep the one there, or put this one in its place with replace=True (`snp import --replace`)."
        )
    derived.carry(run, run.path / "derived", to, replace=replace)
    shutil.rmtree(run.path / "derived")
    if not stands:
        replace_folder(run.path, target)
    for file in run.path.glob("*.safetensors"):  # weights that the run there lacks
        if not (target / file.name).exists():
            file.rename(target / file.name)
            flush(target)
    return Run(run.experiment, target, run.manifest)


def _extract(path: Path, folder: Path) -> Run:
    """Unpack a transport file into an empty folder and check all of it; returns the run that lies there."""
    try:
        if not path.is_file():
            raise ValueError("no plain file")
        (folder / "derived").mkdir()
        for name, content in _members(path).items():
            write_durably(folder / name, upgraded(content) if name == "manifest.json" else content)
        run = store.read(folder)
        run.look_into()
        for file in sorted((folder / "derived").iterdir()):
            if derived.check(file.with_suffix(".json"))["run"] != run.manifest["files"]["arrays.npz"]:
                raise StoreError(f"{folder / 'derived' / file.name} was measured of another run")
    except SkewError as error:
        raise StoreError(f"{path} {error}") from error
    except ValueError as error:
        raise StoreError(f"{path} is refused: {error}. Copy it again, or pack it anew where it was made.") from error
    except OSError as error:
        raise StoreError(f"cannot unpack {path}: {error}. Make room, or give a file that `snp record … --to DIR` made.") from error
    except StoreError as error:
        raise type(error)(str(error).replace(str(folder), str(path))) from error
    return run


def _members(path: Path) -> dict[str, bytes]:
    """All members but the marker; raises SkewError for another version and ValueError for anything else amiss."""
    try:
        with zipfile.ZipFile(path) as file:
            names = [info.filename for info in file.infolist()]
            if odd := [name for name in names if name != MARKER and not MEMBER.fullmatch(name)]:
                raise ValueError(f"{odd[0]!r:.80} has no place in it")
            if (size := sum(info.file_size for info in file.infolist())) > LIMIT:
                raise ValueError(f"{size:,} bytes unpacked; it may take {LIMIT:,}")
            members = {name: file.read(name) for name in names}
        marker = json.loads(members.pop(MARKER))
        if marker["format"] != OLDER:
            check_format(marker["format"], FORMAT)
        if len(names) != len(members) + 1 or marker["members"] != {name: _digest(content) for name, content in members.items()}:
            raise ValueError("its members are not those that were packed (SHA-256)")
    except (SkewError, OSError):
        raise
    except Exception as error:  # zipfile meets damage with a dozen kinds of error
        raise ValueError(f"damaged, cut off, or no transport file: {error}") from error
    return members


def _zip(members: dict[str, bytes]) -> bytes:
    marker = {"format": FORMAT, "members": {name: _digest(content) for name, content in members.items()}}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in {MARKER: json.dumps(marker, indent=1).encode() + b"\n", **members}.items():
            file.writestr(zipfile.ZipInfo(name), content)  # its date is 1980-01-01
    return stream.getvalue()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
