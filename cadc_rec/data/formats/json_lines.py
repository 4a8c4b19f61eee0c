"""JSON Lines as a `Scan`: an object a line, each of its members a column.

DuckDB's reader takes the lines apart. Like those of a CSV file, values come as text that says
nothing of its type, except that a column of arrays is one of lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from ibis.backends.duckdb import Backend

from cadc_rec.data.formats.text import numbered_rows
from cadc_rec.data.tables.files import FileSet, partition_keys
from cadc_rec.data.tables.plain import plain_text
from cadc_rec.data.tables.scan import (
    PATH,
    ROW,
    LineScan,
    Unreadable,
    first_line,
    literal,
    require_columns,
)
from cadc_rec.errors import CadcError

_OBJECT = "__object"  # whether a line is one
_SHOWN = 60  # characters of a bad line worth showing
_KEPT = 1000  # and worth keeping


@dataclass(frozen=True)
class JsonScan(LineScan):
    """Rows of JSON Lines."""

    def lines(self, file: int, rows: Sequence[int]) -> list[int]:
        """Lines the rows stand on."""
        return [line for line, _ in _lines(self.plain[file], rows)]


def scan_json_lines(
    backend: Backend,
    found: FileSet,
    role: str,
    wanted: Mapping[str, str],
    encoding: str,
    scratch: Path,
    *,
    reject: bool,
) -> JsonScan:
    """Rows of JSON Lines.

    Args:
        backend: reads them into a table of its own.
        found: the files.
        role: which table it is.
        wanted: the setting that names each column, by column.
        encoding: of the files.
        scratch: receives what compressed files and archives hold, and what is not UTF-8.
        reject: leave out lines that are no JSON object, and list them.

    Raises:
        CadcError: a column that no line has, or a line that is no JSON object; names file and line.
    """
    plain = [
        plain_text(file, encoding, scratch / role / found.name(file), keep_mark=False)
        for file in found.files
    ]
    partitions = partition_keys(found)
    inside = [column for column in wanted if column not in partitions]
    table = f"raw_{role}"
    _refuse_double(found.files[0], wanted)
    _load(backend, found, plain, table, inside, partitions)
    unreadable = _unreadable(backend, table, plain, None if reject else 1)
    if unreadable and not reject:  # before its columns: an array that is one line has none
        first = unreadable[0]
        raise CadcError(
            f"{found.files[first.file]}, line {first.line}: {first.reason}: "
            f"{first.text[:_SHOWN]!r}. Write one object a line, or set data.tables.on_bad_row = "
            "'reject'."
        )
    types = _types(backend, table, inside)
    if not all(types.values()):
        require_columns(found.files[0], members_of(found, encoding, scratch), wanted)
    values = [
        f"CAST(CAST({_quoted(name)} AS JSON) AS VARCHAR[]) AS {_quoted(name)}"
        if types.get(name) == {"ARRAY"}
        else _quoted(name)
        for name in wanted
    ]
    backend.con.execute(
        f"CREATE VIEW {table}_typed AS SELECT {', '.join(values)}, {_OBJECT}, {PATH}, {ROW} "
        f"FROM {table}"
    )
    rows = numbered_rows(backend.table(f"{table}_typed"), [*wanted, _OBJECT], plain)
    rows = rows.filter(rows[_OBJECT]).drop(_OBJECT)
    return JsonScan(role, rows, found.files, plain, unreadable=unreadable)


def members_of(found: FileSet, encoding: str, scratch: Path) -> list[str]:
    """The members of the first file's objects, in the order they first occur, and the partitions.

    Raises:
        CadcError: as `plain_text`.
    """
    own = found.files[0]
    file = plain_text(own, encoding, scratch / "header" / found.name(own), keep_mark=False)
    members: dict[str, None] = {}
    with file.open(encoding="utf-8", errors="replace") as opened:
        for line in opened:
            try:
                value = json.loads(line)
            except ValueError:
                continue  # the scan names it
            if isinstance(value, dict):
                members |= dict.fromkeys(value)
    return [*members, *partition_keys(found)]


def _load(
    backend: Backend,
    found: FileSet,
    plain: Sequence[Path],
    table: str,
    inside: Sequence[str],
    partitions: Sequence[str],
) -> None:
    """Make `table`: of every line that is not blank the wanted values, as text, and their types.

    Raises:
        CadcError: a line that is too long to read.
    """
    columns = []
    for number, name in enumerate(inside):
        # A pointer of JSON; a path would read some names as patterns.
        place = "/" + name.replace("~", "~0").replace("/", "~1").replace("'", "''")
        value = f"nullif(json_extract_string(json, '{place}'), '')"
        number_type = f"json_type(json, '{place}')"
        columns.append(
            f"CASE WHEN {number_type} = 'DOUBLE' THEN nullif({value}, 'NaN') ELSE {value} END "
            f"AS {_quoted(name)}, {number_type} AS __type_{number}"
        )
    columns += [_quoted(name) for name in partitions]
    files = [literal(file) for file in plain]
    try:
        # Without an ORDER BY, row_number follows the scan, which DuckDB keeps in file order.
        backend.con.execute(
            f"CREATE TABLE {table} AS SELECT {', '.join([*columns, ''])} "
            f"coalesce(json_type(json) = 'OBJECT', false) AS {_OBJECT}, {PATH}, "
            f"row_number() OVER () - 1 AS {ROW} FROM read_ndjson_objects($files, "
            f"ignore_errors = true, filename = '{PATH}', hive_partitioning = {bool(partitions)}, "
            "hive_types_autocast = false)",
            {"files": files},
        )
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.InvalidInputException as error:
        raise CadcError(
            f"{found.files[0]}: cannot be read as JSON Lines ({first_line(error)}); write one "
            "object a line."
        ) from None


def _refuse_double(file: Path, wanted: Mapping[str, str]) -> None:
    """Refuse members that differ only in case: in a table of DuckDB they are one column.

    Raises:
        CadcError: names the file and both members.
    """
    known: dict[str, str] = {}
    for name in wanted:
        other = known.setdefault(name.lower(), name)
        if other != name:
            raise CadcError(
                f"{file}: has the members {other!r} and {name!r}, which differ only in case; "
                "rename one of them."
            )


def _types(backend: Backend, table: str, inside: Sequence[str]) -> dict[str, set[str]]:
    """JSON's types of each column's values; null is one where there is no other."""
    found = {}
    for number, name in enumerate(inside):
        query = f"SELECT DISTINCT __type_{number} FROM {table} WHERE __type_{number} IS NOT NULL"
        types = {kind for (kind,) in backend.con.execute(query).fetchall()}
        found[name] = types - {"NULL"} or types
    return found


def _unreadable(
    backend: Backend, table: str, plain: Sequence[Path], most: int | None
) -> list[Unreadable]:
    """The lines that are no JSON object, in the order of files and lines.

    Args:
        backend: has `table`.
        table: from `_load`.
        plain: the files, by number.
        most: how many of these lines are wanted; None: all.
    """
    query = f"SELECT {PATH}, {ROW} FROM {table} WHERE NOT {_OBJECT} ORDER BY {ROW}"
    bad = backend.con.execute(query + (f" LIMIT {most}" if most else "")).fetchall()
    if not bad:
        return []
    query = f"SELECT {PATH}, min({ROW}) FROM {table} GROUP BY {PATH}"
    first = dict(backend.con.execute(query).fetchall())
    found = []
    for number, file in enumerate(plain):
        places = [row - first[name] for name, row in bad if name == str(file)]
        found += [
            Unreadable(number, line, "is no JSON object", text[:_KEPT])
            for line, text in _lines(file, places)
        ]
    return found


def _lines(file: Path, places: Sequence[int]) -> Iterator[tuple[int, str]]:
    """The number and text of lines.

    Args:
        file: in UTF-8.
        places: which ones, ascending, counted from 0 without the blank ones.
    """
    wanted = iter(places)
    next_place = next(wanted, None)
    place = 0
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            while next_place == place:
                yield number, line.decode("utf-8", "replace").strip()
                next_place = next(wanted, None)
            if next_place is None:
                return
            place += 1


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
