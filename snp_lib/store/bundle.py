"""Many transport files as few files of limited size, to carry a whole set home (defined here).

A bundle is one plain tar of transport files, cut into parts ``NAME-0123abcd-1of3.snpset``, ``NAME-0123abcd-2of3.snpset`` and so
on, the digits being those of its SHA-256. A part that is missing, too short or changed is noticed before any member is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from snp_lib.store.disk import StoreError, replace_file
from snp_lib.store.manifest import SkewError, check_format

FORMAT = "snp-bundle-1"

MARKER = "snpset.json"  # the first member: the format and the SHA-256 of every other one

SUFFIX = ".snpset"

LIMIT = 16 * 2**20  # bytes of a part

PART = re.compile(rf"(.+-[0-9a-f]{{8}})-([1-9]\d*)of([1-9]\d*)\{SUFFIX}")

MEMBER = re.compile(r"\w[\w.+-]*\.snprun", re.ASCII)


def write(target_dir: Path, name: str, files: Iterable[Path], *, limit: int = LIMIT) -> list[Path]:
    """Write transport files as the parts of a bundle, in the place of the parts it had; equal files give equal parts.

    The parts before go when all new ones stand, so that one of the two is whole at any moment.

    Raises:
        StoreError: the disk refuses; the bundle before is whole.
    """
    members = {file.name: file.read_bytes() for file in sorted(files)}
    marker = {"format": FORMAT, "members": {file: hashlib.sha256(content).hexdigest() for file, content in members.items()}}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file, content in {MARKER: json.dumps(marker).encode(), **members}.items():
            info = tarfile.TarInfo(file)  # its date is 1970-01-01
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    whole = stream.getvalue()
    pieces = [whole[start : start + limit] for start in range(0, len(whole), limit)]
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        older, full = parts_of(target_dir, name), f"{name}-{hashlib.sha256(whole).hexdigest()[:8]}"
        paths = [replace_file(target_dir / f"{full}-{i}of{len(pieces)}{SUFFIX}", piece) for i, piece in enumerate(pieces, start=1)]
        for path in set(older).difference(paths):
            path.unlink()
    except OSError as error:
        raise StoreError(f"cannot write the bundle {target_dir / name}: {error}. Make room or choose another folder.") from error
    return paths


def parts_of(folder: Path, name: str) -> list[Path]:
    """The parts of every bundle of that name in a folder."""
    pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]{{8}}-[1-9]\d*of[1-9]\d*\{SUFFIX}")
    return [path for path in sorted(folder.glob(f"*{SUFFIX}")) if pattern.fullmatch(path.name)]


def bundles(parts: Iterable[Path]) -> list[list[Path]]:
    """Parts sorted by the bundle that they are of, the one written last at the end."""
    groups: dict[str, list[Path]] = {}
    for path in parts:
        found = PART.fullmatch(path.name)
        groups.setdefault(found[1] if found else path.name, []).append(path)
    return sorted(groups.values(), key=lambda group: max((path.stat().st_mtime_ns for path in group if path.exists()), default=0))


def unpack(parts: Sequence[Path], folder: Path) -> list[Path]:
    """Put the transport files of a bundle into a folder and return their paths.

    Args:
        parts: every part of one bundle, in any order.

    Raises:
        StoreError: a part is missing, of another bundle, or damaged; names it.
    """
    named = {path: PART.fullmatch(path.name) for path in parts}
    if odd := [path for path, found in named.items() if found is None]:
        raise StoreError(f"{odd[0]} is no part of a bundle: its name must end in -0123abcd-1of3{SUFFIX} or the like")
    known = {(found[1], int(found[3])) for found in named.values() if found}
    numbers = {int(found[2]): path for path, found in named.items() if found}
    name, total = next(iter(known))
    if len(known) > 1:
        raise StoreError(
            f"these are parts of different bundles: {', '.join(sorted(path.name for path in parts))}. Give those of one at a time."
        )
    if missing := [i for i in range(1, total + 1) if i not in numbers]:
        raise StoreError(f"part {missing[0]} of {total} of the bundle {name} is missing: give {name}-{missing[0]}of{total}{SUFFIX} too")
    try:
        whole = io.BytesIO(b"".join(numbers[i].read_bytes() for i in range(1, total + 1)))
        members = _members(whole, name)
        for file, content in members.items():
            (folder / file).write_bytes(content)
    except SkewError as error:
        raise StoreError(f"the bundle {name} {error}") from error
    except OSError as error:
        raise StoreError(f"cannot unpack the bundle {name}: {error}. Make room, or copy its parts again.") from error
    except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the bundle {name} is damaged: {error}. Copy its parts again.") from error
    return [folder / file for file in members]


def _members(whole: io.BytesIO, name: str) -> dict[str, bytes]:
    """All members but the marker, which vouches for them; raises ValueError and what tarfile raises for damage."""
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=whole, mode="r:") as tar:
        for info in tar:
            member = tar.extractfile(info) if info.isfile() and (info.name == MARKER or MEMBER.fullmatch(info.name)) else None
            if member is None:
                raise StoreError(f"the bundle {name} holds {info.name!r:.80}, which has no place in it")
            members[info.name] = member.read()
    marker = json.loads(members.pop(MARKER))
    check_format(marker["format"], FORMAT)
    if marker["members"] != {file: hashlib.sha256(content).hexdigest() for file, content in members.items()}:
        raise ValueError("its members are not those that were packed (SHA-256)")
    return members
