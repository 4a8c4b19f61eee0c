"""The user's own tables as raw tables; `cadc_rec.data.tables` reads their formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from cadc_rec.config_tables import EntityTable, TablesConfig
from cadc_rec.data.sources.raw_tables import AttributeColumn, RawTables, Side
from cadc_rec.data.tables.attributes import attribute_column, declared, without
from cadc_rec.data.tables.bad_rows import checked
from cadc_rec.data.tables.columnar import scan_columnar
from cadc_rec.data.tables.columns import (
    INTEGER,
    Typed,
    count_matches,
    id_column,
    id_type,
    number_column,
    time_column,
    time_kind,
)
from cadc_rec.data.tables.files import FileSet, TableFiles
from cadc_rec.data.tables.scan import FILE, FILE_ROW, ROW, Scan
from cadc_rec.data.tables.text import TextFormat, scan_text
from cadc_rec.errors import CadcError
from cadc_rec.progress import log

IdKind = Literal["integer", "string"]


def table_settings(config: TablesConfig) -> dict[str, Any]:
    """What decides the result beside the files' bytes: everything but where they lie."""
    return config.model_dump(
        mode="json", exclude={role: {"path"} for role in ("interactions", "users", "items")}
    )


def read_tables(
    config: TablesConfig, files: TableFiles, backend: Backend, scratch: Path
) -> RawTables:
    """The raw tables of the user's files.

    Args:
        config: names the columns.
        files: from `find_tables`.
        backend: will run the expressions.
        scratch: a folder for what is unpacked or converted.

    Raises:
        CadcError: a file, column or row that cannot be read as declared; names file, line or row
            and column.
    """
    backend.raw_sql("SET TimeZone = 'UTC'")  # a datetime that names no zone is meant as UTC
    layout = TextFormat(config.delimiter, config.encoding)

    def scan(found: FileSet, role: str, wanted: Mapping[str, str]) -> Scan:
        if found.format == "text":
            return scan_text(backend, found, role, wanted, layout, scratch)
        return scan_columnar(backend, found, role, wanted, scratch)

    i = config.interactions
    keys = {"user": i.user, "item": i.item, "timestamp": i.timestamp, "rating": i.rating}
    wanted = {column: f"data.tables.interactions.{key}" for key, column in keys.items() if column}
    interactions = scan(files.interactions, "interactions", wanted)
    attributes: dict[Side, dict[str, AttributeColumn]] = {
        "user": declared(config.users, "user"),
        "item": declared(config.items, "item"),
    }

    def entities(side: Side, found: FileSet | None, table: EntityTable) -> Scan | None:
        if found is None:
            return None
        return scan(found, f"{side}s", _wanted(table, attributes[side], side))

    users = entities("user", files.users, config.users)
    items = entities("item", files.items, config.items)
    user_kind = _id_kind(
        "user", config.user_ids, [(interactions, i.user), (users, config.users.id)]
    )
    item_kind = _id_kind(
        "item", config.item_ids, [(interactions, i.item), (items, config.items.id)]
    )
    rows, counts = _interactions(config, interactions, user_kind, item_kind)
    return RawTables(
        interactions=rows,
        users=users and _entities(users, config.users, attributes["user"], "user", user_kind),
        items=items and _entities(items, config.items, attributes["item"], "item", item_kind),
        attributes=(
            *(attributes["user"].values() if users else ()),
            *(attributes["item"].values() if items else ()),
        ),
        has_time=bool(i.timestamp),
        counts=counts,
    )


def _wanted(
    config: EntityTable, attributes: Mapping[str, AttributeColumn], side: Side
) -> dict[str, str]:
    """The setting that names each column of a side's table."""
    section = f"data.tables.{side}s"
    wanted = {config.id: f"{section}.id"}
    title = getattr(config, "title", "")
    if title:
        wanted[title] = f"{section}.title"
    return wanted | {column: f"{section}.{a.kind}" for column, a in attributes.items()}


def _id_kind(
    side: Side, asked: Literal["auto", "integer", "string"], columns: list[tuple[Scan | None, str]]
) -> IdKind:
    """One type for a side's ids in every table that has them.

    Raises:
        CadcError: one table's ids are integers and another's text, by their files' types.
    """
    found = [(scan, column) for scan, column in columns if scan is not None]
    typed: dict[IdKind, str] = {}
    for scan, column in found:
        if not scan.is_text:
            where = f"{scan.files[0]}: its column {column}"
            typed.setdefault(id_type(scan.rows[column], where), where)
    if asked != "auto":
        return asked
    if len(typed) == 2:
        raise CadcError(
            f"{typed['integer']} is a number, and {typed['string'].replace(': its', ',')} is text; "
            f"write both alike, or set data.tables.{side}_ids to 'integer' or 'string'."
        )
    if typed:
        return next(iter(typed))
    for scan, column in found:
        counts = count_matches(scan.rows, column, {"integer": INTEGER})
        if counts["integer"] < counts["known"]:
            log.info("%s ids are taken as text: not all in %s are whole numbers", side, column)
            return "string"
    return "integer"


def _interactions(
    config: TablesConfig, scan: Scan, user_kind: IdKind, item_kind: IdKind
) -> tuple[ir.Table, dict[str, int]]:
    """Columns user_id, item_id, row and, where there is time, timestamp; counts of other rows."""
    i = config.interactions
    raw = scan.rows
    typed = {
        "user_id": id_column(raw[i.user], i.user, user_kind),
        "item_id": id_column(raw[i.item], i.item, item_kind),
    }
    if i.timestamp:
        kind = time_kind(raw, i.timestamp, f"{scan.files[0]}: its column {i.timestamp}")
        typed["timestamp"] = time_column(raw[i.timestamp], i.timestamp, kind)
    if i.rating:
        typed["rating"] = number_column(raw[i.rating], i.rating, required=i.min_rating is not None)
    rows, counts = checked(scan, typed)
    if i.min_rating is not None:
        kept = rows.filter(rows["rating"] >= i.min_rating)
        counts["below_min_rating"] = counts["rows_read"] - int(kept.count().to_pyarrow().as_py())
        rows = kept
        if counts["below_min_rating"] == counts["rows_read"]:
            raise CadcError(
                f"data.tables.interactions.min_rating = {i.min_rating} leaves no interaction at "
                "all; lower it."
            )
    return rows.rename(row=ROW).drop(FILE, FILE_ROW), counts


def _entities(
    scan: Scan,
    config: EntityTable,
    attributes: Mapping[str, AttributeColumn],
    side: Side,
    kind: IdKind,
) -> ir.Table:
    """The id, the title where there is one, and the attributes, under the dataset's names."""
    raw = scan.rows
    typed: dict[str, Typed] = {f"{side}_id": id_column(raw[config.id], config.id, kind)}
    title = getattr(config, "title", "")
    if title:
        typed["title"] = Typed(title, raw[title].cast("string").nullif(""), ibis.null("string"))
    for column, attribute in attributes.items():
        where = f"{scan.files[0]}: its column {column}"
        known = without(raw[column], config.missing)
        typed[attribute.name] = attribute_column(
            known, column, attribute.kind, config.separator, where
        )
    rows, _ = checked(scan, typed, unique=f"{side}_id")
    return rows.drop(ROW, FILE, FILE_ROW)
