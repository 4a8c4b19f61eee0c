"""The command that shows what is in tables of one's own and writes a first config for them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cadc_rec import strict_json
from cadc_rec.cli.options import AsJson, DataDir, Debug
from cadc_rec.errors import CadcError
from cadc_rec.log import log

if TYPE_CHECKING:
    from rich.table import Table

    from cadc_rec.data.inspect.inspect import Inspection
    from cadc_rec.data.inspect.profile import TableProfile

_BAR = 40  # characters of the longest bar


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(inspect)


def inspect(
    path: Annotated[
        str,
        typer.Argument(help="A file, a folder or a glob of tables.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option(help="A config to write, to start from.", metavar="CONFIG")
    ] = None,
    data_dir: DataDir = None,
    delimiter: Annotated[
        str, typer.Option(help="Of text files; default a comma, and a tab in .tsv files.")
    ] = "",
    encoding: Annotated[Literal["utf-8", "latin-1"], typer.Option(help="Of text files.")] = "utf-8",
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what is in your own tables, and write a config for them."""
    from rich.console import Console

    from cadc_rec import api
    from cadc_rec.data.sources.raw_input import DATA_VARIABLE

    if out is not None and out.exists():
        raise CadcError(f"{out}: is there already; remove it or name another file.")
    found = api.inspect(path, delimiter=delimiter, encoding=encoding, data_dir=data_dir)
    named = os.environ.get(DATA_VARIABLE)
    if out is not None:
        folder = data_dir or (Path(named) if named else None)
        out.write_text(found.config(folder), "utf-8")
        log.info("wrote %s; read it, then: cadc-rec run %s", out, out)
    if json:
        print(strict_json.dumps(_document(found), ensure_ascii=False))
        return
    console = Console()
    for table in found.tables:
        print(_heading(table, _role(found, table)))
        console.print(_columns(table, _notes(found, table)))
    for line in _log_lines(found):
        print(line)


def _role(found: "Inspection", table: "TableProfile") -> str:
    roles = found.roles
    if table is roles.interactions:
        return "interactions"
    for name, entities in (("users", roles.users), ("items", roles.items)):
        if entities is not None and entities.table is table:
            return name
    return "not used"


def _notes(found: "Inspection", table: "TableProfile") -> dict[str, str]:
    """What each column was taken for."""
    roles = found.roles
    if table is roles.interactions:
        named = {"user": roles.user, "item": roles.item, "timestamp": roles.timestamp}
        named["rating"] = roles.rating
        return {column: key for key, column in named.items() if column}
    for entities in (roles.users, roles.items):
        if entities is not None and entities.table is table:
            notes = {entities.id: "id"} | ({entities.title: "title"} if entities.title else {})
            return notes | {g.column: f"{g.kind or 'left out'}: {g.why}" for g in entities.guesses}
    return {}


def _heading(table: "TableProfile", role: str) -> str:
    """The table's file, what it was taken for, and its rows."""
    files = table.files.files
    name = str(files[0]) if len(files) == 1 else f"{table.files.base} ({len(files)} files)"
    unreadable = f", {table.unreadable:,} lines that cannot be read" if table.unreadable else ""
    return f"{name}: {role}, {table.rows:,} rows{unreadable}"


def _columns(table: "TableProfile", notes: dict[str, str]) -> "Table":
    """A table's columns, one a line."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table()
    for heading in ("column", "type", "missing", "distinct", "smallest", "largest", "taken for"):
        shown.add_column(heading, justify="right" if heading in ("missing", "distinct") else "left")
    for c in table.columns:
        counts = (f"{table.rows - c.known:,}", f"{c.distinct:,}")
        cells = (c.name, c.type, *counts, c.least, c.greatest, notes.get(c.name, ""))
        shown.add_row(*map(escape, cells))
    return shown


def _log_lines(found: "Inspection") -> Iterator[str]:
    """What the interactions have beside their columns."""
    if found.roles.interactions is None:
        yield "No table names both a user and an item."
        return
    yield f"(user, item) pairs that repeat an earlier row: {found.repeated_pairs:,}"
    yield f"users with fewer than three items (never held out): {found.users_below_three:,}"
    yield "items by number of interactions:"
    most = max((items for _, items, _ in found.popularity), default=1)
    for least, items, rows in found.popularity:
        span = f"{least:,}" if least == 1 else f"{least:,} to {2 * least - 1:,}"
        bar = "#" * max(1, round(_BAR * items / most))
        yield f"{span:>20}  {items:>10,} items  {rows:>12,} rows  {bar}"


def _document(found: "Inspection") -> dict[str, Any]:
    tables = [
        {
            "files": [str(file) for file in table.files.files],
            "role": _role(found, table),
            "rows": table.rows,
            "unreadable": table.unreadable,
            "columns": [
                {
                    "name": c.name,
                    "type": c.type,
                    "missing": table.rows - c.known,
                    "distinct": c.distinct,
                    "least": c.least,
                    "greatest": c.greatest,
                    "taken_for": _notes(found, table).get(c.name),
                }
                for c in table.columns
            ],
        }
        for table in found.tables
    ]
    return {
        "tables": tables,
        "repeated_pairs": found.repeated_pairs,
        "users_below_three": found.users_below_three,
        "popularity": [
            {"from": least, "items": items, "rows": rows} for least, items, rows in found.popularity
        ],
    }
