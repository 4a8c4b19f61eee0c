"""Converts a column's values to the type that the preparation wants, or says why it cannot.

In: a column as it stands in the files. Out: a `Typed`: the converted expression, and for each row
what keeps its value from being converted, null where nothing does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from cadc_rec.config.tables import EntityTable, IdForm
from cadc_rec.data.id_forms import SPACES, WHOLE
from cadc_rec.data.sources.raw_tables import AttributeColumn, AttributeKind, Side
from cadc_rec.errors import CadcError

# Text is checked before it is cast: DuckDB reads "1.5" as the integer 2, and "0x10" as 16.
INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
TIMESTAMP = r"^[0-9]{4,6}-[0-9]{1,2}-[0-9]{1,2}([T ].*)?$"
_JSON_LIST = r"^\s*\["
_ESCAPED = r"\\[^\\'\"]"
_MICRO = 1_000_000
_MAX_SECONDS = 9.2e12  # beyond it, microseconds do not fit into 64 bits
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-6, 1e9
_EXACT = 2**53  # below it, a float64 holds every whole number
_SHOWN = 60  # characters of a bad value worth showing
_TAKEN = ("user", "item", "user_id", "item_id", "title")  # columns of every prepared dataset

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
        return Typed(name, value, _fault(raw, value, name, "text", required=True))
    if raw.type().is_string():
        value = ibis.cases((raw.re_search(INTEGER), raw.cast("int64")))
    else:
        value = raw.try_cast("int64")
    words = "a whole number of 64 bits"
    return Typed(name, value, _fault(raw, value, name, words, required=True))


def in_id_form(raw: ir.Column, forms: Sequence[IdForm]) -> ir.Column:
    """A column of ids as text in the forms that are named; see `cadc_rec.data.id_forms`.

    What is no text has but one form, unless numbers are to be like those of text.
    """
    if not forms or not (raw.type().is_string() or "integer-like" in forms):
        return raw
    if raw.type().is_floating() and "integer-like" in forms:
        # DuckDB writes 1e17 for a large one, which no pattern takes for a whole number.
        whole = (raw == raw.round()) & (raw.abs() < _EXACT)
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
        parsed = ibis.cases((raw.re_search(TIMESTAMP), raw.try_cast("timestamp('UTC')")))
    else:
        parsed = raw.cast("timestamp('UTC')")
    value = ibis.cases((isfinite(parsed), epoch_us(parsed)))
    words = "a date or datetime"
    if is_text:
        words += " like 2024-01-31; another form is named by data.tables.interactions.format"
    return Typed(name, value, _fault(raw, value, name, words, required=True))


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
            f"{key} = {form!r}: is no form of times ({reason}); write it like '%m/%d/%Y'."
        ) from None
    value = formatted_micros(raw.cast("string"), form)
    return Typed(name, value, _fault(raw, value, name, f"a time like {form}", required=True))


def formatted_micros(text: ir.StringColumn, form: str) -> ir.IntegerColumn:
    """Microseconds since 1970 of a text in a form, UTC where it names no zone; null in others."""
    parsed = try_strptime(text, form).cast("timestamp('UTC')")
    micros = ibis.cases((isfinite(parsed), epoch_us(parsed)))
    return ibis.cases((micros >= _YEAR_1000, micros))


def number_column(raw: ir.Column, name: str, *, required: bool) -> Typed:
    """A finite number, float64; NaN counts as missing."""
    number = _number(raw)
    value = ibis.cases((~(number.isinf() | number.isnan()), number))
    missing = raw.isnull() if raw.type().is_string() else raw.isnull() | number.isnan()
    return Typed(
        name, value, _fault(raw, value, name, "a finite number", required=required, missing=missing)
    )


def weight_column(raw: ir.Column, name: str) -> Typed:
    """A weight: float64, above 0. Every row must have one."""
    number = _number(raw)
    # A weight below half of the unit that weights are added up in would be rounded to 0.
    value = ibis.cases(((number >= _LEAST_WEIGHT) & (number <= _MOST_WEIGHT), number))
    words = "a number above 0 and at most a billion"
    return Typed(name, value, _fault(raw, value, name, words, required=True))


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
    """Why `value` is null: the raw value is missing, or is not what it should be."""
    if missing is None:
        missing = raw.isnull()
        if raw.type().is_string():
            missing = missing | (raw == "")
    shown = raw.cast("string").substr(0, _SHOWN)
    wrong = ibis.literal(f"{name} is '") + shown + ibis.literal(f"', not {words}")
    absent = ibis.literal(f"{name} is missing") if required else ibis.null("string")
    return ibis.cases((missing, absent), (value.isnull(), wrong))


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
    raw: ir.Column, column: str, kind: AttributeKind, separator: str | None, where: str
) -> Typed:
    """A column as its kind takes it: a value, a sorted list of distinct values, or a number.

    Args:
        raw: the column.
        column: its name.
        kind: of the attribute.
        separator: between the values of a text; None where the text is a list itself.
        where: file and column, for messages.

    Raises:
        CadcError: a type the kind cannot take; names the column.
    """
    type_ = raw.type()
    if kind == "multi":
        if type_.is_string() and separator is None:
            return _list_column(raw, column)
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
        return number_or_time(raw, column)
    if type_.is_integer() and not type_.is_unsigned_integer() and kind != "hashed":
        return _without_fault(column, raw.cast("int64"))
    if type_.is_floating():
        raw = ibis.cases((~raw.isnan(), raw))
    return _without_fault(column, raw.cast("string").nullif(""))


def _list_column(raw: ir.StringColumn, column: str) -> Typed:
    """The values of texts such as ``['a', 'b']`` or, as JSON, ``["a", "b"]``."""
    parts = list_parts(raw)
    words = "a list such as ['a', 'b']"
    return Typed(column, _distinct(parts), _fault(raw, parts, column, words, required=False))


def list_parts(raw: ir.StringColumn) -> ir.ArrayValue:
    """The values of each text that is a list, as Python writes it or JSON; null for other texts."""
    from_json = raw.cast("json").cast("array<string>")
    return ibis.cases(
        (raw.re_search(_JSON_LIST) & json_valid(raw), from_json),
        # DuckDB takes any letter after a backslash for itself; Python means a line end by \n.
        (~raw.re_search(_ESCAPED), raw.try_cast("array<string>")),
    )


def _distinct(parts: ir.ArrayValue) -> ir.ArrayValue:
    stripped = parts.map(lambda part: part.strip())
    return stripped.filter(lambda part: part.notnull() & (part != "")).unique().sort()


def _without_fault(column: str, value: ir.Value) -> Typed:
    return Typed(column, value, ibis.null("string"))
