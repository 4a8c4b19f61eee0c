"""Attribute columns of the users' and items' tables, as the preparation takes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import ibis
import ibis.expr.types as ir

from cadc_rec.config.tables import EntityTable
from cadc_rec.data.sources.raw_tables import AttributeColumn, AttributeKind, Side
from cadc_rec.data.tables.columns import Typed, number_or_moment
from cadc_rec.errors import CadcError

# Columns the prepared tables have already.
_TAKEN = ("user", "item", "user_id", "item_id", "title")


def declared(config: EntityTable, side: Side) -> dict[str, AttributeColumn]:
    """The attributes that the configuration names, by column.

    Raises:
        CadcError: a column is named twice, or two columns would get one name.
    """
    found: dict[str, AttributeColumn] = {}
    for column, kind in _named(config):
        name = attribute_name(column)
        section = f"data.tables.{side}s"
        if column in found:
            raise CadcError(f"{section}: names the column {column!r} twice; name it once.")
        if any(other.name == name for other in found.values()):
            raise CadcError(f"{section}: the columns {name!r} and {column!r} differ in signs only.")
        codes = {"numeric": config.buckets, "hashed": config.hash_codes}
        found[column] = AttributeColumn(name, side, kind, codes.get(kind, 0))
    return found


def _named(config: EntityTable) -> Iterator[tuple[str, AttributeKind]]:
    yield from ((column, "categorical") for column in config.categorical)
    yield from ((column, "multi") for column in config.multi)
    yield from ((column, "numeric") for column in config.numeric)
    yield from ((column, "hashed") for column in config.hashed)


def attribute_name(column: str) -> str:
    """What the dataset calls a column: letters, digits and _, as the models' tables want it."""
    name = re.sub(r"\W", "_", column)
    return f"{name}_" if name in _TAKEN else name


def without(raw: ir.Column, missing: Sequence[str]) -> ir.Column:
    """The column, null where its text is one of `missing`."""
    if not raw.type().is_string() or not missing:
        return raw
    return ibis.cases((raw.notin(missing), raw))


def attribute_column(
    raw: ir.Column, column: str, kind: AttributeKind, separator: str, where: str
) -> Typed:
    """A column as its kind takes it: a value, a sorted list of distinct values, or a number.

    Raises:
        CadcError: a type the kind cannot take; names the column.
    """
    type_ = raw.type()
    if kind == "multi":
        if type_.is_string():
            parts = raw.split(separator)
        elif type_.is_array() and not type_.value_type.is_nested():
            parts = raw.map(lambda part: part.cast("string"))
        else:
            raise CadcError(f"{where} is {type_}; several values are a list, or text.")
        return _without_fault(column, _distinct(parts))
    if type_.is_nested() or type_.is_binary():
        raise CadcError(f"{where} is {type_}, which cannot be {kind}; leave it out or convert it.")
    if kind == "numeric":
        if type_.is_boolean() or type_.is_time():
            raise CadcError(f"{where} is {type_}; make it categorical.")
        return number_or_moment(raw, column)
    if type_.is_integer() and not type_.is_unsigned_integer() and kind != "hashed":
        return _without_fault(column, raw.cast("int64"))
    if type_.is_floating():
        raw = ibis.cases((~raw.isnan(), raw))
    return _without_fault(column, raw.cast("string").nullif(""))


def _distinct(parts: ir.ArrayValue) -> ir.ArrayValue:
    stripped = parts.map(lambda part: part.strip())
    return stripped.filter(lambda part: part.notnull() & (part != "")).unique().sort()


def _without_fault(column: str, value: ir.Value) -> Typed:
    return Typed(column, value, ibis.null("string"))
