"""The cache: local folders of what lies in stores, within a bound.

In: an address. Out: a folder for it, and a file in it that says which address it belongs to. What
is in use is held by a shared lock until its process ends; if all folders together hold more than
the bound, what nobody uses and the store has goes, that which was used longest ago first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.store.atomic import make_folder, write_atomically
from cadc_rec.store.manifest import MANIFEST

CACHE_VARIABLE = "CADC_REC_CACHE"
BOUND_VARIABLE = "CADC_REC_CACHE_GIB"
DEFAULT_GIB = 100.0
ORIGIN = ".origin.json"
"""In a folder of the cache: the address that it belongs to."""
UNSENT = ".unsent"
"""In a folder of the cache: what is whole and not in the store yet."""
FILES = "files"
"""In a folder of the cache: copies of plain objects."""
_USED = ".used"
_SENT = "sent"
_held: dict[Path, IO[str]] = {}


def user_cache() -> Path:
    """``$XDG_CACHE_HOME/cadc-rec``, by default ``~/.cache/cadc-rec``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cadc-rec"


def cache_root() -> Path:
    """Where the folders of addresses are: ``$CADC_REC_CACHE``, by default in the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).absolute() if named else user_cache() / "stores"


def cached_folder(address: str) -> Path:
    """The folder of the cache for an address; made, and marked as the address's, if need be.

    Raises:
        CadcError: the cache cannot be used.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    told = {"address": address, **({"endpoint": endpoint} if address.startswith("s3:") else {})}
    text = json.dumps(told, sort_keys=True)
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", address)[:80].strip("-")
    folder = cache_root() / f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not (folder / ORIGIN).exists():
        make_folder(folder, folder)
        write_atomically(folder / ORIGIN, text + "\n")
    return folder


def address_of(folder: Path) -> str | None:
    """The address that a folder of the cache belongs to; None for an ordinary folder."""
    try:
        return str(json.loads((folder / ORIGIN).read_text("utf-8"))["address"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        if not os.access(folder, os.X_OK):  # what comes next says so
            return None
        raise CadcError(f"{folder / ORIGIN}: cannot be read; delete {folder}.") from None


def bound_bytes() -> int:
    """How much the cache may hold.

    Raises:
        CadcError: ``$CADC_REC_CACHE_GIB`` is no number above 0.
    """
    text = os.environ.get(BOUND_VARIABLE) or str(DEFAULT_GIB)
    with contextlib.suppress(ValueError):
        if 0 < (gib := float(text)) < 2**30:
            return int(gib * 2**30)
    raise CadcError(f"${BOUND_VARIABLE} = {text}: give the cache's bound as a number of GiB.")


def hold(artifact: Path) -> None:
    """Keep a folder of the cache from removal until this process ends."""
    lock = _lock_file(artifact)
    if lock not in _held or not lock.exists():  # somebody emptied the cache
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
        fcntl.flock(file.fileno(), fcntl.LOCK_SH)
        _held[lock] = file
    os.utime(lock)


def let_go(artifact: Path) -> None:
    """This process uses a folder of the cache no more; one that it did not hold is left alone."""
    file = _held.pop(_lock_file(artifact), None)
    if file is not None:
        file.close()


def forget(artifact: Path) -> None:
    """A folder of the cache is no more and does not come back: nothing of it is kept."""
    let_go(artifact)
    _lock_file(artifact).unlink(missing_ok=True)


@contextlib.contextmanager
def alone(lock: Path, share: bool) -> Iterator[None]:
    """Wait until no other process, or thread, is inside with this lock file.

    Args:
        lock: the file; it and its folder are made if need be.
        share: let those in that also share.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH if share else fcntl.LOCK_EX)
        yield  # closing the file releases it


def keep_bound() -> None:
    """Remove what is not in use, that of longest ago first, until the bound is kept.

    All that lies in the cache counts. Only what the store has, too, is removed.
    """
    bound, total = bound_bytes(), _size(cache_root())
    for one in sorted(_copies(), key=lambda one: one.used):
        if total <= bound:
            return
        if one.size and remove_unused(one.path):
            total -= one.size
    if total > bound:
        unsent = sum(_size(folder) for folder in cache_root().glob(f"*/{UNSENT}"))
        log.warning(
            "the cache %s holds %.1f GiB that are in use%s, above its bound of %.1f GiB; raise it "
            "with $%s",
            cache_root(),
            total / 2**30,
            f" or not sent yet ({unsent / 2**30:.1f} GiB)" if unsent else "",
            bound / 2**30,
            BOUND_VARIABLE,
        )


@dataclass(frozen=True)
class _Copy:
    path: Path
    size: int
    used: float


def _copies() -> Iterator[_Copy]:
    """Folders of the cache whose files the store has, too."""
    root = cache_root()
    whole = [file.parent for file in root.glob(f"[!.]*/[!.]*/[!.]*/{MANIFEST}")]
    checkpoints = [file.parent for file in root.glob(f"*/*/*/[!.]*/{MANIFEST}")]
    plain = [root / name for name in root.glob(f"*/{FILES}")]
    for folder in (*whole, *filter(_is_sent, checkpoints), *plain):
        with contextlib.suppress(OSError):  # another process removes it
            lock = _lock_file(folder)
            used = (lock if lock.exists() else folder).stat().st_mtime
            yield _Copy(folder, _size(folder), used)


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # another process removes it
                total += os.lstat(os.path.join(above, name)).st_size
    return total


def mark_sent(checkpoint: Path, sent: bool = True) -> None:
    """Have it known whether the store has a checkpoint; then its folder may go for space."""
    lock = _lock_file(checkpoint)
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(_SENT if sent else "", "utf-8")


def _is_sent(checkpoint: Path) -> bool:
    try:
        return _lock_file(checkpoint).read_text("utf-8") == _SENT
    except OSError:
        return False


def remove_unused(artifact: Path) -> bool:
    """Remove a folder unless a process, this one included, uses it; whether that was done."""
    lock = _lock_file(artifact)
    if lock in _held:
        return False
    with contextlib.suppress(OSError):
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(artifact)
            return True
    return False


def _lock_file(artifact: Path) -> Path:
    """The lock of a folder of the cache; also of one that is not there."""
    above = (folder for folder in artifact.parents if (folder / ORIGIN).exists())
    folder = next(above, artifact.parent.parent)
    name = "-".join(artifact.relative_to(folder).parts)
    return folder / _USED / f"{name}.lock"
