"""Finished folders and files by address, for who writes them: bundles, reports, vectors.

In: what a person named, a path or an address. Out: a local path to fill. Of a path it is the path
itself; of an address it is a folder of the cache, which is sent once it is filled: a bundle as
`cadc_rec.store.remote.finished` reads it, what other programs open (a page, a Triton repository)
under its plain names.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from cadc_rec.errors import BusyError, CadcError
from cadc_rec.store.atomic import locked, make_folder
from cadc_rec.store.manifest import MANIFEST
from cadc_rec.store.remote import lease
from cadc_rec.store.remote.address import Found, Objects, parse
from cadc_rec.store.remote.cache import UNSENT, cached_folder, keep_bound
from cadc_rec.store.remote.download import all_at_once
from cadc_rec.store.remote.finished import (
    COPIES,
    SHA256,
    Place,
    files_of,
    name_in,
    object_at,
)
from cadc_rec.store.remote.origin import SWEEP_SECONDS, Origin


def require_apart(places: Mapping[str, str | os.PathLike[str] | None]) -> None:
    """Refuse addresses of which one lies in another one: what is sent to one replaces files there.

    Args:
        places: paths and addresses by what names them, such as ``--out``; None is left out.

    Raises:
        CadcError: says which.
    """
    parsed = {told: parse(named) for told, named in places.items() if named is not None}
    stores = [(told, place) for told, place in parsed.items() if isinstance(place, str)]
    for (told, place), (other, there) in itertools.combinations(stores, 2):
        if f"{place}/".startswith(f"{there}/") or f"{there}/".startswith(f"{place}/"):
            raise CadcError(
                f"{told} {place} and {other} {there}: one lies in the other; give each a folder of "
                "its own."
            )


def require_free(named: str | os.PathLike[str], replace: bool = False) -> None:
    """Refuse a place that holds something, and a store that cannot be used, before any work.

    Args:
        named: a path or an address.
        replace: whether what is there may be replaced.

    Raises:
        CadcError: says which.
    """
    place = parse(named)
    if isinstance(place, Path):
        taken = place.exists()
    else:
        objects = Objects(place)
        Origin(cached_folder(place), objects).require_usable()
        taken = any(True for _ in _contents(objects))
    if taken and not replace:
        raise _taken(place)


@contextlib.contextmanager
def sent(named: str | os.PathLike[str], replace: bool = False) -> Iterator[Path]:
    """Where to write a bundle; one of an address is sent at the end, its manifest last.

    Args:
        named: a path, which is given back, or an address.
        replace: whether a bundle that is there may be replaced.

    Raises:
        CadcError: the store does not take it, which then stays here, or has another one by now.
    """
    with _to_send(named) as (place, folder):
        yield folder
        if isinstance(place, str):
            with _kept(folder):
                of_manifest = _send_alone(place, folder, replace)
            copy = cached_folder(place) / COPIES / of_manifest[:16]
            copy.parent.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):  # a copy that is there already will do
                folder.rename(copy)
            keep_bound()


@contextlib.contextmanager
def sent_plainly(
    named: str | os.PathLike[str], last: str, replace: bool = False, ours: str = ""
) -> Iterator[Path]:
    """Where to write a folder that other programs open; of an address it is sent at the end.

    Args:
        named: a path, which is given back, or an address.
        last: name of the files that make the others known, such as a page; they are sent last.
        replace: whether what is there may be replaced.
        ours: a text near the beginning of `last`, by which what is there may be replaced.

    Raises:
        CadcError: see `sent`; or something else is there.
    """
    with _to_send(named) as (place, folder):
        if isinstance(place, str) and ours:
            replace = _is_ours(Objects(place), last, ours)
        yield folder
        if isinstance(place, str):
            with _kept(folder):
                _send_plainly(Objects(place), folder, last, replace)
            shutil.rmtree(folder)


@contextlib.contextmanager
def sent_file(named: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write a file; one of an address is sent at the end, whole or not at all.

    Raises:
        CadcError: the store does not take it.
    """
    place = parse(named)
    if isinstance(place, Path):
        yield place
        return
    objects, name, cache = object_at(place)
    make_folder(cache / ".tmp", cache)
    draft = cache / ".tmp" / f"{os.getpid()}-{name}"
    try:
        yield draft
        objects.upload(name, draft)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _to_send(named: str | os.PathLike[str]) -> Iterator[tuple[Place, Path]]:
    """The place, and the folder to fill for it, which is not there yet."""
    place = parse(named)
    if isinstance(place, Path):
        yield place, place
        return
    cache = cached_folder(place)
    folder = cache / UNSENT / "folder"
    make_folder(folder.parent, cache)
    make_folder(cache / ".tmp", cache)
    with locked(cache / ".tmp" / "sent.lock") as mine:
        if not mine:
            raise BusyError(f"{place}: another job of this machine is writing it; wait for it.")
        shutil.rmtree(folder, ignore_errors=True)
        yield place, folder


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Inside, an error says where the folder is that could not be sent."""
    try:
        yield
    except CadcError as error:
        raise CadcError(f"{error} What was made is whole in {folder}.") from error


def _contents(objects: Objects) -> Iterator[Found]:
    """What lies there, but for locks, and the empty object that consoles make for a folder."""
    for found in objects.list():
        if found.name and found.name.partition("/")[0] != lease.FOLDER:
            yield found


def _is_ours(objects: Objects, last: str, ours: str) -> bool:
    """Whether something is there, which may be replaced then."""
    there = objects.get(last)
    if there is not None and ours.encode() in there[0][:2000]:
        return True
    if there is not None or any(True for _ in _contents(objects)):
        raise CadcError(
            f"{objects.address} exists and is not a report of a study; choose another folder with "
            "--out."
        )
    return False


def _send_alone(place: str, folder: Path, replace: bool) -> str:
    """`_send`, while no other job writes there: it may sweep what this one took for sent."""
    origin = Origin(cached_folder(place), Objects(place))
    runs_out = lease.LEASE_SECONDS + lease.LOOK_SECONDS  # of a job that was killed
    waited = f"waiting for another job that writes {place}"
    with origin.leased("sent", waited, runs_out) as mine:
        if not mine:
            raise BusyError(f"{place}: another job is writing it; wait for it, then run again.")
        return _send(origin.objects, folder, replace)


def _send(objects: Objects, folder: Path, replace: bool) -> str:
    """Send a bundle; returns the SHA-256 of its manifest."""
    text = (folder / MANIFEST).read_bytes()
    of_manifest = hashlib.sha256(text).hexdigest()
    files = files_of(objects.address, text)
    sums = {name_in(file, folder): of_manifest for file in folder.rglob("*") if file.is_file()}
    del sums[MANIFEST]
    sums |= {name: entry["sha256"] for name, entry in files.items()}
    wanted = {f"{sha256}/{name}": folder / name for name, sha256 in sums.items()}
    there = {found.name: found for found in objects.list()}

    def upload(name: str) -> None:
        if name not in there or there[name].size != wanted[name].stat().st_size:
            objects.upload(name, wanted[name])

    all_at_once(upload, wanted)
    if replace:
        objects.put(MANIFEST, text)
    elif objects.create(MANIFEST, text) is None:
        raise _taken(objects.address)
    # Of killed exports, and of bundles that were replaced; of nothing else that lies there.
    left = [f for f in there.values() if f.name not in wanted and SHA256.match(f.name)]
    if left:
        now = lease.store_time(objects)
        old = [f.name for f in left if (now - f.written).total_seconds() > SWEEP_SECONDS]
        objects.delete(old)
    return of_manifest


def _send_plainly(objects: Objects, folder: Path, last: str, replace: bool) -> None:
    files = {name_in(file, folder): file for file in folder.rglob("*") if file.is_file()}
    before = [found.name for found in _contents(objects)]
    first, then = (
        [name for name, file in files.items() if (file.name == last) is late]
        for late in (False, True)
    )
    all_at_once(lambda name: objects.upload(name, files[name]), first)
    for name in then:
        text = files[name].read_bytes()
        if replace:
            objects.put(name, text)
        elif objects.create(name, text) is None:
            raise _taken(objects.address)
    # Of earlier ones in its place, and of nothing else that lies there: other models, work folders.
    tops = {name.partition("/")[0] for name in files}
    left = [name for name in before if name.partition("/")[0] in tops and name not in files]
    objects.delete(left)


def _taken(place: Place) -> CadcError:
    return CadcError(f"{place} already exists; name another folder, or replace it with --force.")
