"""Takes named files out of an archive that is not trusted.

In: a zip or bz2 file and the names wanted. Out: those files, whole, in a folder of ours, or chunk
by chunk. Anything that would write elsewhere, or without end, is refused, at the latest while it is
read.
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from cadc_rec.errors import CadcError

MAX_BYTES = 16 << 30
"""More than any rating file that is published; a file that expands beyond it is refused."""
MAX_RATIO = 100
"""Rating files compress about fivefold, genuine text never a hundredfold."""
_RATIO_FREE_BYTES = 1 << 20  # a small file may compress as well as it likes
_CHUNK = 1 << 20


def extract_zip(path: Path, members: Sequence[str], into: Path, url: str) -> dict[str, Path]:
    """Extract `members` of the zip `path` into the folder `into`.

    Every entry of the archive is checked, also those not wanted: an archive with one entry that
    leaves its folder was made by someone we should not trust with the others.

    Args:
        path: the archive.
        members: names inside it, such as ``ml-1m/ratings.dat``.
        into: an existing folder.
        url: where a good copy is published, for the messages.

    Returns:
        The extracted file of each member.

    Raises:
        CadcError: not a zip, truncated, damaged, unsafe or incomplete; names file and entry.
    """
    again = f"get it again from {url}"
    found = {member: into / PurePosixPath(member).name for member in members}
    with _opened(path, again) as (archive, entries):
        for member in members:
            if member not in entries:
                raise CadcError(f"{path}: has no entry {member}; {again}.")
        for member, target in found.items():
            with target.open("wb") as out:
                out.writelines(_chunks(path, archive, entries[member], again))
    return found


def entry_names(path: Path, again: str) -> list[str]:
    """The files in the zip `path`, by their paths in it.

    Raises:
        CadcError: not a zip, truncated, damaged or unsafe; names file and entry, and says `again`.
    """
    with _opened(path, again) as (_, entries):
        return list(entries)


def entry_chunks(path: Path, member: str, again: str) -> Iterator[bytes]:
    """What the entry `member` of the zip `path` holds, chunk by chunk.

    Raises:
        CadcError: as `extract_zip`; says `again`.
    """
    with _opened(path, again) as (archive, entries):
        if member not in entries:
            raise CadcError(f"{path}: has no entry {member}; {again}.")
        yield from _chunks(path, archive, entries[member], again)


@contextlib.contextmanager
def _opened(path: Path, again: str) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """The archive and its files by their paths in it, all of them checked."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise CadcError(f"{path}: no such file; check --data-dir.") from None
    except OSError as error:
        raise CadcError(f"{path}: cannot be read ({error.strerror}); mend its rights.") from None
    try:
        with zipfile.ZipFile(path) as archive:
            entries: dict[str, zipfile.ZipInfo] = {}
            for entry in archive.infolist():
                _check_entry(path, entry, again)
                if entry.is_dir():
                    continue
                name = PurePosixPath(entry.filename).as_posix()  # ./a//b.csv is a/b.csv
                if name in entries:
                    raise CadcError(f"{path}: lists the entry {name} more than once; {again}.")
                entries[name] = entry
            yield archive, entries
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError):
        raise CadcError(f"{path}: not a whole zip file, truncated or damaged; {again}.") from None


def decompress_bz2(path: Path, into: Path, url: str) -> Path:
    """Decompress `path` into the folder `into`, under its name without ``.bz2``.

    Raises:
        CadcError: not bz2, truncated or damaged; names the file.
    """
    target = into / path.name.removesuffix(".bz2")
    again = f"get it again from {url}"
    allowed = max(_RATIO_FREE_BYTES, MAX_RATIO * path.stat().st_size)
    try:
        with bz2.open(path, "rb") as source, target.open("wb") as out:
            out.writelines(_bounded(source, allowed, f"{path}", again))
    except EOFError:
        raise CadcError(f"{path}: truncated in the middle of its bz2 data; {again}.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the archive's
        raise CadcError(f"{path}: not a whole bz2 file ({error}); {again}.") from None
    return target


def _check_entry(path: Path, entry: zipfile.ZipInfo, again: str) -> None:
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    # Windows' absolute paths count too: the archive is the same file wherever it is opened.
    is_absolute = name.is_absolute() or PureWindowsPath(entry.filename).is_absolute()
    if is_absolute or ".." in name.parts:
        raise CadcError(f"{path}: entry {entry.filename} points outside its folder; {again}.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise CadcError(f"{path}: entry {entry.filename} is a symbolic link; {again}.")
    if entry.file_size > _allowed(entry):
        raise CadcError(
            f"{path}: entry {entry.filename} would expand from {entry.compress_size:,} to "
            f"{entry.file_size:,} bytes, which no table does; {again}."
        )


def _allowed(entry: zipfile.ZipInfo) -> int:
    return min(MAX_BYTES, max(_RATIO_FREE_BYTES, MAX_RATIO * entry.compress_size))


def _chunks(
    path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, again: str
) -> Iterator[bytes]:
    what = f"{path}: entry {entry.filename}"
    with _readable(path, entry, again), archive.open(entry) as source:
        # The size in the directory is the archive's own claim: hold it to that while reading.
        yield from _bounded(source, _allowed(entry), what, again)


@contextlib.contextmanager
def _readable(path: Path, entry: zipfile.ZipInfo, again: str) -> Iterator[None]:
    """Turn what zipfile raises on a damaged entry into a sentence."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError):
        raise CadcError(f"{path}: entry {entry.filename} is damaged; {again}.") from None
    except OSError as error:  # bz2 data has no error of its own; the disk's errors have a number
        if error.errno is not None:
            raise
        raise CadcError(f"{path}: entry {entry.filename} is damaged; {again}.") from None
    except (NotImplementedError, RuntimeError) as error:  # encrypted, or an unknown compression
        raise CadcError(f"{path}: entry {entry.filename}: {error}; {again}.") from None


def _bounded(source: IO[bytes], allowed: int, what: str, again: str) -> Iterator[bytes]:
    read = 0
    while chunk := source.read(_CHUNK):
        read += len(chunk)
        if read > allowed:
            raise CadcError(f"{what} expands beyond {allowed:,} bytes; {again}.")
        yield chunk
