"""The command that shows what your tables contain and writes a first config for them."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
        typer.Argument(
            help="A file, a folder or a glob of tables, such as shop/.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Write a first config for these tables to this file.", metavar="CONFIG"),
    ] = None,
    data_dir: DataDir = None,
    delimiter: Annotated[
        str,
        typer.Option(help="Field delimiter. Default: a tab in .tsv files, a comma in other text."),
    ] = "",
    encoding: Annotated[
        str, typer.Option(help="Encoding of text, such as windows-1252 or utf-16.")
    ] = "utf-8",
    columns: Annotated[
        str, typer.Option(help="Column names of text without a header, with commas between them.")
    ] = "",
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what your own tables contain; with --out also write a first config."""
    from rich.console import Console

    from cadc_rec import api
    from cadc_rec.data.sources.raw_input import DATA_VARIABLE

    if out is not None:
        _require_new(out)
    names = [name.strip() for name in columns.split(",")] if columns else []
    found = api.inspect(
        path, delimiter=delimiter, encoding=encoding, columns=names, data_dir=data_dir
    )
    for sentence in found.warnings:
        log.warning("%s.", sentence)
    named = os.environ.get(DATA_VARIABLE)
    if out is not None:
        folder = data_dir or (Path(named) if named else None)
        _write(out, found.config(folder))
        log.info("wrote %s; read and correct it, then run: cadc-rec run %s", out, out)
    if json:
        print(strict_json.dumps(_document(found)))
        return
    console = Console()
    for table in found.tables:
        print(_heading(table, _role(found, table)))
        console.print(_columns(table, _notes(found, table)))
    for line in _log_lines(found):
        print(line)


def _require_new(out: Path) -> None:
    """Refuse, before the tables are read, a config that could not be written."""
    if os.path.lexists(out):
        raise CadcError(f"{out} already exists; remove it or name another file.")
    if not out.parent.is_dir():
        raise CadcError(f"{out}: there is no folder {out.parent}; make it, or name another file.")


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        out.unlink(missing_ok=True)
        raise CadcError(
            f"{out}: cannot be written ({error.strerror}); name another file."
        ) from None


def _role(found: "Inspection", table: "TableProfile") -> str:
    roles = found.roles
    if table is roles.interactions:
        return "interactions"
    for name, entities in (("users", roles.users), ("items", roles.items)):
        if entities is not None and entities.table is table:
            return name
    return "not used"


def _notes(found: "Inspection", table: "TableProfile") -> dict[str, str]:
    """What each column is taken for."""
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
    """The table's file, what it is taken for, and its number of rows."""
    files = table.files.files
    name = str(files[0]) if len(files) == 1 else f"{table.files.base} ({len(files)} files)"
    unreadable = f", {table.unreadable:,} lines that cannot be read" if table.unreadable else ""
    return f"{name}: {role}, {table.rows:,} rows{unreadable}"


def _columns(table: "TableProfile", notes: dict[str, str]) -> "Table":
    """A table's columns, one on each line."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table()
    for heading in ("column", "type", "missing", "distinct", "smallest", "largest", "taken for"):
        is_count = heading in ("missing", "distinct")
        # Folded, no digit of a long id is left out.
        shown.add_column(heading, justify="right" if is_count else "left", overflow="fold")
    for c in table.columns:
        counts = (f"{table.rows - c.known:,}", f"{c.distinct:,}")
        cells = (c.name, c.type, *counts, c.least, c.greatest, notes.get(c.name, ""))
        shown.add_row(*map(escape, cells))
    return shown


def _log_lines(found: "Inspection") -> Iterator[str]:
    """Counts over all interactions."""
    if found.roles.interactions is None:
        yield "No table has both a user column and an item column."
        return
    yield f"(user, item) pairs that repeat an earlier row: {found.repeated_pairs:,}"
    yield f"users with fewer than three items (never held out): {found.users_below_three:,}"
    if found.gaps is not None:
        kind = "a clock's" if found.gaps.kind == "clock" else "only each user's order"
        yield f"times are {kind}: {found.gaps.why}"
    for advice in found.advice():
        yield f"method: {advice.text}"
    for met in found.meetings:
        yield met.sentence() or f"all rows of the {met.side}s' table and all interactions meet"
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
        "warnings": list(found.warnings),
        "repeated_pairs": found.repeated_pairs,
        "users_below_three": found.users_below_three,
        "held_out_users": found.held_out_users,
        "median_items": found.median_items,
        "timestamp_kind": found.gaps.kind if found.gaps else "none",
        "advice": [asdict(advice) for advice in found.advice()],
        "meetings": [
            {**met.counts(), "reason": list(met.reason), "examples": met.examples}
            for met in found.meetings
        ],
        "popularity": [
            {"from": least, "items": items, "rows": rows} for least, items, rows in found.popularity
        ],
    }
