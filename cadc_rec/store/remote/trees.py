"""Plain files below an address, such as raw tables, as a folder of the cache.

In: an address. Out: a local folder with every object below it; what is here in the version that the
store has is not downloaded again.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.store.atomic import write_atomically
from cadc_rec.store.remote.address import Found, Objects, is_address, parse
from cadc_rec.store.remote.cache import BOUND_VARIABLE, bound_bytes, cached_folder

_VERSIONS = ".versions.json"
_FILES_AT_ONCE = 4


def local_tree(named: str | os.PathLike[str]) -> Path:
    """The folder that `named` is, or for an address a copy of what lies there.

    Raises:
        CadcError: the address cannot be read, holds nothing, or more than the cache's bound.
    """
    place = parse(named) if is_address(named) else Path(named)
    if isinstance(place, Path):
        return place
    folder = cached_folder(place) / "files"
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
    known = _versions(folder)
    wanted = [one for one in found.values() if not _is_here(folder, one, known)]
    for name in set(known) - set(found):
        (folder / name).unlink(missing_ok=True)
    if wanted:
        log.info("downloading %d files of %s", len(wanted), place)
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            list(pool.map(lambda one: _download(objects, folder, one), wanted))
        now = {name: _version(one) for name, one in found.items()}
        write_atomically(folder / _VERSIONS, json.dumps(now))
    return folder


def _download(objects: Objects, folder: Path, one: Found) -> None:
    target = folder / one.name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise CadcError(f"{objects.address}/{one.name}: leads out of its folder; rename it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("wb") as file:
            for piece in objects.pieces(one.name):
                file.write(piece)
        if draft.stat().st_size != one.size:
            raise CadcError(f"{objects.address}/{one.name}: changed while it was read; run again.")
        draft.replace(target)
    except FileNotFoundError:
        raise CadcError(f"{objects.address}/{one.name}: was removed; run again.") from None
    except OSError as error:
        if shutil.disk_usage(folder).free < one.size:
            raise CadcError(
                f"{folder}: no space left; free some space, or choose another disk with --cache."
            ) from error
        raise
    finally:
        draft.unlink(missing_ok=True)


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
