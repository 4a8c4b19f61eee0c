"""Files that the ranks of several nodes wrote together, each a slice: sent apart, read as one.

In: on each node the slices that its ranks wrote, ``NAME.slice-00001-of-00003``. Out: on every node
that opens the artifact one file ``NAME``. In the store its slices stay objects of their own, which
its entry in the manifest lists; so no node sends another's rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadc_rec.errors import CadcError
from cadc_rec.store.manifest import file_entry
from cadc_rec.store.remote.download import draft_file

if TYPE_CHECKING:
    from cadc_rec.store.remote.origin import Origin

_SLICE = re.compile(r"(?P<file>.+)\.slice-(?P<number>\d{5})-of-(?P<of>\d{5})")
_PIECE = 2**24  # bytes copied at once
Entries = dict[str, dict[str, Any]]


def objects_of(prefix: str, name: str, entry: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The objects that hold a file of a parcel, in order, and the size of each.

    Args:
        prefix: of the parcel.
        name: the file's.
        entry: of the file in the manifest.
    """
    if "slices" not in entry:
        return [(f"{prefix}/{entry['sha256']}/{name}", entry["bytes"])]
    return [
        (f"{prefix}/{each['sha256']}/{each['name']}", each["bytes"]) for each in entry["slices"]
    ]


def join_slices(origin: Origin, draft: Path, prefix: str, sent: Mapping[str, Any]) -> Entries:
    """Make the files of all nodes' slices in rank 0's draft; its own slices are taken away.

    Args:
        origin: of rank 0's node.
        draft: that holds rank 0's slices, and receives the files.
        prefix: of the parcel.
        sent: size and SHA-256 of what the other nodes have sent, by name.

    Returns:
        What stands in the manifest of these files and of what else was sent.

    Raises:
        CadcError: a slice is missing, or the store does not give it.
    """
    own = {
        file.relative_to(draft).as_posix(): file
        for file in draft.rglob("*")
        if _SLICE.fullmatch(file.name)
    }
    every = {**sent, **{name: file_entry(file) for name, file in own.items()}}
    entries: Entries = {}
    files: dict[str, Entries] = {}
    for name in sorted(every):
        found = _SLICE.fullmatch(name)
        if found is None:
            entries[name] = every[name]
        else:
            files.setdefault(found["file"], {})[name] = every[name]
    for name, slices in files.items():
        _require_all(draft / name, slices)
        digest = hashlib.sha256()
        with (draft / name).open("wb") as out:
            for part, entry in slices.items():
                for piece in _pieces(origin, own.get(part), f"{prefix}/{entry['sha256']}/{part}"):
                    digest.update(piece)
                    out.write(piece)
        entries[name] = {
            "bytes": (draft / name).stat().st_size,
            "sha256": digest.hexdigest(),
            "slices": [{"name": part, **entry} for part, entry in slices.items()],
        }
        for part in slices:
            (draft / part).unlink(missing_ok=True)
    return entries


def upload_slices(
    origin: Origin, file: Path, entry: Mapping[str, Any], prefix: str, there: Mapping[str, int]
) -> None:
    """Have every slice of a file in the store; one that is not there is cut out of the file.

    Args:
        origin: the store.
        file: the whole file.
        entry: of the file in the manifest.
        prefix: of the parcel.
        there: sizes of the parcel's objects in the store.
    """
    start = 0
    for name, size in objects_of(prefix, file.name, entry):
        if there.get(name) != size:
            with draft_file(origin.folder / ".tmp") as cut:
                with file.open("rb") as whole, cut.open("wb") as part:
                    whole.seek(start)
                    left = size
                    while left and (piece := whole.read(min(_PIECE, left))):
                        part.write(piece)
                        left -= len(piece)
                origin.objects.upload(name, cut)
        start += size


def _require_all(file: Path, slices: Entries) -> None:
    (count,) = {int(_SLICE.fullmatch(name)["of"]) for name in slices}  # type: ignore[index]
    if len(slices) != count:
        raise CadcError(
            f"{file}: {count - len(slices)} of its {count} slices were written by no rank; run "
            "again."
        )


def _pieces(origin: Origin, own: Path | None, name: str) -> Iterator[bytes]:
    """The bytes of a slice: rank 0's own file's, or the object's of this name."""
    if own is None:
        try:
            yield from origin.objects.pieces(name)
        except LookupError:
            raise CadcError(
                f"{origin.address}/{name}: another node sent it, and the store does not have it; "
                "run again."
            ) from None
        return
    with own.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
