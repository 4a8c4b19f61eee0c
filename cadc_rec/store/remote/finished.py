"""Finished folders and files by address, for who reads them: bundles, tables of new rows.

In: what a person named, a path or an address. Out: a local path. Of a path it is the path itself;
of an address it is a copy in the cache, checked against its manifest.

A *bundle* lies in a store as other parcels do (see `cadc_rec.store.remote.origin`):

    ADDRESS/manifest.json                   written last, under a condition
    ADDRESS/SHA256_OF_THE_FILE/NAME         the files that it names
    ADDRESS/SHA256_OF_THE_MANIFEST/NAME     what vouches for the manifest: its signature

so another bundle takes its place in one step. `cadc_rec.store.remote.sending` writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.store.atomic import write_atomically
from cadc_rec.store.manifest import MANIFEST
from cadc_rec.store.remote.address import Objects, parse
from cadc_rec.store.remote.cache import FILES, alone, cached_folder, hold, keep_bound
from cadc_rec.store.remote.download import all_at_once, downloaded, is_here, remove_abandoned

Place = Path | str
"""A local path, or an address as `parse` gives it."""
COPIES = "bundles"
"""In a folder of the cache: copies of bundles that were at its address, by their manifests."""
SHA256 = re.compile(r"[0-9a-f]{64}")
_TRIES = 3  # of a bundle that is replaced while it is read


def brought(named: str | os.PathLike[str]) -> Path:
    """The folder that a path names, or a checked copy of the bundle at an address.

    The copy stays until this process ends, or says `let_go` of it.

    Raises:
        CadcError: there is no bundle, or not the bytes that its manifest names.
    """
    place = parse(named)
    if isinstance(place, Path):
        return place
    objects = Objects(place)
    for tries_left in reversed(range(_TRIES)):
        there = objects.get(MANIFEST)
        if there is None:
            raise CadcError(
                f"{place}: holds no bundle; correct the address, or write one there with "
                f"cadc-rec export --out {place}."
            )
        try:
            return _brought(objects, there[0])
        except LookupError as missing:  # another bundle may have taken its place just now
            if not tries_left:
                raise CadcError(
                    f"{place}/{missing.args[0]}: is missing from the store; export the bundle anew."
                ) from None
    raise AssertionError("unreachable")


def newest(address: str) -> tuple[str, ...] | None:
    """What distinguishes the bundle at an address from another one; None where there is none.

    Raises:
        CadcError: the store does not answer.
    """
    found = Objects(address).head(MANIFEST)
    return None if found is None else (str(found.written), *map(str, found.version.values()))


def brought_file(named: str | os.PathLike[str]) -> Path:
    """The file that a path names, or a copy of the object at an address.

    Raises:
        CadcError: there is no such object, or it cannot be read.
    """
    place = parse(named)
    if isinstance(place, Path):
        return place
    objects, name, cache = object_at(place)
    target = cache / FILES / name
    hold(cache / FILES)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with downloaded(objects, name, cache / ".tmp") as (draft, _):
            draft.replace(target)
    except LookupError:
        raise CadcError(f"{place}: there is no such object; correct the address.") from None
    return target


def object_at(address: str) -> tuple[Objects, str, Path]:
    """The folder of an object, its name in there, and the folder's cache."""
    above, _, name = address.rpartition("/")
    if above.endswith("/"):
        raise CadcError(f"{address}: is a bucket; name a file in it, {address}/FILE.")
    return Objects(above), name, cached_folder(above)


def _brought(objects: Objects, text: bytes) -> Path:
    """The copy of the bundle with this manifest; LookupError where a file of it is missing."""
    of_manifest = hashlib.sha256(text).hexdigest()
    cache = cached_folder(objects.address)
    folder, drafts = cache / COPIES / of_manifest[:16], cache / ".tmp"
    files = files_of(objects.address, text)
    hold(folder)
    with alone(drafts / f"{COPIES}-{of_manifest[:16]}.bring", share=False):
        beside = {found.name: found.size for found in objects.list(of_manifest)}
        wanted: dict[str, Callable[[Path], bool]] = {
            f"{entry['sha256']}/{name}": _has_bytes(entry) for name, entry in files.items()
        }
        wanted |= {name: _has_size(size) for name, size in beside.items()}
        missing = [name for name, is_whole in wanted.items() if not is_whole(folder / _below(name))]
        names = {_below(name) for name in wanted}
        for stray in folder.rglob("*"):
            if stray.is_file() and name_in(stray, folder) not in names:
                stray.unlink()
        if missing:
            remove_abandoned(drafts)
            log.info("downloading %d files of %s", len(missing), objects.address)

        def bring(name: str) -> None:
            target = folder / _below(name)
            if not target.resolve().is_relative_to(folder.resolve()):
                raise CadcError(f"{objects.address}/{name}: leads out of its folder; rename it.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with downloaded(objects, name, drafts) as (draft, _):
                if not wanted[name](draft):
                    raise CadcError(
                        f"{objects.address}/{name}: does not have the bytes that its manifest "
                        "names; export the bundle anew."
                    )
                draft.replace(target)

        all_at_once(bring, missing)
        write_atomically(folder / MANIFEST, text.decode())
    if missing:
        keep_bound()
    return folder


def _has_bytes(entry: Mapping[str, Any]) -> Callable[[Path], bool]:
    return lambda file: is_here(file, entry["bytes"], entry["sha256"])


def _has_size(size: int) -> Callable[[Path], bool]:
    return lambda file: file.is_file() and file.stat().st_size == size


def files_of(address: str, text: bytes) -> Mapping[str, Mapping[str, Any]]:
    """Size and SHA-256 by name, of a manifest that nobody vouches for yet."""
    try:
        files: Mapping[str, Mapping[str, Any]] = json.loads(text)["files"]
        for name, entry in files.items():
            if not (SHA256.fullmatch(entry["sha256"]) and name and int(entry["bytes"]) >= 0):
                raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CadcError(
            f"{address}/{MANIFEST}: is not the manifest of a bundle; correct the address, or "
            "export the bundle anew."
        ) from None
    return files


def name_in(file: Path, folder: Path) -> str:
    """A file's name below a folder, as manifests and objects have it."""
    return file.relative_to(folder).as_posix()


def _below(name: str) -> str:
    """A file's own name, of its object's."""
    return name.partition("/")[2]
