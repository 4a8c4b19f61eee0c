"""Converts the columns that stay numbers: vectors, and numbers that the towers read as they are.

In: a column as it stands in the files. Out: a `Typed`: a list of float32 numbers, a text that will
be encoded, or a float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import ibis
import ibis.expr.types as ir

from cadc_rec.config.tables import EntityTable
from cadc_rec.data.dense import NUMBERS
from cadc_rec.data.sources.raw_tables import (
    AttributeColumn,
    DenseColumn,
    DenseKind,
    Side,
    attribute_name,
)
from cadc_rec.data.tables.columns import Typed, number_or_time
from cadc_rec.errors import CadcError


def declared_dense(
    config: EntityTable, side: Side, coded: Mapping[str, AttributeColumn]
) -> list[DenseColumn]:
    """The columns that the configuration wants as numbers; `coded` has the attributes, by column.

    Raises:
        CadcError: a column is named twice, or two columns would get one name.
    """
    found: list[DenseColumn] = []
    section = f"data.tables.{side}s"
    kinds: tuple[tuple[DenseKind, Sequence[str]], ...] = (
        ("vector", config.vector),
        ("text", config.text),
        ("continuous", config.continuous),
    )
    for kind, columns in kinds:
        for column in columns:
            name = attribute_name(column)
            name = f"{name}_" if name == NUMBERS else name
            if column in coded or any(column == other.column for other in found):
                raise CadcError(f"{section}: names the column {column!r} twice; name it once.")
            taken = {each.name for each in coded.values()} | {each.name for each in found}
            if name in taken:
                raise CadcError(
                    f"{section}: the column {column!r} and another one differ in signs only."
                )
            found.append(DenseColumn(name, side, kind, column))
    return found


def with_width(column: DenseColumn, rows: ir.Table, where: str, usual: int = 0) -> DenseColumn:
    """The same with the width that most of its vectors have.

    Args:
        column: the declaration; one of another kind is returned as it is.
        rows: the source's.
        where: the column is, for messages.
        usual: width of the dataset's own vectors, where rows come after it: these may all lack one.

    Raises:
        CadcError: no lists of numbers, or no row has one.
    """
    if column.kind != "vector":
        return column
    raw = rows[column.column]
    if usual and not rows.aggregate(known=raw.count()).to_pyarrow()["known"][0].as_py():
        return replace(column, width=usual)  # a column of nulls may be of any type
    kind = raw.type()
    numbers = kind.is_array() and (kind.value_type.is_numeric() or kind.value_type.is_string())
    if not numbers:
        raise CadcError(
            f"{where} is {kind}; a vector is a list of numbers (Parquet, Arrow or JSON Lines)."
        )
    width = rows.aggregate(width=raw.length().mode()).to_pyarrow()["width"][0].as_py()
    if not width:
        raise CadcError(f"{where} has no vector in any row; leave it out.")
    return replace(column, width=int(width))


def dense_column(raw: ir.Column, column: DenseColumn, where: str) -> Typed:
    """A column as its kind takes it.

    Args:
        raw: the column.
        column: its declaration, with its width.
        where: the column is, for messages.

    Raises:
        CadcError: a type the kind cannot take; names the column.
    """
    if column.kind == "vector":
        return _vector(raw, column)
    kind = raw.type()
    if column.kind == "text":
        if not kind.is_string():
            raise CadcError(
                f"{where} is {kind}, and not text; name it in continuous or categorical."
            )
        return Typed(column.column, raw.strip().nullif(""), ibis.null("string"))
    if kind.is_nested() or kind.is_binary() or kind.is_boolean() or kind.is_time():
        raise CadcError(f"{where} is {kind}, which cannot be continuous; make it categorical.")
    return number_or_time(raw, column.column)


def _vector(raw: ir.Column, column: DenseColumn) -> Typed:
    """A vector; without a direction it says nothing."""
    if not raw.type().is_array():  # nulls alone, see `with_width`
        return Typed(column.column, ibis.null("array<float32>"), ibis.null("string"))
    value = raw.try_cast("array<float32>")
    length = raw.length()
    wrong = value.filter(lambda x: x.isnull() | x.isnan() | x.isinf()).length()
    given = value.filter(lambda x: x != 0).length()
    name = column.column
    others = f" numbers, and the vectors of most rows have {column.width}"
    fault = ibis.cases(
        (raw.isnull(), ibis.null("string")),
        (length != column.width, ibis.literal(f"{name} has ") + length.cast("string") + others),
        (value.isnull() | (wrong > 0), f"{name} holds NaN or another value that is no number"),
        (given == 0, f"{name} holds zeros alone, which point nowhere"),
        else_=ibis.null("string"),
    )
    return Typed(name, value, fault)
