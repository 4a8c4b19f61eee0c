"""Reads the rows of a database's queries once, into Parquet files.

In: an address, a query for each table, an empty folder. Out: a `FileSet` for each, read like any
other Parquet file. ADBC, or an attachment of DuckDB, streams Arrow batches from the database into a
DuckDB that puts them in order within its bounds of memory; drivers are extras.

A query's rows have no order of their own. They are put in the order of all their columns, unless
the query says ORDER BY, so that the same rows are the same bytes whatever way they came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from cadc_rec.data.engine import open_engine
from cadc_rec.data.streams import ROW_GROUP_ROWS, parquet_writer, rechunk
from cadc_rec.data.tables.connections import (
    KEY,
    Address,
    Ask,
    Dialect,
    Driver,
    adbc_errors,
    connected,
    said,
)
from cadc_rec.data.tables.files import FileSet
from cadc_rec.data.tables.scan import first_line
from cadc_rec.errors import CadcError

_SCHEMES: Mapping[str, Dialect] = {
    "postgresql": "postgres",
    "postgres": "postgres",
    "sqlite": "sqlite",
}
_HOW = (
    "write it as postgresql://user@host:5432/name or sqlite:///shop.db (sqlite:////data/shop.db "
    "for an absolute path)"
)
_NOT_READING = (exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock, exp.Copy, exp.Pragma, exp.Attach)
# Reading functions that sqlglot has no class for. Every other function it does not know is refused:
# among them are query_to_xml, dblink and pg_read_file.
_KNOWN = ("age", "julianday", "printf", "unixepoch")


def parse_address(text: str, folders: Sequence[Path]) -> Address:
    """The database that ``data.tables.database`` names.

    Args:
        text: an address; of SQLite, a file.
        folders: what a relative path of a file is relative to, in order.

    Raises:
        CadcError: an unknown kind of database, a missing file, or a password in the text.
    """
    try:
        parts = urlsplit(text)
        dialect = _SCHEMES.get(parts.scheme)
        secret = parts.password or {"password", "sslpassword"} & set(parse_qs(parts.query))
    except ValueError as error:
        raise CadcError(f"{KEY}: is no address ({error}); {_HOW}.") from None
    if secret:  # before anything that repeats the text
        raise CadcError(
            f"{KEY}: holds a password, which would be kept with the experiment; take it out, and "
            "set $PGPASSWORD or ~/.pgpass."
        )
    if dialect is None:
        raise CadcError(f"{KEY} = {text!r}: is no kind of database that is known; {_HOW}.")
    if dialect == "postgres":
        return Address(dialect, f"postgresql://{parts.hostname or ''}{parts.path}", text)
    if parts.netloc or not parts.path.strip("/"):
        raise CadcError(f"{KEY} = {text!r}: names no file; {_HOW}.")
    tried = [folder / parts.path.removeprefix("/") for folder in folders]
    file = next((place for place in tried if place.is_file()), None)
    if file is None:
        places = " or ".join(dict.fromkeys(map(str, tried)))
        raise CadcError(f"{places}: no such file; correct {KEY}, or name its --data-dir.")
    return Address(dialect, str(file), f"file:{quote(str(file.absolute()))}?mode=ro")


def fetch(
    address: Address,
    queries: Mapping[str, str],
    spool: Path,
    memory_bytes: int | None = None,
    driver: Driver = "adbc",
) -> dict[str, FileSet]:
    """The rows of each query; all see the database at one point in time.

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
    with connected(address, driver) as ask:
        for role, text in queries.items():
            file = spool / f"{role}.parquet"
            key = f"data.tables.{role}.query"
            try:
                _write(ask, text, file, memory_bytes, ordered=_ordered(checked[role]))
            except duckdb.OutOfMemoryException:
                raise
            except (*adbc_errors(), duckdb.Error, pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                # A SQLite query that was accepted and then cannot be read to its end: in nearly all
                # cases a column whose values are of several types.
                unread = address.dialect == "sqlite" and not isinstance(error, adbc_errors())
                remedy = "a column of a query has one type: CAST it" if unread else "mend it"
                raise CadcError(f"{key}: {address.shown} says: {said(error)}; {remedy}.") from None
            found[role] = FileSet("parquet", Path(), (Path(key),), (file,))
    return found


def checked_query(text: str, dialect: Dialect, key: str) -> exp.Query:
    """The one SELECT that `text` is.

    The database is asked within a read-only transaction besides. What is refused here are functions
    that read files, run further SQL or leave the database, and statements that a read-only
    transaction still allows.

    Args:
        text: the query.
        dialect: of the database.
        key: the setting it comes from, for messages.

    Raises:
        CadcError: it is not a SELECT, is several statements, or may do more than read the tables
            that it names.
    """
    try:
        statements = sqlglot.parse(text, dialect=dialect)
    except SqlglotError as error:
        raise CadcError(f"{key}: cannot be parsed as SQL ({first_line(error)}); mend it.") from None
    only = statements[0] if len(statements) == 1 else None
    if only is None or not isinstance(only, exp.Query):
        raise CadcError(f"{key}: has to be one SELECT and nothing else; write it so.")
    for node in only.walk():
        if isinstance(node, exp.Select | exp.SetOperation | exp.Subquery):
            continue  # queries count among what can be a statement
        if isinstance(node, _NOT_READING):
            raise CadcError(
                f"{key}: holds {type(node).__name__.upper()}, and a query may only read; take it "
                "out."
            )
        if isinstance(node, exp.Anonymous) and node.name.lower() not in _KNOWN:
            raise CadcError(
                f"{key}: calls {node.name}, which is not among the functions known to read nothing "
                "but their arguments; use a standard function, or put it into a view."
            )
    return only


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
