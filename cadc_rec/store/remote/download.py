"""One object of a store as a local file, which is there whole or not at all.

In: an object, and a folder for drafts on the same disk as the file. Out: a draft with the object's
bytes, which the caller checks and renames. Drafts are outside the folder of the file: who looks in
there meanwhile, or after a job was killed, sees none.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cadc_rec.errors import CadcError
from cadc_rec.store.manifest import sha256_file
from cadc_rec.store.remote.address import Objects

_END = ".download"
_ABANDONED_SECONDS = 24 * 3600.0
_FILES_AT_ONCE = 4


@contextlib.contextmanager
def downloaded(
    objects: Objects, names: str | Sequence[str], drafts: Path
) -> Iterator[tuple[Path, str]]:
    """An object's bytes in a draft, and their SHA-256; it goes at the end unless it was renamed.

    Args:
        objects: that have it.
        names: the object's; or those of several, whose bytes follow each other.
        drafts: the folder for the draft; made if need be.

    Raises:
        LookupError: there is no such object.
        CadcError: the store does not answer, or the disk is full.
    """
    digest = hashlib.sha256()
    with draft_file(drafts) as draft:
        with _space_explained(drafts), draft.open("wb") as file:
            for name in [names] if isinstance(names, str) else names:
                for piece in objects.pieces(name):
                    digest.update(piece)
                    file.write(piece)
        yield draft, digest.hexdigest()


@contextlib.contextmanager
def draft_file(drafts: Path) -> Iterator[Path]:
    """The path of a file of one's own in `drafts`, which is made; it goes at the end if it stands.

    What a killed job leaves there, `remove_abandoned` removes.
    """
    drafts.mkdir(parents=True, exist_ok=True)
    draft = drafts / f"{uuid.uuid4().hex}{_END}"
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def remove_abandoned(drafts: Path) -> None:
    """Remove drafts that killed jobs left a day ago."""
    for draft in drafts.glob(f"*{_END}"):
        with contextlib.suppress(OSError):  # another process was first
            if time.time() - draft.stat().st_mtime > _ABANDONED_SECONDS:
                draft.unlink()


def all_at_once(work: Callable[[str], None], names: Iterable[str]) -> None:
    """Do some of it at the same time; the first error ends it."""
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        for done in [pool.submit(work, name) for name in names]:
            try:
                done.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def is_here(file: Path, size: int, sha256: str) -> bool:
    """Whether a local file has these bytes."""
    try:
        return file.stat().st_size == size and sha256_file(file) == sha256
    except OSError:
        return False


@contextlib.contextmanager
def _space_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CadcError(
            f"{folder}: no space left; free some space, or choose another disk with --cache."
        ) from error
