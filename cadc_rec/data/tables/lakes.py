"""Tables of Delta Lake and Iceberg: folders whose log says which of their files' rows count.

In: such a folder. Out: its rows as one Parquet file, by DuckDB's own reader where that extension is
installed. Nothing is downloaded; without the extension the folder is refused, since its Parquet
files also hold rows that were removed.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cadc_rec.errors import CadcError

if TYPE_CHECKING:
    import duckdb
    from ibis.backends.duckdb import Backend

LakeKind = Literal["delta", "iceberg"]
_NAMES: Mapping[LakeKind, str] = {"delta": "Delta Lake", "iceberg": "Iceberg"}


def lake_kind(folder: Path) -> LakeKind | None:
    """What kind of table `folder` is the root of, or None.

    Raises:
        CadcError: a kind of table that is known, and that nothing here reads.
    """
    if (folder / "_delta_log").is_dir():
        return "delta"
    if _has_iceberg_metadata(folder / "metadata"):
        return "iceberg"
    if (folder / ".hoodie").is_dir():
        raise CadcError(f"{folder}: is an Apache Hudi table, which is not read; {_EXPORT}.")
    return None


def _has_iceberg_metadata(folder: Path) -> bool:
    """Whether a folder has what Iceberg's specification puts there.

    These are the table's metadata, JSON with a format's version, and beside them the lists of its
    files, in Avro. Metadata that cannot be read count as Iceberg's: its reader names them.
    """
    described = sorted({*folder.glob("*.metadata.json"), *folder.glob("*.metadata.json.gz")})
    return bool(described) and any(folder.glob("*.avro")) and any(map(_has_version, described))


def _has_version(file: Path) -> bool:
    try:
        data = file.read_bytes()
        content = json.loads(gzip.decompress(data) if data[:2] == _GZIP else data)
    except (OSError, EOFError, ValueError, zlib.error):
        return True
    return isinstance(content, dict) and "format-version" in content


_GZIP = b"\x1f\x8b"
_EXPORT = "write its present rows to plain Parquet files, and name those"


def refuse_parts_of_lakes(files: Collection[Path]) -> None:
    """Refuse Parquet files that belong to such a table: some of their rows may be removed.

    Raises:
        CadcError: names the file and its table.
    """
    for folder in {folder for file in files for folder in file.parents}:
        kind = lake_kind(folder)
        if kind:
            raise CadcError(
                f"{folder}: is a {_NAMES[kind]} table, and not all rows of its files count; name "
                "this folder itself, and no other beside it."
            )


def require_reader(kind: LakeKind, folder: Path) -> None:
    """Refuse a table that no installed extension of DuckDB reads.

    Raises:
        CadcError: names the table, the extension, and what to do instead.
    """
    import duckdb

    with duckdb.connect() as connection:
        _load(connection, kind, folder)


def _load(connection: duckdb.DuckDBPyConnection, kind: LakeKind, folder: Path) -> None:
    import duckdb

    from cadc_rec.data.engine import load_installed

    # Iceberg's reader loads Avro's, and would download it.
    needed = ("avro", "iceberg") if kind == "iceberg" else ("delta",)
    for extension in needed:
        if not load_installed(connection, extension):
            raise CadcError(
                f"{folder}: is a {_NAMES[kind]} table, and DuckDB {duckdb.__version__} has no "
                f"extension {extension} here; install it (INSTALL {extension}), or {_EXPORT}."
            )


def lake_rows(backend: Backend, kind: LakeKind, folder: Path, copy: Path) -> Path:
    """The rows that count, as the Parquet file `copy`, in the order of all their columns.

    Raises:
        CadcError: the extension is not installed, or cannot read the table.
    """
    import duckdb

    from cadc_rec.data.tables.scan import first_line

    _load(backend.con, kind, folder)
    try:
        # The log of such a table gives its rows no order, and ours has to be the same each time.
        backend.con.execute(
            f"COPY (FROM {kind}_scan($folder) ORDER BY ALL) TO '{_quoted(copy)}' (FORMAT parquet)",
            {"folder": str(folder)},
        )
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise CadcError(
            f"{folder}: this {_NAMES[kind]} table cannot be read ({first_line(error)}); mend it, "
            f"or {_EXPORT}."
        ) from None
    return copy


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
