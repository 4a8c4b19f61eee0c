"""Read-only connections to a database: by ADBC, or by a DuckDB that attaches it.

In: an `Address`. Out: an `Ask`, which gives the answers to queries as Arrow batches; all of them
see the database at one point in time. The drivers are optional packages.

DuckDB's extension has to be of exactly the installed DuckDB. It is looked for in the Python package
``duckdb-extension-postgres-scanner``, then where DuckDB itself keeps extensions; nothing is
downloaded.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import pyarrow as pa

from cadc_rec.data.engine import load_installed
from cadc_rec.data.streams import ROW_GROUP_ROWS
from cadc_rec.data.tables.scan import first_line
from cadc_rec.errors import CadcError

Dialect = Literal["postgres", "sqlite"]
Driver = Literal["adbc", "duckdb"]
Ask = Callable[[str], AbstractContextManager[pa.RecordBatchReader]]
"""What a query gives; the batches have to be read before the next query."""

KEY = "data.tables.database"
"""The setting that an address comes from."""


@dataclass(frozen=True)
class Address:
    """A database, without the password that may open it."""

    dialect: Dialect
    shown: str
    """For messages: neither user nor password."""
    uri: str
    """What the driver takes."""


@contextlib.contextmanager
def connected(address: Address, driver: Driver) -> Iterator[Ask]:
    """Queries within one read-only transaction: all see the database at one point in time."""

    def unreachable(error: Exception) -> CadcError:
        return CadcError(
            f"{KEY}: {address.shown} cannot be reached ({said(error)}); correct it, or the "
            "environment ($PGHOST, $PGUSER, $PGPASSWORD)."
        )

    if driver == "duckdb":
        if address.dialect != "postgres":
            raise CadcError(
                f"data.tables.driver = 'duckdb' is for PostgreSQL, and {KEY} is a file of SQLite; "
                "leave the setting out."
            )
        with _attached(address.uri, unreachable) as ask:
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
            f"{KEY}: needs the package adbc-driver-{name}; pip install 'cadc-rec[sql]'."
        ) from None


def adbc_errors() -> tuple[type[Exception], ...]:
    """ADBC's type of error; nothing where ADBC is not installed, which DuckDB does not need."""
    try:
        from adbc_driver_manager import Error
    except ModuleNotFoundError:
        return ()
    return (Error,)


def said(error: Exception) -> str:
    """What the database says, without the driver's name for the kind of error."""
    said = first_line(error).rpartition("ERROR:")[2]
    return said.strip()[:300]


def load_extension(connection: duckdb.DuckDBPyConnection) -> None:
    """Make DuckDB know ``ATTACH ... (TYPE postgres)``.

    Raises:
        CadcError: there is no extension of this DuckDB.
    """
    if not load_installed(connection, "postgres_scanner"):
        raise CadcError(
            f"data.tables.driver = 'duckdb': there is no PostgreSQL extension of DuckDB "
            f"{duckdb.__version__}; pip install 'cadc-rec[attachment]' brings a DuckDB and its "
            "extension, or leave the setting out."
        )


@contextlib.contextmanager
def _attached(uri: str, unreachable: Callable[[Exception], CadcError]) -> Iterator[Ask]:
    """A read-only attachment, queried within one transaction.

    Args:
        uri: what libpq takes.
        unreachable: what to say when there is no connection.
    """
    with duckdb.connect() as connection:
        load_extension(connection)
        connection.execute("SET TimeZone = 'UTC'")
        quoted = uri.replace("'", "''")
        try:
            connection.execute(f"ATTACH '{quoted}' AS source (TYPE postgres, READ_ONLY)")
        except duckdb.Error as error:
            raise unreachable(error) from None
        connection.execute("BEGIN")

        @contextlib.contextmanager
        def ask(query: str) -> Iterator[pa.RecordBatchReader]:
            answer = connection.execute("FROM postgres_query('source', ?)", [query])
            yield answer.to_arrow_reader(ROW_GROUP_ROWS)

        yield ask
