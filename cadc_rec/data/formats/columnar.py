"""Parquet and Arrow files as a `Scan`: types that differ from file to file are widened to one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend
from ibis.formats.pyarrow import PyArrowType

from cadc_rec.data.formats.widening import mixes_signs, one_integer, plain, widest
from cadc_rec.data.streams import ROW_GROUP_ROWS, rechunk
from cadc_rec.data.tables.files import FileSet, partition_keys
from cadc_rec.data.tables.scan import (
    FILE,
    FILE_ROW,
    NAME,
    PATH,
    ROW,
    START,
    Scan,
    first_line,
    literal,
    require_columns,
    whole,
)
from cadc_rec.errors import CadcError

_FILE_ROW = "file_row_number"  # what DuckDB calls it


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
        CadcError: a damaged file, a column that is missing or double, or one that has values of
            different kinds in different files.
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
        _refuse_readers_own(own, schema.names)
    inside = [column for column in wanted if column not in partitions]
    types = {column: _one_type(column, schemas, found.files) for column in inside}
    counts = [pq.read_metadata(file).num_rows for file in files]
    starts = [sum(counts[:n]) for n in range(len(files))]
    groups = _of_one_schema(schemas, inside)
    parts = []
    for alike in groups:
        rows = backend.read_parquet(
            [literal(files[n]) for n in alike],
            table_name=f"raw_{role}_{alike[0]}",
            filename=PATH,
            file_row_number=True,
            union_by_name=True,  # files may differ in the columns that are not wanted
            hive_partitioning=bool(partitions),
            hive_types_autocast=False,
        )
        parts.append(_numbered(rows, wanted, {n: (files[n], starts[n]) for n in alike}))
    raw = ColumnarScan(role, parts[0], found.files, files, inside)
    for column in inside:
        kinds = [plain(schemas[alike[0]].field(column).type) for alike in groups]
        if mixes_signs(kinds):
            with whole(raw):
                types[column] = one_integer(column, kinds, parts, found.files)
    parts = _widened(parts, [schemas[alike[0]] for alike in groups], types)
    every = parts[0] if len(parts) == 1 else ibis.union(*parts)
    empty = {
        column
        for column in inside
        if all(pa.types.is_null(plain(schema.field(column).type)) for schema in schemas)
    }
    return replace(raw, rows=every, empty=empty)


def _refuse_readers_own(file: Path, columns: Sequence[str]) -> None:
    """Refuse a column that would hide one the reader adds.

    Raises:
        CadcError: names the file and the column.
    """
    for column in columns:
        if column.lower() in (_FILE_ROW, PATH):
            raise CadcError(
                f"{file}: has a column {column}, a name that the reader needs for its own; rename "
                "it."
            )


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
    rows: ir.Table, wanted: Mapping[str, str], files: Mapping[int, tuple[Path, int]]
) -> ir.Table:
    """The wanted columns with each row's place; DuckDB gives it without a scan in one thread.

    Args:
        rows: of `files`.
        wanted: the columns.
        files: by number, each with the place of its first row among all.
    """
    place = rows[_FILE_ROW].cast("int64")
    if len(files) == 1:
        ((number, (_, start)),) = files.items()
        places = {FILE: ibis.literal(number, "int32"), ROW: place + start, FILE_ROW: place}
        return rows.select(*wanted, **places)
    known = ibis.memtable(
        pa.table(
            {
                NAME: [str(file) for file, _ in files.values()],
                FILE: pa.array(files, pa.int32()),
                START: pa.array([start for _, start in files.values()], pa.int64()),
            }
        )
    )
    joined = rows.select(*wanted, PATH, **{FILE_ROW: place}).join(known, [(PATH, NAME)])
    every = {ROW: joined[START] + joined[FILE_ROW]}
    return joined.select(*wanted, FILE, **every, **{FILE_ROW: joined[FILE_ROW]})


def _one_type(column: str, schemas: Sequence[pa.Schema], files: Sequence[Path]) -> pa.DataType:
    """The type that holds a column's values of all files."""
    kinds = [plain(schema.field(column).type) for schema in schemas]
    found = widest(kinds)
    if found is None:
        other = next(n for n in range(len(kinds)) if widest(kinds[: n + 1]) is None)
        first = next(n for n in range(other) if widest([kinds[n], kinds[other]]) is None)
        raise CadcError(
            f"{files[other]}: its column {column} is {schemas[other].field(column).type}, and in "
            f"{files[first]} it is {schemas[first].field(column).type}; write all files with one "
            "type."
        )
    # A column without a type, for want of any value, is text without values.
    return pa.string() if pa.types.is_null(found) else found


def _of_one_schema(schemas: Sequence[pa.Schema], columns: Sequence[str]) -> list[list[int]]:
    """The numbers of the files whose columns have the same types, together."""
    groups: dict[tuple[pa.DataType, ...], list[int]] = {}
    for number, schema in enumerate(schemas):
        alike = tuple(plain(schema.field(column).type) for column in columns)
        groups.setdefault(alike, []).append(number)
    return list(groups.values())


def _widened(
    parts: Sequence[ir.Table], schemas: Sequence[pa.Schema], types: Mapping[str, pa.DataType]
) -> list[ir.Table]:
    """Parts of a table whose columns have one type in all of them.

    Args:
        parts: each of files of one schema.
        schemas: of each part.
        types: the type that holds a column's values of all parts.
    """
    changed: list[dict[str, ir.Value]] = [{} for _ in parts]
    for column, wanted in types.items():
        kinds = [plain(schema.field(column).type) for schema in schemas]
        target = PyArrowType.to_ibis(wanted)
        if wanted in kinds:  # as it is read: of times, the unit and zone are the reader's
            target = parts[kinds.index(wanted)][column].type()
        for part, kind, change in zip(parts, kinds, changed, strict=True):
            if pa.types.is_null(kind):
                change[column] = ibis.null(target)
            elif kind != wanted:
                change[column] = part[column].cast(target)
    return [part.mutate(**change) for part, change in zip(parts, changed, strict=True)]


def _schema(file: Path, own: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise CadcError(
            f"{own}: not a whole Parquet file, truncated or damaged ({first_line(error)}); write "
            "it again."
        ) from None


def _as_parquet(file: Path, copy: Path) -> Path:
    """An Arrow file's rows as Parquet, batch after batch: DuckDB then reads it like any other."""
    try:
        with (
            pa.memory_map(str(file)) as source,
            _open_ipc(source) as reader,
            pq.ParquetWriter(copy, _plain(reader.schema), compression="zstd") as writer,
        ):
            for table in rechunk(_batches(reader), ROW_GROUP_ROWS):
                writer.write_table(table.cast(writer.schema))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _no_arrow(file, error) from None
    return copy


def _plain(schema: pa.Schema) -> pa.Schema:
    """Text as Parquet's writer takes it: it knows no views."""
    fields = [
        field.with_type(pa.string()) if pa.types.is_string_view(field.type) else field
        for field in schema
    ]
    return pa.schema(fields)


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
