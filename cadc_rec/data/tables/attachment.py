"""PostgreSQL as a DuckDB of its own attaches it: answers to queries, as Arrow batches.

The extension has to be of exactly the installed DuckDB. It is looked for in the Python package
``duckdb-extension-postgres-scanner``, then where DuckDB itself keeps extensions; nothing is
downloaded.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import duckdb
import pyarrow as pa

from cadc_rec.data.streams import ROW_GROUP_ROWS
from cadc_rec.errors import CadcError

Ask = Callable[[str], AbstractContextManager[pa.RecordBatchReader]]
"""What a query gives; the batches have to be read before the next query."""

_PACKAGE = "duckdb_extension_postgres_scanner"


def load_extension(connection: duckdb.DuckDBPyConnection) -> None:
    """Make DuckDB know ``ATTACH ... (TYPE postgres)``.

    Raises:
        CadcError: there is no extension of this DuckDB.
    """
    connection.execute("SET autoinstall_known_extensions = false")
    found = importlib.util.find_spec(_PACKAGE)
    places = found.submodule_search_locations if found is not None else None
    for place in places or []:
        folder = Path(place, "extensions", f"v{duckdb.__version__}")
        file = folder / "postgres_scanner.duckdb_extension"
        if file.is_file():
            quoted = str(file).replace("'", "''")
            connection.execute(f"LOAD '{quoted}'")
            return
    try:
        connection.execute("LOAD postgres_scanner")
    except duckdb.Error:
        raise CadcError(
            f"data.tables.driver = 'duckdb': there is no PostgreSQL extension of DuckDB "
            f"{duckdb.__version__}; pip install 'cadc-rec[attachment]' brings a DuckDB and its "
            "extension, or leave the setting out."
        ) from None


@contextlib.contextmanager
def attached(uri: str, unreachable: Callable[[Exception], CadcError]) -> Iterator[Ask]:
    """A read-only attachment within one transaction: all queries see one moment.

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
            told = connection.execute("FROM postgres_query('source', ?)", [query])
            yield told.to_arrow_reader(ROW_GROUP_ROWS)

        yield ask
