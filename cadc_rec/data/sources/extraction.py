"""Takes named files out of an archive that is not trusted.

In: a zip or bz2 file and the names wanted. Out: those files, whole, in a folder of ours. Anything
that would write elsewhere, or without end, is refused before or while it is written.
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
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
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if len(entries) != len(archive.infolist()):
                raise CadcError(f"{path}: lists one name more than once; {again}.")
            for entry in entries.values():
                _check_entry(path, entry, again)
            for member in members:
                if member not in entries:
                    raise CadcError(f"{path}: has no entry {member}; {again}.")
            return {m: _extract_entry(path, archive, entries[m], into, again) for m in members}
    except FileNotFoundError:
        raise CadcError(f"{path}: no such file; check --data-dir.") from None
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
            _copy(source, out, allowed, f"{path}", again)
    except EOFError:
        raise CadcError(f"{path}: truncated in the middle of its bz2 data; {again}.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the archive's
        raise CadcError(f"{path}: not a whole bz2 file ({error}); {again}.") from None
    return target


def _check_entry(path: Path, entry: zipfile.ZipInfo, again: str) -> None:
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    # Windows drives count too: the archive is the same file wherever it is opened.
    if name.is_absolute() or ".." in name.parts or ":" in entry.filename:
        raise CadcError(f"{path}: entry {entry.filename} points outside its folder; {again}.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise CadcError(f"{path}: entry {entry.filename} is a symbolic link; {again}.")
    if entry.file_size > _allowed(entry):
        raise CadcError(
            f"{path}: entry {entry.filename} would expand from {entry.compress_size:,} to "
            f"{entry.file_size:,} bytes, which no rating file does; {again}."
        )


def _allowed(entry: zipfile.ZipInfo) -> int:
    return min(MAX_BYTES, max(_RATIO_FREE_BYTES, MAX_RATIO * entry.compress_size))


def _extract_entry(
    path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, into: Path, again: str
) -> Path:
    target = into / PurePosixPath(entry.filename).name
    with _readable(path, entry, again), archive.open(entry) as source, target.open("wb") as out:
        # The size in the directory is the archive's own claim: hold it to that while copying.
        _copy(source, out, _allowed(entry), f"{path}: entry {entry.filename}", again)
    return target


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


def _copy(source: IO[bytes], out: IO[bytes], allowed: int, what: str, again: str) -> None:
    written = 0
    while chunk := source.read(_CHUNK):
        written += len(chunk)
        if written > allowed:
            raise CadcError(f"{what} expands beyond {allowed:,} bytes; {again}.")
        out.write(chunk)
