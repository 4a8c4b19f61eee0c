"""Opens the files of one table as a `Scan`, whatever their format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ibis.backends.duckdb import Backend

from cadc_rec.data.formats.columnar import columns_of, scan_columnar
from cadc_rec.data.formats.json_lines import members_of, scan_json_lines
from cadc_rec.data.formats.lines import TextFormat
from cadc_rec.data.formats.text import header_of, scan_text
from cadc_rec.data.tables.files import FileSet
from cadc_rec.data.tables.lakes import lake_rows
from cadc_rec.data.tables.scan import OWN, Scan
from cadc_rec.errors import CadcError


def open_table(
    backend: Backend,
    found: FileSet,
    role: str,
    wanted: Mapping[str, str],
    layout: TextFormat,
    scratch: Path,
    *,
    reject: bool,
) -> Scan:
    """The rows of one table.

    Args:
        backend: will run the expressions.
        found: the files.
        role: which table it is.
        wanted: the setting that names each column, by column.
        layout: of text files.
        scratch: a folder for what is unpacked or converted.
        reject: leave out rows of text that cannot be read, and list them.

    Raises:
        CadcError: a file that cannot be read, or a column that is missing or double.
    """
    for column in wanted:
        if OWN.fullmatch(column):
            raise CadcError(
                f"{found.files[0]}: has a column {column}, a name that is used while reading; "
                "rename it."
            )
    if found.format == "text":
        return scan_text(backend, found, role, wanted, layout, scratch, reject=reject)
    if layout.columns:
        raise CadcError(
            f"{found.files[0]}: its columns have names; take data.tables.{role}.columns out of the "
            "config."
        )
    if found.format == "json":
        encoding = layout.encoding
        return scan_json_lines(backend, found, role, wanted, encoding, scratch, reject=reject)
    return scan_columnar(backend, _plain(backend, found, role, scratch), role, wanted, scratch)


def columns_in(
    backend: Backend, found: FileSet, role: str, layout: TextFormat, scratch: Path
) -> list[str]:
    """The columns of a table's first file that have a name.

    Raises:
        CadcError: a file that cannot be read.
    """
    if found.format == "text":
        names = header_of(found, layout, scratch)
    elif found.format == "json":
        names = members_of(found, layout.encoding, scratch)
    else:
        names = columns_of(_plain(backend, found, role, scratch))
    return [name for name in names if name.strip()]


def _plain(backend: Backend, found: FileSet, role: str, scratch: Path) -> FileSet:
    """Parquet or Arrow files: the rows of a table of Delta Lake or Iceberg as one of them."""
    if found.format != "delta" and found.format != "iceberg":
        return found
    copy = scratch / f"{role}-{found.format}.parquet"
    if not copy.exists():
        lake_rows(backend, found.format, found.files[0], copy)
    return replace(found, format="parquet", read_from=(copy,))
