"""Converts a column's values to the type that the preparation wants, or says why it cannot.

In: a column as it stands in the files. Out: a `Typed`: the converted expression, and for each row
what keeps its value from being converted, null where nothing does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from cadc_rec.config.tables import IdForm
from cadc_rec.data.id_forms import SPACES, WHOLE
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.errors import CadcError

# Text is checked before it is cast: DuckDB reads "1.5" as the integer 2, and "0x10" as 16.
INTEGER = r"^(0|-?[1-9][0-9]*)$"  # of any length: whether it fits 64 bits, the cast says
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
NAN = r"^[+-]?[nN][aA][nN]$"  # how programs write a missing number as text
_WHOLE_DECIMAL = r"^-?[0-9]+(\.0+)?$"
TIMESTAMP = r"^[0-9]{4,6}-[0-9]{1,2}-[0-9]{1,2}([T ].*)?$"
_MICRO = 1_000_000
EXACT = 2.0**53  # beyond it, a float no longer holds every whole number
_MAX_SECONDS = 9.2e12  # beyond it, microseconds do not fit into 64 bits
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-6, 1e9
_SHOWN = 60  # characters of a bad value worth showing

_YEAR_1000 = -30_610_224_000 * _MICRO
"""The first time that a format of the config may give: its %Y takes 24 for the year 24."""

TimeKind = Literal["integer", "number", "timestamp"]


@dataclass(frozen=True)
class Typed:
    """A column, converted."""

    column: str
    value: ir.Column
    fault: ir.StringColumn
    """What is wrong with a row's value; null where nothing is."""


def id_column(raw: ir.Column, name: str, kind: Literal["integer", "string"]) -> Typed:
    """An id: int64 or text. Every row must have one."""
    if kind == "string":
        value = raw.cast("string").nullif("")
        return Typed(name, value, fault_of(raw, value, name, "text", required=True))
    words = "a whole number of 64 bits"
    if raw.type().is_floating():
        words = "a whole number of at most 2^53, beyond which floats run together"
    value = whole_number(raw)
    return Typed(name, value, fault_of(raw, value, name, words, required=True))


def in_id_form(raw: ir.Column, forms: Sequence[IdForm]) -> ir.Column:
    """A column of ids as text in the forms that are named; see `cadc_rec.data.id_forms`.

    What is no text has but one form, unless numbers are to be like those of text.
    """
    if not forms or not (raw.type().is_string() or "integer-like" in forms):
        return raw
    if raw.type().is_floating() and "integer-like" in forms:
        # DuckDB writes 1e17 for a large one, which no pattern takes for a whole number.
        whole = (raw == raw.round()) & (raw.abs() < EXACT)
        text = ibis.cases((whole, raw.cast("int64").cast("string")), else_=raw.cast("string"))
        return ibis.cases((~raw.isnan(), text))
    text = raw.cast("string")
    if "trim" in forms:
        text = trim(text, SPACES)
    if "nfc" in forms:
        text = nfc_normalize(text)
    if "integer-like" in forms:
        text = text.re_replace(WHOLE, r"\1\2")
        text = ibis.cases((text == "-0", "0"), else_=text)
    return text


def id_type(
    raw: ir.Column, where: str, side: Side, asked: Literal["auto", "integer", "string"]
) -> Literal["integer", "string"]:
    """What a typed column's ids are.

    Args:
        raw: the column.
        where: it is, for messages.
        side: whose ids they are.
        asked: ``data.tables.user_ids`` or ``item_ids``.

    Raises:
        CadcError: neither integers nor text, nor numbers that are asked for as integers; names the
            column.
    """
    kind = raw.type()
    if kind.is_integer():
        return "integer"
    if kind.is_string() or kind.is_uuid():
        return "string"
    if kind.is_floating() or kind.is_decimal():
        if asked == "integer":
            return "integer"
        if asked == "string" and kind.is_decimal() and kind.scale == 0:
            return "string"
        hint = " (a missing id makes pandas write numbers with a point)"
        raise CadcError(
            f"{where} is {kind}{hint if kind.is_floating() else ''}; ids are integers or text: set "
            f"data.tables.{side}_ids = 'integer' if all are whole numbers, or write it as one of "
            "them."
        )
    raise CadcError(f"{where} is {kind}; ids are integers or text: write it as one of them.")


def whole_number(raw: ir.Column) -> ir.IntegerColumn:
    """The column as int64; null where it is no whole number, or one that does not fit.

    A cast alone would round 1.5, and a float beyond 2^53 may stand for several whole numbers.
    """
    kind = raw.type()
    if kind.is_string():
        return ibis.cases((raw.re_search(INTEGER), raw.try_cast("int64")))
    if kind.is_floating():
        whole = (raw.abs() <= EXACT) & (raw == raw.floor())
        return ibis.cases((whole, raw.try_cast("int64")))
    if kind.is_decimal():
        return ibis.cases(
            (raw.cast("string").re_search(_WHOLE_DECIMAL), raw.try_cast("int64")),
        )
    return raw.try_cast("int64")


def time_kind(rows: ir.Table, column: str, where: str) -> TimeKind:
    """How a column writes times; for text, the form that most values have.

    Raises:
        CadcError: a type that cannot hold times; names the column.
    """
    kind = rows[column].type()
    if kind.is_string():
        patterns = {"integer": INTEGER, "number": NUMBER, "timestamp": TIMESTAMP}
        counts = count_matches(rows, column, patterns)
        if counts["timestamp"] > counts["number"] or not counts["number"]:
            return "timestamp"
        return "integer" if counts["integer"] == counts["number"] else "number"
    if kind.is_integer():
        return "integer"
    if kind.is_floating() or kind.is_decimal():
        return "number"
    if kind.is_date() or kind.is_timestamp():
        return "timestamp"
    raise CadcError(f"{where} is {kind}; times are whole numbers, numbers, dates or datetimes.")


def time_column(raw: ir.Column, name: str, kind: TimeKind) -> Typed:
    """A time: int64, whole numbers as they are, others as microseconds. Every row must have one."""
    if kind == "integer":
        value = whole_number(raw)
        words = "a whole number of 64 bits"
        return Typed(name, value, fault_of(raw, value, name, words, required=True))
    if kind == "number":
        seconds = as_number(raw)
        inside = seconds.abs() < _MAX_SECONDS
        value = ibis.cases((inside, (seconds * _MICRO).round().cast("int64")))
        words, missing = "a number of seconds", _no_number(raw)
        fault = fault_of(raw, value, name, words, required=True, missing=missing)
        return Typed(name, value, fault)
    parsed = raw.try_cast("timestamp('UTC')")
    if raw.type().is_string():
        parsed = ibis.cases((raw.re_search(TIMESTAMP), parsed))
    value = ibis.cases((isfinite(parsed), epoch_us(parsed)))
    words = "a date or datetime"
    if raw.type().is_string():
        words += " like 2024-01-31; another form is named by data.tables.interactions.format"
    return Typed(name, value, fault_of(raw, value, name, words, required=True))


def formatted_time(raw: ir.Column, name: str, form: str, where: str) -> Typed:
    """A time written as `form` says, in microseconds. Every row must have one.

    Raises:
        CadcError: a column that is neither text nor whole numbers, or a form that DuckDB does not
            know; names the column.
    """
    key = "data.tables.interactions.format"
    if not (raw.type().is_string() or raw.type().is_integer()):
        raise CadcError(f"{where} is {raw.type()}, which needs no format; take {key} out.")
    try:
        with duckdb.connect() as connection:
            connection.execute("SELECT try_strptime('', ?)", [form])
    except duckdb.Error as error:
        reason = str(error).splitlines()[0].rpartition(": ")[2]
        raise CadcError(
            f"{key} = {form!r}: is not a form of times ({reason}); write it like '%m/%d/%Y'."
        ) from None
    value = formatted_micros(raw.cast("string"), form)
    return Typed(name, value, fault_of(raw, value, name, f"a time like {form}", required=True))


def formatted_micros(text: ir.StringColumn, form: str) -> ir.IntegerColumn:
    """Microseconds since 1970 of a text in a form, UTC where it names no zone; null in others."""
    parsed = try_strptime(text, form).cast("timestamp('UTC')")
    micros = ibis.cases((isfinite(parsed), epoch_us(parsed)))
    return ibis.cases((micros >= _YEAR_1000, micros))


def number_column(raw: ir.Column, name: str, *, required: bool) -> Typed:
    """A finite number, float64; NaN counts as missing."""
    number = as_number(raw)
    value = ibis.cases((~(number.isinf() | number.isnan()), number))
    fault = fault_of(
        raw, value, name, "a finite number", required=required, missing=_no_number(raw)
    )
    return Typed(name, value, fault)


def weight_column(raw: ir.Column, name: str) -> Typed:
    """A weight: float64, above 0. Every row must have one."""
    number = as_number(raw)
    # A weight below half of the unit that weights are added up in would be rounded to 0.
    value = ibis.cases(((number >= _LEAST_WEIGHT) & (number <= _MOST_WEIGHT), number))
    words = "a number above 0 and at most a billion"
    fault = fault_of(raw, value, name, words, required=True, missing=_no_number(raw))
    return Typed(name, value, fault)


def number_or_time(raw: ir.Column, name: str) -> Typed:
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
def epoch_us(time: ir.TimestampValue) -> ir.IntegerValue:
    """Microseconds since 1970."""
    raise NotImplementedError  # DuckDB carries it out


@ibis.udf.scalar.builtin(signature=((dt.Timestamp("UTC"),), dt.boolean))
def isfinite(time: ir.TimestampValue) -> ir.BooleanValue:
    """Whether a time is neither of DuckDB's two infinities."""
    raise NotImplementedError  # DuckDB carries it out


@ibis.udf.scalar.builtin
def trim(text: str, characters: str) -> str:
    """The text without these characters around it."""
    raise NotImplementedError  # DuckDB carries it out


@ibis.udf.scalar.builtin
def nfc_normalize(text: str) -> str:
    """The text in Unicode's normal form C."""
    raise NotImplementedError  # DuckDB carries it out


@ibis.udf.scalar.builtin(signature=((dt.string, dt.string), dt.timestamp))
def try_strptime(text: ir.StringValue, form: str) -> ir.TimestampValue:
    """The time that a text gives in a form; null where it has another one."""
    raise NotImplementedError  # DuckDB carries it out


@ibis.udf.scalar.builtin(signature=((dt.string,), dt.boolean))
def json_valid(text: ir.StringValue) -> ir.BooleanValue:
    """Whether a text is JSON."""
    raise NotImplementedError  # DuckDB carries it out


def as_number(raw: ir.Column) -> ir.FloatingColumn:
    """The column as float64, which may be NaN or infinite; of text, null where it is no number."""
    if raw.type().is_string():
        return ibis.cases((raw.re_search(NUMBER), raw.try_cast("float64")))
    return raw.cast("float64")


def _missing(raw: ir.Column) -> ir.BooleanColumn:
    """Whether nothing stands in a row: null, empty text, or NaN."""
    if raw.type().is_string():
        return raw.isnull() | (raw == "")
    return raw.isnull() | raw.isnan() if raw.type().is_floating() else raw.isnull()


def _no_number(raw: ir.Column) -> ir.BooleanColumn:
    """Whether no number stands in a row: it is missing, or text that writes NaN out."""
    missing = _missing(raw)
    return missing | raw.re_search(NAN) if raw.type().is_string() else missing


def fault_of(
    raw: ir.Column,
    value: ir.Column,
    name: str,
    words: str,
    *,
    required: bool,
    missing: ir.BooleanColumn | None = None,
) -> ir.StringColumn:
    """Why `value` is null: the raw value is missing, or is not what it should be."""
    if missing is None:
        missing = _missing(raw)
    shown = raw.cast("string").substr(0, _SHOWN)
    wrong = ibis.literal(f"{name} is '") + shown + ibis.literal(f"', not {words}")
    absent = ibis.literal(f"{name} is missing") if required else ibis.null("string")
    return ibis.cases((missing, absent), (value.isnull(), wrong))
