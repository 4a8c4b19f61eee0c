"""A column's values as the type the preparation wants, or why a value is none.

In: a column as it stands in the files. Out: a `Typed`: the converted expression, and for each row
the fault that keeps it from being converted, null where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from cadc_rec.errors import CadcError

# Text is checked before it is cast: DuckDB reads "1.5" as the integer 2, and "0x10" as 16.
INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
MOMENT = r"^[0-9]{4,6}-[0-9]{1,2}-[0-9]{1,2}([T ].*)?$"
_MICRO = 1_000_000
_MAX_SECONDS = 9.2e12  # beyond it, microseconds do not fit into 64 bits
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-6, 1e9
_SHOWN = 60  # characters of a bad value worth showing

TimeKind = Literal["integer", "number", "moment"]


@dataclass(frozen=True)
class Typed:
    """A column, converted."""

    column: str
    value: ir.Column
    fault: ir.StringColumn
    """What is wrong with a row's value; null where nothing is."""


def id_column(raw: ir.Column, name: str, kind: Literal["integer", "string"]) -> Typed:
    """An id, which no row may lack: int64 or text."""
    if kind == "string":
        value = raw.cast("string").nullif("")
        return Typed(name, value, _fault(raw, value, name, "text", required=True))
    if raw.type().is_string():
        value = ibis.cases((raw.re_search(INTEGER), raw.cast("int64")))
    else:
        value = raw.try_cast("int64")
    words = "a whole number of 64 bits"
    return Typed(name, value, _fault(raw, value, name, words, required=True))


def id_type(raw: ir.Column, where: str) -> Literal["integer", "string"]:
    """What a typed column's ids are.

    Raises:
        CadcError: neither integers nor text; names the column.
    """
    kind = raw.type()
    if kind.is_integer():
        return "integer"
    if kind.is_string() or kind.is_uuid():
        return "string"
    hint = " (a missing id makes pandas write numbers with a point)" if kind.is_floating() else ""
    raise CadcError(f"{where} is {kind}{hint}; ids are integers or text: write it as one of them.")


def time_kind(rows: ir.Table, column: str, where: str) -> TimeKind:
    """How a column tells the time; of text, what most values look like.

    Raises:
        CadcError: a type that tells no time; names the column.
    """
    kind = rows[column].type()
    if kind.is_string():
        patterns = {"integer": INTEGER, "number": NUMBER, "moment": MOMENT}
        counts = count_matches(rows, column, patterns)
        if counts["moment"] > counts["number"]:
            return "moment"
        return "integer" if counts["integer"] == counts["number"] else "number"
    if kind.is_integer():
        return "integer"
    if kind.is_floating() or kind.is_decimal():
        return "number"
    if kind.is_date() or kind.is_timestamp():
        return "moment"
    raise CadcError(f"{where} is {kind}; times are whole numbers, numbers, dates or datetimes.")


def time_column(raw: ir.Column, name: str, kind: TimeKind) -> Typed:
    """A time, which no row may lack: int64, whole numbers as they are, others microseconds."""
    is_text = raw.type().is_string()
    if kind == "integer":
        value = (
            ibis.cases((raw.re_search(INTEGER), raw.cast("int64")))
            if is_text
            else raw.try_cast("int64")
        )
        return Typed(name, value, _fault(raw, value, name, "a whole number", required=True))
    if kind == "number":
        seconds = _number(raw)
        inside = seconds.abs() < _MAX_SECONDS
        value = ibis.cases((inside, (seconds * _MICRO).round().cast("int64")))
        return Typed(name, value, _fault(raw, value, name, "a number of seconds", required=True))
    if is_text:
        parsed = ibis.cases((raw.re_search(MOMENT), raw.try_cast("timestamp('UTC')")))
    else:
        parsed = raw.cast("timestamp('UTC')")
    value = ibis.cases((isfinite(parsed), epoch_us(parsed)))
    return Typed(name, value, _fault(raw, value, name, "a date or datetime", required=True))


def number_column(raw: ir.Column, name: str, *, required: bool) -> Typed:
    """A finite number, float64; NaN is a missing one."""
    number = _number(raw)
    value = ibis.cases((~(number.isinf() | number.isnan()), number))
    missing = raw.isnull() if raw.type().is_string() else raw.isnull() | number.isnan()
    return Typed(
        name, value, _fault(raw, value, name, "a finite number", required=required, missing=missing)
    )


def weight_column(raw: ir.Column, name: str) -> Typed:
    """A weight, which no row may lack: float64, above 0."""
    number = _number(raw)
    # Less than half of the unit that weights are added up in would be nothing.
    value = ibis.cases(((number >= _LEAST_WEIGHT) & (number <= _MOST_WEIGHT), number))
    words = "a number above 0 and at most a billion"
    return Typed(name, value, _fault(raw, value, name, words, required=True))


def number_or_moment(raw: ir.Column, name: str) -> Typed:
    """A number that may be missing; a date or datetime is its seconds since 1970."""
    if raw.type().is_date() or raw.type().is_timestamp():
        raw = epoch_us(raw.cast("timestamp('UTC')")) / _MICRO
    return number_column(raw, name, required=False)


def count_matches(rows: ir.Table, column: str, patterns: Mapping[str, str]) -> dict[str, int]:
    """How many of a column's texts hold each pattern, and under ``known`` how many there are."""
    matches = {key: rows[column].re_search(pattern).sum() for key, pattern in patterns.items()}
    counts = rows.aggregate(known=rows[column].count(), **matches).to_pyarrow().to_pylist()[0]
    return {key: int(value or 0) for key, value in counts.items()}


# DuckDB's own functions, which Ibis has no names for.
@ibis.udf.scalar.builtin(signature=((dt.Timestamp("UTC"),), dt.int64))
def epoch_us(moment: ir.TimestampValue) -> ir.IntegerValue:
    """Microseconds since 1970."""
    raise NotImplementedError  # DuckDB carries it out


@ibis.udf.scalar.builtin(signature=((dt.Timestamp("UTC"),), dt.boolean))
def isfinite(moment: ir.TimestampValue) -> ir.BooleanValue:
    """Whether a moment is none of DuckDB's two infinities."""
    raise NotImplementedError  # DuckDB carries it out


def _number(raw: ir.Column) -> ir.FloatingColumn:
    if raw.type().is_string():
        return ibis.cases((raw.re_search(NUMBER), raw.try_cast("float64")))
    return raw.cast("float64")


def _fault(
    raw: ir.Column,
    value: ir.Column,
    name: str,
    words: str,
    *,
    required: bool,
    missing: ir.BooleanColumn | None = None,
) -> ir.StringColumn:
    """Why `value` is null: the raw one is missing, or is not what it should be."""
    if missing is None:
        missing = raw.isnull()
        if raw.type().is_string():
            missing = missing | (raw == "")
    shown = raw.cast("string").substr(0, _SHOWN)
    wrong = ibis.literal(f"{name} is '") + shown + ibis.literal(f"', not {words}")
    absent = ibis.literal(f"{name} is missing") if required else ibis.null("string")
    return ibis.cases((missing, absent), (value.isnull(), wrong))
