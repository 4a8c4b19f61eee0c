"""Parquet and Arrow files as a `Scan`, once their schemas agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from cadc_rec.data.streams import ROW_GROUP_ROWS, rechunk
from cadc_rec.data.tables.files import FileSet, partition_keys
from cadc_rec.data.tables.scan import (
    FILE,
    FILE_ROW,
    ROW,
    Scan,
    first_line,
    literal,
    require_columns,
)
from cadc_rec.errors import CadcError

_FILE_NAME, _FILE_ROW = "filename", "file_row_number"  # what DuckDB calls them


@dataclass(frozen=True)
class ColumnarScan(Scan):
    """Rows of Parquet files; their columns have types."""

    read_from: Sequence[Path]
    """The Parquet files, by number."""
    columns: Sequence[str]
    """The wanted ones that stand in the files."""

    @property
    def is_text(self) -> bool:
        """Never: the columns have types."""
        return False

    @property
    def word(self) -> str:
        """Rows have no lines."""
        return "row"

    def damaged(self, error: Exception) -> CadcError:
        """The file and row group that cannot be read."""
        for file, own in zip(self.read_from, self.files, strict=True):
            with pq.ParquetFile(file) as opened:
                for group in range(opened.num_row_groups):
                    try:
                        opened.read_row_group(group, columns=list(self.columns))
                    except (pa.ArrowException, OSError) as found:
                        return CadcError(
                            f"{own}, row group {group + 1}: cannot be read ({first_line(found)}); "
                            "write the file again."
                        )
        return super().damaged(error)

    def lines(self, file: int, rows: Sequence[int]) -> list[int]:
        """Rows counted from 1."""
        return [row + 1 for row in rows]


def scan_columnar(
    backend: Backend, found: FileSet, role: str, wanted: Mapping[str, str], scratch: Path
) -> ColumnarScan:
    """Rows of Parquet or Arrow files.

    Args:
        backend: will run the expressions.
        found: the files.
        role: which table it is.
        wanted: the setting that names each column, by column.
        scratch: receives Parquet copies of Arrow files.

    Raises:
        CadcError: a damaged file, a column that is missing or double, or files whose types differ.
    """
    files = list(found.read_from or found.files)
    if found.format == "arrow":
        files = [
            _as_parquet(file, scratch / f"{role}-{number:05d}.parquet")
            for number, file in enumerate(files)
        ]
    schemas = [_schema(file, own) for file, own in zip(files, found.files, strict=True)]
    partitions = partition_keys(found)
    for schema, own in zip(schemas, found.files, strict=True):
        require_columns(own, [*schema.names, *partitions], wanted)
        _require_same_types(schema, own, schemas[0], found.files[0], wanted)
    rows = backend.read_parquet(
        [literal(file) for file in files],
        table_name=f"raw_{role}",
        filename=True,
        file_row_number=True,
        union_by_name=True,  # files may differ in the columns that are not wanted
        hive_partitioning=bool(partitions),
        hive_types_autocast=False,
    )
    counts = [pq.read_metadata(file).num_rows for file in files]
    inside = [column for column in wanted if column not in partitions]
    nothing = [name for name in inside if pa.types.is_null(schemas[0].field(name).type)]
    # A column without a type, for want of any value, is text without values.
    rows = rows.mutate(**{name: ibis.null("string") for name in nothing})
    return ColumnarScan(role, _numbered(rows, wanted, files, counts), found.files, files, inside)


def columns_of(found: FileSet) -> list[str]:
    """The columns of the first file, and the partitions."""
    own = found.files[0]
    if found.format == "parquet":
        read_from = (found.read_from or found.files)[0]
        return [*_schema(read_from, own).names, *partition_keys(found)]
    try:
        with pa.memory_map(str(own)) as source, _open_ipc(source) as reader:
            return [*reader.schema.names, *partition_keys(found)]
    except (pa.ArrowException, OSError) as error:
        raise _no_arrow(own, error) from None


def _numbered(
    rows: ir.Table, wanted: Mapping[str, str], files: Sequence[Path], counts: Sequence[int]
) -> ir.Table:
    """The wanted columns with each row's place; DuckDB gives it without a scan in one thread."""
    place = rows[_FILE_ROW].cast("int64")
    if len(files) == 1:
        number, row = ibis.literal(0, "int32"), place
        return rows.select(*wanted, **{FILE: number, ROW: row, FILE_ROW: place})
    starts = [sum(counts[:n]) for n in range(len(files))]
    known = ibis.memtable(
        pa.table(
            {
                "name": [str(file) for file in files],
                FILE: pa.array(range(len(files)), pa.int32()),
                "start": pa.array(starts, pa.int64()),
            }
        )
    )
    joined = rows.select(*wanted, _FILE_NAME, **{FILE_ROW: place}).join(
        known, [(_FILE_NAME, "name")]
    )
    return joined.select(*wanted, FILE, FILE_ROW, **{ROW: joined["start"] + joined[FILE_ROW]})


def _schema(file: Path, own: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise CadcError(
            f"{own}: not a whole Parquet file, truncated or damaged ({first_line(error)}); write "
            "it again."
        ) from None


def _require_same_types(
    schema: pa.Schema, file: Path, first: pa.Schema, first_file: Path, wanted: Mapping[str, str]
) -> None:
    for column in wanted:
        if column not in schema.names or column not in first.names:
            continue  # a partition
        here, there = schema.field(column).type, first.field(column).type
        if here != there:
            raise CadcError(
                f"{file}: its column {column} is {here}, and in {first_file} it is {there}; write "
                "all files with one type."
            )


def _as_parquet(file: Path, copy: Path) -> Path:
    """An Arrow file's rows as Parquet, batch after batch: DuckDB then reads it like any other."""
    try:
        with (
            pa.memory_map(str(file)) as source,
            _open_ipc(source) as reader,
            pq.ParquetWriter(copy, reader.schema, compression="zstd") as writer,
        ):
            for table in rechunk(_batches(reader), ROW_GROUP_ROWS):
                writer.write_table(table)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _no_arrow(file, error) from None
    return copy


def _no_arrow(file: Path, error: Exception) -> CadcError:
    return CadcError(
        f"{file}: not a whole Arrow file, truncated or damaged ({first_line(error)}); write it "
        "again."
    )


def _open_ipc(
    source: pa.NativeFile,
) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:  # the other layout of Arrow, which ends without a footer
        source.seek(0)
        return pa.ipc.open_stream(source)


def _batches(
    reader: pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader,
) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        every = (reader.get_batch(n) for n in range(reader.num_record_batches))
    else:
        every = iter(reader)
    for batch in every:
        batch.validate(full=True)  # Arrow has no checksums: a wrong offset would read anywhere
        yield batch
