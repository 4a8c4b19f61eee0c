"""Converts the columns of attributes to what each kind takes.

In: a column as it stands in the files; of a day, also the `Form` of the values that the dataset
has. Out: a `Typed`. Values are told apart as values: no NaN is one, and -0.0 is 0.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import ibis
import ibis.expr.types as ir

from cadc_rec.config.tables import EntityTable
from cadc_rec.data.sources.raw_tables import AttributeColumn, AttributeKind, Side, attribute_name
from cadc_rec.data.tables.columns import Typed, fault_of, json_valid, number_or_time
from cadc_rec.data.tables.forms import Form, text_of
from cadc_rec.errors import CadcError

_JSON_LIST = r"^\s*\["
_ESCAPED = r"\\[^\\'\"]"


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
    yield from ((column, "multi") for column in (*config.multi, *config.lists))
    yield from ((column, "numeric") for column in config.numeric)
    yield from ((column, "hashed") for column in config.hashed)


def without(raw: ir.Column, missing: Sequence[str]) -> ir.Column:
    """The column, null where its text is one of `missing`."""
    if not raw.type().is_string() or not missing:
        return raw
    return ibis.cases((raw.notin(missing), raw))


def attribute_column(
    raw: ir.Column,
    column: str,
    kind: AttributeKind,
    separator: str | None,
    where: str,
    form: Form | None = None,
) -> Typed:
    """A column as its kind takes it: a value, a sorted list of distinct values, or a number.

    Args:
        raw: the column.
        column: its name.
        kind: of the attribute.
        separator: between the values of a text; None where the text is a list itself.
        where: the column is, for messages.
        form: of the values that a dataset has already; these are written in the same one.

    Raises:
        CadcError: a type the kind cannot take; names the column.
    """
    type_ = raw.type()
    if kind == "multi":
        if type_.is_string() and separator is None:
            return _list_column(raw, column, form)
        if type_.is_string():
            parts = raw.split(separator).map(lambda part: text_of(part.strip(), form))
        elif type_.is_array() and not type_.value_type.is_nested():
            parts = raw.map(lambda part: text_of(part, form).strip())
        else:
            raise CadcError(f"{where} is {type_}; several values are a list, or text.")
        return _without_fault(column, _distinct(parts))
    if type_.is_nested() or type_.is_binary():
        raise CadcError(f"{where} is {type_}, which cannot be {kind}; leave it out or convert it.")
    if kind == "numeric":
        if type_.is_boolean() or type_.is_time():
            raise CadcError(f"{where} is {type_}; make it categorical.")
        return number_or_time(raw, column)
    same = form is None or form.type.is_integer()
    if type_.is_integer() and not type_.is_unsigned_integer() and kind != "hashed" and same:
        return _without_fault(column, raw.cast("int64"))
    return _without_fault(column, text_of(raw, form).nullif(""))


def _list_column(raw: ir.StringColumn, column: str, form: Form | None) -> Typed:
    """The values of texts such as ``['a', 'b']`` or, as JSON, ``["a", "b"]``."""
    parts = list_parts(raw)
    words = "a list such as ['a', 'b']"
    wrong = fault_of(raw, parts, column, words, required=False)
    return Typed(column, _distinct(parts.map(lambda part: text_of(part.strip(), form))), wrong)


def list_parts(raw: ir.StringColumn) -> ir.ArrayValue:
    """The values of each text that is a list, as Python writes it or JSON; null for other texts."""
    from_json = raw.cast("json").cast("array<string>")
    return ibis.cases(
        (raw.re_search(_JSON_LIST) & json_valid(raw), from_json),
        # DuckDB takes any letter after a backslash for itself; Python means a line end by \n.
        (~raw.re_search(_ESCAPED), raw.try_cast("array<string>")),
    )


def _distinct(parts: ir.ArrayValue) -> ir.ArrayValue:
    return parts.filter(lambda part: part.notnull() & (part != "")).unique().sort()


def _without_fault(column: str, value: ir.Value) -> Typed:
    return Typed(column, value, ibis.null("string"))


def with_types(
    attributes: Mapping[str, AttributeColumn], rows: ir.Table
) -> dict[str, AttributeColumn]:
    """The declarations with the type that each column's values have in the files."""
    found = {}
    for column, attribute in attributes.items():
        type_ = rows[column].type()
        type_ = type_.value_type if type_.is_array() else type_
        found[column] = attribute.of_type(str(type_.copy(nullable=True)))
    return found
