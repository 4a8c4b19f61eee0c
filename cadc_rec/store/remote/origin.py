"""A work folder whose truth is in a store: what is there, brought here; what is made here, sent.

In: a folder of the cache. Out: an `Origin`, which artifacts and checkpoints ask before they trust
the local disk. A folder of files with a manifest is called a *parcel* here. In the store it is

    PREFIX/manifest.json                    written last, under a condition: with it, it is there
    PREFIX/SHA256_OF_THE_FILE/NAME          the files; equal bytes have one name

so two writers cannot harm each other, and what was uploaded before a crash is not uploaded again.
Files that no manifest names are swept when they are a day old.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.store.atomic import commit, make_folder, write_atomically
from cadc_rec.store.manifest import MANIFEST, hashing, sealed_text
from cadc_rec.store.pruned import MARK, PRUNED, mark_of
from cadc_rec.store.remote import lease
from cadc_rec.store.remote.address import Found, Objects, parse
from cadc_rec.store.remote.cache import (
    UNSENT,
    address_of,
    alone,
    cached_folder,
    hold,
    keep_bound,
    mark_sent,
    remove_unused,
)
from cadc_rec.store.remote.download import all_at_once, downloaded, is_here, remove_abandoned
from cadc_rec.store.remote.slices import objects_of, upload_slices

SWEEP_SECONDS = 24 * 3600.0
_origins: dict[Path, Origin] = {}


def work_folder(named: str | os.PathLike[str]) -> Path:
    """The local folder of a work folder that a person named by path or by address.

    Raises:
        CadcError: the address cannot be used.
    """
    place = parse(named)
    return place if isinstance(place, Path) else cached_folder(place)


def checkpoint_folder(named: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint that a person named by path or by address.

    Of an address it is that of the cache; its files are brought when it is opened.

    Raises:
        CadcError: the address is too short for a checkpoint's.
    """
    place = parse(named)
    if isinstance(place, Path):
        return place
    work, *below = place.rsplit("/", 3)  # checkpoints/TRAINING/CHECKPOINT
    if "://" not in work or work.endswith("/"):
        raise CadcError(
            f"{place}: is no checkpoint's address, which is "
            "s3://BUCKET/FOLDER/checkpoints/TRAINING/CHECKPOINT; correct it."
        )
    return cached_folder(work).joinpath(*below)


def place_on_node() -> tuple[int, int]:
    """This process's number among the ranks of its node, and how many these are."""
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def origin_of(folder: Path) -> Origin | None:
    """The store that a work folder belongs to; None for an ordinary one."""
    if folder in _origins and address_of(folder) == _origins[folder].address:
        return _origins[folder]
    address = address_of(folder)
    if address is None:
        return None
    return _origins.setdefault(folder, Origin(folder, Objects(address)))


class Origin:
    """The store behind a folder of the cache.

    Args:
        folder: of the cache.
        objects: of its address.
    """

    def __init__(self, folder: Path, objects: Objects) -> None:
        self.folder, self.objects, self.address = folder, objects, objects.address
        self._drafts = folder / ".tmp"

    def require_usable(self) -> None:
        """Write, read, list and remove something there, before there is work to lose.

        Raises:
            CadcError: one of it cannot be done.
        """
        lease.store_time(self.objects)
        for _ in self.objects.list(lease.FOLDER):
            break

    @contextlib.contextmanager
    def leased(self, name: str, waited: str = "", seconds: float = math.inf) -> Iterator[bool]:
        """Hold the lock of this name in the store; False when another process does."""
        with lease.leased(self.objects, name, waited, seconds) as held:
            yield held is not None

    def has(self, prefix: str) -> bool:
        """Whether `find` would find this parcel; nothing is brought or sent."""
        unsent = self.folder / UNSENT / prefix / MANIFEST
        return self.objects.head(f"{prefix}/{MANIFEST}") is not None or unsent.exists()

    def find(self, prefix: str) -> bool:
        """Whether the store has this parcel; then its manifest is here as well.

        What was made here and not sent, because the store did not answer, is sent now.
        """
        with self._alone(prefix):
            return self._find(prefix)

    def _find(self, prefix: str) -> bool:
        there = self.objects.get(f"{prefix}/{MANIFEST}")
        if there is not None:
            self._adopt(prefix, *there)
            return True
        if (self.folder / UNSENT / prefix / MANIFEST).exists():
            log.info("sending what an earlier command could not: %s/%s", self.address, prefix)
            self._send(prefix)
            return True
        if (self.folder / prefix).exists():  # it was removed from the store
            remove_unused(self.folder / prefix)
        return False

    def known(self, prefix: str, prune: bool = True) -> list[Path]:
        """The local folders of all parcels below a prefix; each has its manifest.

        Args:
            prefix: such as a stage's name.
            prune: remove those here that the store does not have.
        """
        found = {}
        for one in self.objects.list(prefix):
            parent, _, name = one.name.rpartition("/")
            if name == MANIFEST and parent.rpartition("/")[0] == prefix:
                found[parent] = one
        for parent, one in found.items():
            file = self.folder / parent / MANIFEST
            if _seen(file) != (int(one.written.timestamp()), one.size):
                with self._alone(parent):
                    there = self.objects.get(one.name)
                    if there is not None:
                        self._adopt(parent, *there)
        for folder in (self.folder / prefix).glob("*"):
            gone = f"{prefix}/{folder.name}" not in found
            if prune and gone and (folder / MANIFEST).exists():
                remove_unused(folder)  # a job here may have made it since the store was listed
        return sorted(self.folder / parent for parent in found)

    def require(self, folder: Path) -> None:
        """Have the manifest of a parcel here.

        Raises:
            CadcError: there is no such parcel.
        """
        hold(folder)
        prefix = self._prefix(folder)
        if not (folder / MANIFEST).exists() and not self.find(prefix):
            raise CadcError(
                f"{self.address}/{prefix}: has no {MANIFEST}; correct it, or make it again."
            )

    def fetch(
        self, folder: Path, files: Mapping[str, Mapping[str, Any]], share: bool = False
    ) -> None:
        """Have every file of a parcel here, with the bytes that its manifest names.

        Args:
            folder: of the parcel.
            files: size and SHA-256 by name.
            share: other processes of this machine bring other files of it at the same time.

        Raises:
            CadcError: the store does not have it, or has other bytes.
        """
        prefix = self._prefix(folder)

        def has_bytes(name: str) -> bool:
            return is_here(folder / name, files[name]["bytes"], files[name]["sha256"])

        with self._alone(prefix, share):
            with hashing() as pool:
                is_there = dict(zip(files, pool.map(has_bytes, files), strict=True))
            wanted = {name: files[name] for name in files if not is_there[name]}
            if wanted:
                remove_abandoned(self._drafts)
                log.info("downloading %d files of %s/%s", len(wanted), self.address, prefix)
                all_at_once(lambda name: self._download(folder, prefix, name, wanted[name]), wanted)
        if wanted:
            keep_bound()

    def commit(self, draft: Path, prefix: str, replace: bool) -> bool:
        """Make a whole draft a parcel of the store and of this folder.

        Args:
            draft: the folder.
            prefix: of the parcel.
            replace: whether it takes the place of one that is there.

        Returns:
            Whether it did; else another writer was first, and this folder has what that one made.

        Raises:
            CadcError: the store does not take it; it stays here, and is sent by the next command.
        """
        unsent = self.folder / UNSENT / prefix
        with self._alone(prefix):
            make_folder(unsent.parent, self.folder)
            shutil.rmtree(unsent, ignore_errors=True)
            commit(draft, unsent)
            return self._send(prefix, replace)

    def _send(self, prefix: str, replace: bool = False) -> bool:
        """Make a parcel of `UNSENT` the store's and this folder's; see `commit`."""
        unsent, final = self.folder / UNSENT / prefix, self.folder / prefix
        try:
            files = _read(unsent / MANIFEST)["files"]
            here = {name: files[name] for name in files if (unsent / name).exists()}
            self.upload(unsent, prefix, here)  # other nodes have sent theirs
            won = self.seal(unsent, prefix, replace)
        except CadcError as error:
            raise CadcError(
                f"{error} What was made is whole in {unsent}, and the next command that needs it "
                "sends it."
            ) from error
        hold(final)
        shutil.rmtree(final, ignore_errors=True)
        if won:
            final.parent.mkdir(parents=True, exist_ok=True)
            unsent.rename(final)
            keep_bound()
        else:
            shutil.rmtree(unsent, ignore_errors=True)
            self._find(prefix)
        return won

    def upload(self, folder: Path, prefix: str, files: Mapping[str, Mapping[str, Any]]) -> None:
        """Have files of a folder in the store.

        Args:
            folder: that holds them.
            prefix: of the parcel.
            files: size and SHA-256 by name.
        """
        there = {found.name: found.size for found in self.objects.list(prefix)}

        def upload(name: str) -> None:
            if "slices" in files[name]:
                upload_slices(self, folder / name, files[name], prefix, there)
                return
            ((wanted, size),) = objects_of(prefix, name, files[name])
            if there.get(wanted) != size:
                self.objects.upload(wanted, folder / name)

        all_at_once(upload, files)

    def seal(self, folder: Path, prefix: str, replace: bool = False) -> bool:
        """Write the manifest of a folder whose files are in the store; False if there is one."""
        text, name = (folder / MANIFEST).read_bytes(), f"{prefix}/{MANIFEST}"
        if replace:
            self.objects.put(name, text)
            return True
        return self.objects.create(name, text) is not None

    def remove(self, prefix: str) -> None:
        """Remove a parcel; a reader that comes in between finds it whole, or not at all."""
        self.objects.delete([f"{prefix}/{MANIFEST}"])
        self.objects.delete([found.name for found in self.objects.list(prefix)])

    def prune(self, prefix: str, why: str) -> None:
        """Remove a parcel's files but for its manifest, here and in the store.

        The manifest says so first. Another machine removes its copy when it next looks at it.

        Args:
            prefix: of the parcel.
            why: a sentence for who asks for it.
        """
        name = f"{prefix}/{MANIFEST}"
        with self._alone(prefix):
            there = self.objects.get(name)
            if there is None:
                return
            body = json.loads(there[0])
            if PRUNED not in body:
                del body["digest"]
                self.objects.put(name, sealed_text({**body, PRUNED: mark_of(why)}).encode())
                there = self.objects.get(name)
                assert there is not None
            self._adopt(prefix, *there)
            every = [found.name for found in self.objects.list(prefix)]
            self.objects.delete([one for one in every if one != name])

    def unsent(self, stage: str) -> list[Path]:
        """The folders of what was made here of a stage, and that the store has not taken yet."""
        return sorted(file.parent for file in (self.folder / UNSENT / stage).glob(f"*/{MANIFEST}"))

    def drop_unsent(self, folder: Path) -> None:
        """Remove what the store has not taken; it is not sent any more."""
        with self._alone(f"{folder.parent.name}/{folder.name}"):
            shutil.rmtree(folder, ignore_errors=True)

    def has_files(self, prefix: str) -> bool:
        """Whether the store has anything of a parcel but its manifest, named there or not."""
        return any(found.name != f"{prefix}/{MANIFEST}" for found in self.objects.list(prefix))

    def sweep(self, prefix: str) -> None:
        """Remove old files below a prefix that no manifest names: of killed or replaced parcels."""
        parcels: dict[str, list[Found]] = {}
        depth = prefix.count("/") + 2
        for found in self.objects.list(prefix):
            parcels.setdefault("/".join(found.name.split("/")[:depth]), []).append(found)
        now = None
        for parcel, all_of_it in parcels.items():
            named = {f"{parcel}/{MANIFEST}"}
            if any(found.name in named for found in all_of_it):
                there = self.objects.get(f"{parcel}/{MANIFEST}")
                if there is None:
                    continue
                try:
                    manifest = json.loads(there[0])
                    files = {} if PRUNED in manifest else manifest["files"]
                    every = (objects_of(parcel, name, files[name]) for name in files)
                    named |= {name for objects in every for name, _ in objects}
                except (ValueError, KeyError, TypeError):  # it does not say what belongs to it
                    continue
            left = [found for found in all_of_it if found.name not in named]
            if not left:
                continue
            now = now or lease.store_time(self.objects)
            old = [f.name for f in left if (now - f.written).total_seconds() > SWEEP_SECONDS]
            if old and not lease.is_held(self.objects, parcel.replace("/", "-"), now):
                self.objects.delete(old)

    def _prefix(self, folder: Path) -> str:
        return folder.relative_to(self.folder).as_posix()

    def _alone(self, prefix: str, share: bool = False) -> contextlib.AbstractContextManager[None]:
        """Inside, no other process of this machine changes a parcel's local folder."""
        return alone(self._drafts / f"{prefix.replace('/', '-')}.bring", share)

    def _adopt(self, prefix: str, manifest: bytes, found: Found) -> None:
        """Have this manifest here, and no files of another one."""
        folder = self.folder / prefix
        file = folder / MANIFEST
        if not (file.exists() and file.read_bytes() == manifest):
            shutil.rmtree(folder, ignore_errors=True)
            draft = self._drafts / f"{prefix.replace('/', '-')}.{MANIFEST}"
            write_atomically(draft, manifest.decode())
            folder.mkdir(parents=True, exist_ok=True)
            if (why := _pruned(manifest)) is not None:
                (folder / MARK).write_text(f"{why}\n", "utf-8")
            draft.replace(file)
        mark_sent(folder)
        written = found.written.timestamp()
        os.utime(file, (written, written))

    def _download(self, folder: Path, prefix: str, name: str, entry: Mapping[str, Any]) -> None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        objects = [name for name, _ in objects_of(prefix, name, entry)]
        where = objects[0]
        remedy = f"delete {self.address}/{prefix}/{MANIFEST} and run again."
        try:
            with downloaded(self.objects, objects, self._drafts) as (draft, sha256):
                if sha256 != entry["sha256"]:
                    raise CadcError(
                        f"{self.address}/{where}: does not have the bytes that its manifest names; "
                        + remedy
                    )
                draft.replace(target)
        except LookupError as missing:
            raise CadcError(
                f"{self.address}/{missing.args[0]}: is missing from the store; {remedy}"
            ) from None


def _pruned(manifest: bytes) -> str | None:
    """What a manifest says of the removal of its parcel's files; None where these are there."""
    try:
        why = json.loads(manifest).get(PRUNED)
    except (ValueError, AttributeError):  # which is told when it is read
        return None
    return None if why is None else str(why)


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def _seen(file: Path) -> tuple[int, int] | None:
    """When the store wrote a manifest that is here, and its size; None where it is not.

    Stores tell whole seconds, and a parcel may be pruned in the one in which it was sent.
    """
    try:
        found = file.stat()
    except OSError:
        return None
    return int(found.st_mtime), found.st_size
