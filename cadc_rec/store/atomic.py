"""A folder that is complete or absent: filled beside its final name, under a lock, then renamed.

In: a work folder and a name. Out: an empty folder that no other job fills, and the one step that
makes it an artifact. The next job removes what a killed job left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cadc_rec.errors import BusyError, CadcError
from cadc_rec.log import log
from cadc_rec.store.remote.address import is_address, parse

if TYPE_CHECKING:
    from cadc_rec.store.remote.origin import Origin

_TEMPORARY = ".tmp"
_REPLACED = ".old"
_LOOK_SECONDS = 1.0
_ABANDONED_SECONDS = 24 * 3600.0
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def empty_folder(
    workdir: Path,
    stage: str,
    key: str,
    *,
    wait: bool | float = False,
    origin: Origin | None = None,
) -> Iterator[Path]:
    """A locked, empty folder to fill; gone on the way out unless it was committed.

    Args:
        workdir: the work folder.
        stage: what is made there.
        key: names the folder.
        wait: until another job that fills the same folder has ended, or for so many seconds; a
            line says so.
        origin: the store that the work folder belongs to; it is locked there as well.

    Raises:
        CadcError: the work folder cannot be used, another job fills the same folder, or the disk
            is full.
    """
    make_folder(workdir / stage, workdir)
    busy = f"another job is making the same {stage} artifact there; wait for it, or"
    waited = f"waiting for another job that is making {workdir / stage / key}" if wait else ""
    seconds = math.inf if wait is True else float(wait)
    with _filled(workdir, f"{stage}-{key}", busy, waited, seconds) as folder:
        if origin is None:
            yield folder
            return
        with origin.leased(f"{stage}-{key}", waited, seconds) as mine:
            if not mine:
                raise BusyError(
                    f"{origin.address}: {busy} give this one a work folder of its own with "
                    "--workdir."
                )
            origin.sweep(stage)
            yield folder


@contextlib.contextmanager
def scratch_folder(workdir: Path, name: str) -> Iterator[Path]:
    """A locked, empty folder that is never committed; it is removed at the end.

    Args:
        workdir: the work folder.
        name: the folder's name, which no other job may use at the same time.

    Raises:
        CadcError: the work folder cannot be used, or the disk is full.
    """
    with _filled(workdir, name, f"another job uses {name} there;") as folder:
        yield folder


@contextlib.contextmanager
def _filled(
    workdir: Path, name: str, busy: str, waited: str = "", seconds: float = math.inf
) -> Iterator[Path]:
    """A draft of this name, emptied of what killed jobs left.

    Where another job fills it, `busy` is the error; or, if `waited` says something, that is logged
    and the job waited for, so many seconds at most.
    """
    temporary = workdir / _TEMPORARY
    make_folder(temporary, workdir)
    with disk_explained(workdir):
        _sweep(temporary)
        lock = temporary / f"{name}.lock"
        with locked(lock, waited, seconds) as mine:
            if not mine:
                raise BusyError(
                    f"{workdir}: {busy} give this one a work folder of its own with --workdir."
                )
            with contextlib.suppress(OSError):  # a full disk is told of when the draft is filled
                lock.write_text(socket.gethostname(), "utf-8")
            with _emptied(temporary / name) as folder:
                yield folder


def make_folder(path: Path, workdir: Path) -> None:
    """Make a folder in a work folder, and its parents, if they do not exist.

    Raises:
        CadcError: it cannot be made, or it is no folder but an address.
    """
    if is_address(workdir):
        raise CadcError(
            f"{parse(workdir)}: this is written to a folder; name one of a file system."
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise (disk_error(error, workdir) or _folder_error(error, workdir)) from error


@contextlib.contextmanager
def folder_to_fill(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """A locked, empty folder beside `final`; it is removed at the end unless `commit` renames it.

    Args:
        final: the folder's final path; its parent is made if need be.
        replace: whether an existing folder may be replaced.

    Raises:
        CadcError: the folder exists and may not be replaced, another job fills it, or the disk is
            full or cannot be written.
    """
    folder = final.with_name(f".{final.name}.draft")
    old = folder.with_name(folder.name + _REPLACED)
    make_folder(final.parent, final.parent)
    with disk_explained(final.parent), locked(final.with_name(f".{final.name}.lock")) as mine:
        if not mine:
            raise BusyError(f"{final}: another job is writing it; wait for it.")
        if old.exists() and not final.exists():  # a job died between the two renames of `commit`
            old.rename(final)
        if os.path.lexists(final) and not replace:
            raise CadcError(
                f"{final} already exists; name another folder, or replace it with --force."
            )
        shutil.rmtree(old, ignore_errors=True)
        with _emptied(folder):
            yield folder


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """The folder, empty; it is removed at the end unless it was renamed."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()  # inside: a Ctrl-C may come when it has just been made
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def disk_explained(workdir: Path) -> Iterator[None]:
    """Inside this context, the error of a full or protected disk becomes a `CadcError`."""
    try:
        yield
    except CadcError:
        raise
    except Exception as error:  # DuckDB and safetensors raise their own classes
        explained = disk_error(error, workdir)
        if explained is None:
            raise
        raise explained from error


@contextlib.contextmanager
def locked(path: Path, waited: str = "", seconds: float = math.inf) -> Iterator[bool]:
    """Hold the lock file `path`; False when another process does.

    The file stays: unlinking a lock file lets two processes lock two files of one name.

    Args:
        path: the lock file; made if need be.
        waited: what is logged while the other process is waited for; empty does not wait.
        seconds: how long it is waited for at most.

    Raises:
        CadcError: the file system has no locks.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # of all errors the one that says: held by another process
            if not waited:
                yield False
                return
            if math.isinf(seconds):
                log.info("%s; --no-wait refuses instead", waited)
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)  # a Ctrl-C ends it
            else:
                log.info("%s, for up to %.0f s", waited, seconds)
                if not _locked_within(file.fileno(), seconds):
                    yield False
                    return
        except OSError as error:
            raise CadcError(
                f"{path}: this file system gives no locks ({error.strerror}), without which two "
                "jobs could write the same files; choose a folder of another one, or mount it with "
                "locks (NFS: version 4, or version 3 with its lock service)."
            ) from error
        yield True  # closing the file releases it, as does the death of the process


def _locked_within(descriptor: int, seconds: float) -> bool:
    """Lock a file as soon as it is free; False where it is not for so many seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(min(_LOOK_SECONDS, seconds))
        else:
            return True


def _sweep(temporary: Path) -> None:
    """Remove what killed jobs left: every draft or replaced folder whose lock is free.

    A file system may keep locks on each machine for itself (NFS mounted with `local_lock`, Lustre
    with `localflock`). So the draft of another machine counts as a killed job's only when nothing
    in it has changed for a day.

    If a job was killed between the two renames of `commit`, the replaced artifact is put back.
    """
    for folder in [entry for entry in temporary.iterdir() if entry.is_dir()]:
        name = folder.name.removesuffix(_REPLACED)
        with locked(temporary / f"{name}.lock") as mine:
            if not mine:
                continue
            if _in_use_elsewhere(temporary / f"{name}.lock", folder):
                continue
            final = temporary.parent.joinpath(*name.rsplit("-", 1))
            if folder.name != name and not final.exists():
                folder.rename(final)
            shutil.rmtree(folder, ignore_errors=True)


def _in_use_elsewhere(lock: Path, folder: Path) -> bool:
    """Whether another machine's job may be filling a draft, although its lock is free here."""
    host = lock.read_text("utf-8", errors="replace")
    if host in ("", socket.gethostname()):
        return False
    changed = 0.0
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # its job goes on
            changed = max(changed, path.stat().st_mtime)
    return time.time() - changed < _ABANDONED_SECONDS


def commit(draft: Path, final: Path) -> None:
    """Make `draft` durable and rename it to `final` in one step."""
    for file in draft.rglob("*"):
        _fsync(file)
    _fsync(draft)
    if final.exists():  # with --force: the old one stays until the new one takes its name
        old = draft.with_name(draft.name + _REPLACED)
        final.rename(old)
        draft.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        draft.rename(final)
    _fsync(final.parent)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file completely or not at all; its folder is made if need be.

    Of several processes that write it at once the last one wins.

    Raises:
        CadcError: the disk is full, or the folder cannot be written.
    """
    # A draft of its own: ranks of a node may write the same file at the same time.
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, "utf-8")
        _fsync(draft)
        draft.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        folder = path.parent
        raise (disk_error(error, folder) or _folder_error(error, folder)) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_error(error: Exception, workdir: Path) -> CadcError | None:
    """The error of a full or protected disk as a sentence; None for any other error."""
    where = getattr(error, "filename", None) or workdir
    number = getattr(error, "errno", None)
    if number in _NO_SPACE or (number is None and _says_no_space(error)):
        return CadcError(
            f"{where}: no space left; nothing was committed. Free some space, or choose another "
            "disk with --workdir."
        )
    if number in _NO_RIGHTS and Path(where).is_relative_to(workdir):
        return CadcError(
            f"{where}: not writable; mend its rights, or choose another folder with --workdir."
        )
    return None


def _says_no_space(error: Exception) -> bool:
    """Whether an error without a number means a full disk; only its text shows that.

    DuckDB's `IOException` and safetensors' `SafetensorError` quote what the C library calls the
    error, without its number. NumPy's OSError has no number either: it says how much of an
    array was written ("8192 requested and 4096 written").
    """
    words = rf"{re.escape(os.strerror(errno.ENOSPC))}|requested and \d+ written"
    return re.search(words, str(error)) is not None


def _folder_error(error: OSError, workdir: Path) -> CadcError:
    """Why a folder could not be made, if neither space nor permission is missing."""
    where = Path(error.filename or workdir)
    file = next((path for path in (where, *where.parents) if path.is_file()), None)
    if file is not None:
        return CadcError(f"{file}: is a file, not a folder; choose another one with --workdir.")
    return CadcError(
        f"{where}: cannot be made ({error.strerror}); choose another folder with --workdir."
    )
