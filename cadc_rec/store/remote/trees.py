"""Plain files below an address: raw tables, and the records of studies.

In: an address. Out: a local folder with every object below it; what is here in the version that the
store has is not downloaded again. Files of a work folder that no manifest names, such as a study's
records, are sent one by one and brought back by whoever goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.store.atomic import write_atomically
from cadc_rec.store.remote.address import Found, Objects, is_address, parse
from cadc_rec.store.remote.cache import (
    BOUND_VARIABLE,
    FILES,
    address_of,
    bound_bytes,
    cached_folder,
    hold,
    keep_bound,
)
from cadc_rec.store.remote.download import all_at_once, downloaded, remove_abandoned

_VERSIONS = ".versions.json"


def local_tree(named: str | os.PathLike[str]) -> Path:
    """The folder that `named` is, or for an address a copy of what lies there.

    Raises:
        CadcError: the address cannot be read, holds nothing, or more than the cache's bound.
    """
    place = parse(named) if is_address(named) else Path(named)
    if isinstance(place, Path):
        return place
    folder = cached_folder(place) / FILES
    hold(folder)
    objects = Objects(place)
    found = {one.name: one for one in objects.list() if one.size or not one.name.endswith("/")}
    if not found:
        raise CadcError(f"{place}: holds nothing; correct the address.")
    total = sum(one.size for one in found.values())
    if total > bound_bytes():
        raise CadcError(
            f"{place}: holds {total / 2**30:.1f} GiB, more than the cache's bound; raise it with "
            f"${BOUND_VARIABLE}, or name a folder below it."
        )
    for name in found:
        for above in PurePosixPath(name).parents:
            if str(above) in found:
                raise CadcError(
                    f"{place}/{above}: is an object, and a folder of {place}/{name}; rename one."
                )
    known = _versions(folder)
    wanted = [one.name for one in found.values() if not _is_here(folder, one, known)]
    _remove_others(folder, found)
    if wanted:
        drafts = folder.parent / ".tmp"
        remove_abandoned(drafts)
        log.info("downloading %d files of %s", len(wanted), place)
        all_at_once(lambda name: _download(objects, folder, found[name], drafts), wanted)
        now = {name: _version(one) for name, one in found.items()}
        write_atomically(folder / _VERSIONS, json.dumps(now))
        keep_bound()
    return folder


def send_files(workdir: Path, files: Iterable[Path]) -> None:
    """Have small files of a work folder in its store, if it belongs to one.

    Raises:
        CadcError: the store does not take them.
    """
    address = address_of(workdir)
    if address is not None:
        objects = Objects(address)
        for file in files:
            objects.put(file.relative_to(workdir).as_posix(), file.read_bytes())


def bring_files(folder: Path, workdir: Path, renewed: Collection[Path] = ()) -> None:
    """Have the small files of a folder here that the work folder's store has and this disk lacks.

    Args:
        folder: of the work folder.
        workdir: the work folder.
        renewed: files that are taken from the store though they are here.

    Raises:
        CadcError: the store cannot be read.
    """
    address = address_of(workdir)
    if address is None:
        return
    objects = Objects(address)
    for found in objects.list(folder.relative_to(workdir).as_posix()):
        file = workdir / found.name
        lacking = not file.exists() or file in renewed
        if lacking and file.resolve().is_relative_to(folder.resolve()):
            with (
                contextlib.suppress(LookupError),
                downloaded(objects, found.name, workdir / ".tmp") as (draft, _),
            ):
                file.parent.mkdir(parents=True, exist_ok=True)
                draft.replace(file)


def _remove_others(folder: Path, names: Collection[str]) -> None:
    """Remove what the store does not have, or a reader of the folder would take it for data."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in (*names, _VERSIONS):
            path.unlink(missing_ok=True)


def _download(objects: Objects, folder: Path, one: Found, drafts: Path) -> None:
    target = folder / one.name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise CadcError(f"{objects.address}/{one.name}: leads out of its folder; rename it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with downloaded(objects, one.name, drafts) as (draft, _):
            if draft.stat().st_size != one.size:
                raise CadcError(
                    f"{objects.address}/{one.name}: changed while it was read; run again."
                )
            draft.replace(target)
    except LookupError:
        raise CadcError(f"{objects.address}/{one.name}: was removed; run again.") from None


def _is_here(folder: Path, one: Found, known: dict[str, str]) -> bool:
    file = folder / one.name
    return (
        known.get(one.name) == _version(one) and file.is_file() and file.stat().st_size == one.size
    )


def _version(one: Found) -> str:
    return json.dumps([one.size, dict(one.version)], sort_keys=True)


def _versions(folder: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((folder / _VERSIONS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found
