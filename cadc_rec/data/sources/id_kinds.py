"""Whether a side's ids are integers or text: one kind for all tables that have them.

In: the columns of ids of the user's tables. Out: what the config asks for; else what the files'
types say; else, where text has no types, integers only if every id is a whole number of 64 bits.
"""

from __future__ import annotations

from typing import Literal

from cadc_rec.config.tables import IdType
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.data.tables.columns import id_type, whole_number
from cadc_rec.data.tables.scan import Scan
from cadc_rec.errors import CadcError
from cadc_rec.log import log

IdKind = Literal["integer", "string"]


def id_kind(
    side: Side,
    asked: IdType,
    columns: list[tuple[Scan | None, str]],
    *,
    untyped: bool,
) -> IdKind:
    """One type for a side's ids in every table that has them.

    Args:
        side: whose.
        asked: the setting.
        columns: the tables, and which column of each.
        untyped: whether ids are text whose form alone counts, whatever the files' types.

    Raises:
        CadcError: one table's ids are integers and another's text, by their files' types.
    """
    found = [(scan, column) for scan, column in columns if scan is not None]
    typed: dict[IdKind, str] = {}
    for scan, column in found:
        if column in scan.empty:  # its type says nothing of the ids
            continue
        kind = scan.rows[column].type()
        written = kind.is_string() or (kind.is_numeric() and not kind.is_boolean())
        if not scan.is_text and not (untyped and written):
            where = f"{scan.files[0]}: its column {column}"
            typed.setdefault(id_type(scan.rows[column], where, side, asked), where)
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
        raw = scan.rows[column]
        counts = scan.rows.aggregate(known=raw.count(), whole=whole_number(raw).count())
        known, whole = counts.to_pyarrow().to_pylist()[0].values()
        if whole < known:
            log.info(
                "%s ids are taken as text: %d of %d in %s are no whole numbers of 64 bits",
                side,
                known - whole,
                known,
                column,
            )
            return "string"
    return "integer"
