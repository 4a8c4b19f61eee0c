"""Text files as the reader takes them: out of their archive, decompressed, in UTF-8.

In: a text file of the user's, which may be an entry of a zip archive (``shop.zip/orders.csv``).
Out: the file itself, or a copy in a folder of ours. Lines stay where they are.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cadc_rec.data.sources.extraction import entry_chunks, entry_names
from cadc_rec.errors import CadcError

COMPRESSED = (".gz", ".bz2", ".zst")
ARCHIVE = ".zip"
_AGAIN = "unpack it yourself, or write it again"
_CHUNK = 1 << 20
_INVALID = "cadc-rec-invalid"
_NO_LETTER = "\udcff"
# Bytes that are nothing in the file's encoding become a byte that is nothing in UTF-8, so that the
# reader finds the row. 0xFF stands for them all: no two of them make a letter. (The type
# ignored is a UnicodeError's, which has no `end`; a handler gets one of the kinds that have it.)
codecs.register_error(_INVALID, lambda error: (_NO_LETTER, error.end))  # type: ignore[attr-defined]
_NO_LETTERS = dict.fromkeys(range(0x80, 0xA0), _NO_LETTER)
"""Control characters that Latin-1 has where Windows-1252 has letters; no table holds them."""


def archive_of(file: Path) -> Path | None:
    """The zip archive that `file` is an entry of, or None."""
    for folder in file.parents:
        if folder.suffix.lower() == ARCHIVE and folder.is_file():
            return folder
    return None


def entries_of(archive: Path) -> list[Path]:
    """The files in a zip archive, each as a path below it.

    Raises:
        CadcError: not a whole zip, or one that is not safe to open.
    """
    return [archive / name for name in entry_names(archive, _AGAIN)]


def content(file: Path) -> Iterator[bytes]:
    """The bytes of a file or of an archive's entry, chunk by chunk.

    Raises:
        CadcError: it cannot be read; names it.
    """
    archive = archive_of(file)
    if archive is not None:
        yield from entry_chunks(archive, file.relative_to(archive).as_posix(), _AGAIN)
        return
    try:
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise CadcError(f"{file}: cannot be read ({error.strerror}); mend its rights.") from None


def plain_text(file: Path, encoding: str, target: Path, *, keep_mark: bool = True) -> Path:
    """`file`, or a copy of what it holds: out of its archive, decompressed and as UTF-8.

    Args:
        file: a text file, perhaps compressed, perhaps in an archive.
        encoding: what Python calls its encoding.
        target: where its content may be written; folders are made.
        keep_mark: keep a byte order mark of UTF-8.

    Raises:
        CadcError: truncated, damaged, unsafe, or not what its name says.
    """
    target = target.absolute()  # DuckDB's notes of bad rows name no relative path
    found = file
    if archive_of(file) is not None:
        found = target.with_name(f"entry-{target.name}")
        found.parent.mkdir(parents=True, exist_ok=True)
        with found.open("wb") as out:
            out.writelines(content(file))
    found = _decompressed(found, file, target.with_name(f"{target.name}.text"))
    if encoding != "utf-8" or (not keep_mark and _starts_with(found, codecs.BOM_UTF8)):
        found = _as_utf8(found, encoding, target.with_name(f"{target.name}.utf8"))
    return found


def is_empty(file: Path) -> bool:
    """Whether nothing but blanks stands in a file, whatever its format.

    Raises:
        CadcError: it cannot be read; names it.
    """
    return not any(chunk.strip(codecs.BOM_UTF8 + b" \t\r\n\0") for chunk in content(file))


def _starts_with(file: Path, mark: bytes) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(mark)) == mark


def _as_utf8(file: Path, encoding: str, copy: Path) -> Path:
    name = "utf-8-sig" if encoding == "utf-8" else encoding
    decoder = codecs.getincrementaldecoder(name)(_INVALID)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with file.open("rb") as source, copy.open("wb") as out:
        while True:
            chunk = source.read(_CHUNK)
            text = decoder.decode(chunk, final=not chunk)
            if encoding == "latin-1":
                text = text.translate(_NO_LETTERS)
            out.write(text.encode("utf-8", "surrogateescape"))
            if not chunk:
                return copy


def _decompressed(file: Path, own: Path, target: Path) -> Path:
    """`file`, or what it holds where its name ends in .gz, .bz2 or .zst.

    DuckDB would read .gz and .zst itself, but takes a truncated .zst for a shorter file and does
    not compare a .gz with its checksum.
    """
    kind = file.suffix.lower()
    if kind not in COMPRESSED:
        return file
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _open(file, kind) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK)
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the file's
        raise CadcError(
            f"{own}: not a whole {kind} file, truncated or damaged ({error}); write it again."
        ) from None
    return target


def _open(file: Path, kind: str) -> IO[bytes] | Any:
    if kind == ".gz":
        return gzip.open(file, "rb")
    if kind == ".bz2":
        return bz2.open(file, "rb")
    import pyarrow as pa  # takes long to import, and only .zst needs it

    return pa.CompressedInputStream(str(file), "zstd")
