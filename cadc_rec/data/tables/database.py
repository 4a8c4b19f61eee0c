"""Rows of a database as Parquet files: what a query of the configuration gives, read once.

In: an address, a query for each table, an empty folder. Out: a `FileSet` for each, read like any
other Parquet file. ADBC, or an attachment of DuckDB, streams Arrow batches from the database into a
DuckDB that puts them in order within its bounds of memory; drivers are extras.

A query's rows have no order of their own. They are put in the order of all their columns, unless
the query says ORDER BY, so that the same rows are the same bytes whatever way they came.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, quote, urlsplit

import duckdb
import pyarrow as pa
from sqlglot import exp

from cadc_rec.data.engine import open_engine
from cadc_rec.data.streams import ROW_GROUP_ROWS, parquet_writer, rechunk
from cadc_rec.data.tables.attachment import Ask, attached
from cadc_rec.data.tables.files import FileSet
from cadc_rec.data.tables.query import Dialect, checked_query
from cadc_rec.data.tables.scan import first_line
from cadc_rec.errors import CadcError

_SCHEMES: Mapping[str, Literal["postgres", "sqlite"]] = {
    "postgresql": "postgres",
    "postgres": "postgres",
    "sqlite": "sqlite",
}
_HOW = (
    "write it as postgresql://user@host:5432/name or sqlite:///shop.db (sqlite:////data/shop.db "
    "for an absolute path)"
)
_KEY = "data.tables.database"
Driver = Literal["adbc", "duckdb"]


@dataclass(frozen=True)
class Address:
    """A database, without the password that may open it."""

    dialect: Dialect
    shown: str
    """For messages: neither user nor password."""
    uri: str
    """What the driver takes."""


def parse_address(text: str, folders: Sequence[Path]) -> Address:
    """The database that ``data.tables.database`` names.

    Args:
        text: an address; of SQLite, a file.
        folders: what a relative path of a file is relative to, in order.

    Raises:
        CadcError: no such kind of database, a file that is not there, or a password in the text.
    """
    try:
        parts = urlsplit(text)
        dialect = _SCHEMES.get(parts.scheme)
        secret = parts.password or {"password", "sslpassword"} & set(parse_qs(parts.query))
    except ValueError as error:
        raise CadcError(f"{_KEY}: is no address ({error}); {_HOW}.") from None
    if secret:  # before anything that repeats the text
        raise CadcError(
            f"{_KEY}: holds a password, which would be kept with the experiment; take it out, and "
            "set $PGPASSWORD or ~/.pgpass."
        )
    if dialect is None:
        raise CadcError(f"{_KEY} = {text!r}: is of no known kind; {_HOW}.")
    if dialect == "postgres":
        return Address(dialect, f"postgresql://{parts.hostname or ''}{parts.path}", text)
    if parts.netloc or not parts.path.strip("/"):
        raise CadcError(f"{_KEY} = {text!r}: names no file; {_HOW}.")
    tried = [folder / parts.path.removeprefix("/") for folder in folders]
    file = next((place for place in tried if place.is_file()), None)
    if file is None:
        places = " or ".join(dict.fromkeys(map(str, tried)))
        raise CadcError(f"{places}: no such file; correct {_KEY}, or name its --data-dir.")
    return Address(dialect, str(file), f"file:{quote(str(file.absolute()))}?mode=ro")


def fetch(
    address: Address,
    queries: Mapping[str, str],
    spool: Path,
    memory_bytes: int | None = None,
    driver: Driver = "adbc",
) -> dict[str, FileSet]:
    """The rows of each query, all as of one moment.

    Args:
        address: from `parse_address`.
        queries: by table (``interactions``, ``users``, ``items``).
        spool: an empty folder; it receives the rows, and holds what is spilled on the way.
        memory_bytes: as `open_engine`.
        driver: ``duckdb`` attaches a PostgreSQL.

    Raises:
        CadcError: a query that may do more than read, a database that cannot be reached, or
            what it says against a query.
    """
    checked = {
        role: checked_query(text, address.dialect, f"data.tables.{role}.query")
        for role, text in queries.items()
    }
    found = {}
    with _connected(address, driver) as ask:
        for role, text in queries.items():
            file = spool / f"{role}.parquet"
            key = f"data.tables.{role}.query"
            try:
                _write(ask, text, file, memory_bytes, ordered=_ordered(checked[role]))
            except duckdb.OutOfMemoryException:
                raise
            except (*_adbc_errors(), duckdb.Error, pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                hint = (
                    "; a column of a query has one type: CAST it"
                    if "mismatch" in str(error)
                    else "; mend it"
                )
                raise CadcError(f"{key}: {address.shown} says: {_said(error)}{hint}.") from None
            found[role] = FileSet("parquet", Path(), (Path(key),), (file,))
    return found


def _ordered(query: exp.Query) -> bool:
    return query.args.get("order") is not None


def _write(ask: Ask, text: str, file: Path, memory_bytes: int | None, *, ordered: bool) -> None:
    """The rows as Parquet whose bytes depend on them alone; `ordered` keeps the query's order."""
    scratch = file.with_suffix("")
    scratch.mkdir()
    with ask(text) as reader, open_engine(scratch, memory_bytes) as backend:
        rows = backend.con.from_arrow(reader)
        if not ordered:
            rows = rows.order(", ".join(f"#{n + 1}" for n in range(len(rows.columns))))
        batches = rows.to_arrow_reader(ROW_GROUP_ROWS)
        schema = pa.schema([pa.field(field.name, field.type) for field in batches.schema])
        with parquet_writer(file, schema) as writer:
            for table in rechunk(batches, ROW_GROUP_ROWS):
                writer.write_table(table.cast(schema), row_group_size=ROW_GROUP_ROWS)


@contextlib.contextmanager
def _connected(address: Address, driver: Driver) -> Iterator[Ask]:
    """Questions within a transaction that can only read, and sees one moment."""

    def unreachable(error: Exception) -> CadcError:
        return CadcError(
            f"{_KEY}: {address.shown} cannot be reached ({_said(error)}); correct it, or the "
            "environment ($PGHOST, $PGUSER, $PGPASSWORD)."
        )

    if driver == "duckdb":
        if address.dialect != "postgres":
            raise CadcError(
                f"data.tables.driver = 'duckdb' is for PostgreSQL, and {_KEY} is a file of SQLite; "
                "leave the setting out."
            )
        with attached(address.uri, unreachable) as ask:
            yield ask
        return
    dbapi = _adbc(address.dialect)
    try:
        connection = dbapi.connect(address.uri)
    except dbapi.Error as error:
        raise unreachable(error) from None
    with contextlib.closing(connection):
        if address.dialect == "postgres":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

        @contextlib.contextmanager
        def ask_adbc(query: str) -> Iterator[pa.RecordBatchReader]:
            with connection.cursor() as cursor:
                if address.dialect == "sqlite":  # a column's type is that of its first rows
                    cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": "65536"})
                cursor.execute(query)
                yield cursor.fetch_record_batch()

        yield ask_adbc


def _adbc(dialect: Dialect) -> Any:
    """The driver's module."""
    name = "postgresql" if dialect == "postgres" else "sqlite"
    try:
        return importlib.import_module(f"adbc_driver_{name}.dbapi")
    except ModuleNotFoundError:
        raise CadcError(
            f"{_KEY}: needs the package adbc-driver-{name}; pip install 'cadc-rec[sql]'."
        ) from None


def _adbc_errors() -> tuple[type[Exception], ...]:
    """None where ADBC is not installed: DuckDB attaches without it."""
    try:
        from adbc_driver_manager import Error
    except ModuleNotFoundError:
        return ()
    return (Error,)


def _said(error: Exception) -> str:
    """What the database says, without the driver's name for the kind of error."""
    said = first_line(error).rpartition("ERROR:")[2]
    return said.strip()[:300]
