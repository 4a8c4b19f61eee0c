"""Compressed text files, decompressed whole and checked.

DuckDB would read .gz and .zst itself, but takes a truncated .zst for a shorter file and does not
compare a .gz with its checksum.
"""

from __future__ import annotations

import bz2
import gzip
import shutil
import zlib
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from cadc_rec.errors import CadcError

_CHUNK = 1 << 20


def unpacked(file: Path, target: Path) -> Path:
    """`file` itself, or what it holds where its name ends in .gz, .bz2 or .zst.

    Args:
        file: a text file, perhaps compressed.
        target: where its content may be written; folders are made.

    Raises:
        CadcError: truncated, damaged, or not what its name says.
    """
    kind = file.suffix.lower()
    if kind not in (".gz", ".bz2", ".zst"):
        return file
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _open(file, kind) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK)
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the file's
        raise CadcError(
            f"{file}: not a whole {kind} file, truncated or damaged ({error}); write it again."
        ) from None
    return target


def _open(file: Path, kind: str) -> IO[bytes] | Any:
    if kind == ".gz":
        return gzip.open(file, "rb")
    if kind == ".bz2":
        return bz2.open(file, "rb")
    return pa.CompressedInputStream(str(file), "zstd")
