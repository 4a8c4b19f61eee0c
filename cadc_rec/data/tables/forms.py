"""In which form an attribute's values are written, so that a day's are compared as values.

The same value is 2000 in one file and 2000.0 in the next, where a gap made the column one of
floats; true in one and "True" in another. In: what the dataset knows of its values, and a day's
column of any type. Out: the day's values as text in the dataset's form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from cadc_rec.data.tables.columns import EXACT, INTEGER, NAN, NUMBER, TIMESTAMP

_WITH_ZEROS = r"^-?(0|[1-9][0-9]*)\.0+$"  # a whole number as a float is written
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+([eE][+-]?[0-9]+)?")
_CASES: dict[str, Literal["lower", "capitalize", "upper"]] = {
    "true": "lower",
    "false": "lower",
    "True": "capitalize",
    "False": "capitalize",
    "TRUE": "upper",
    "FALSE": "upper",
}


@dataclass(frozen=True)
class Form:
    """How the values of an attribute are written."""

    type: dt.DataType
    """What they are; ``string`` where they are any text."""
    from_text: bool = False
    """Whether the type is what text looks like, and no column's own: then "1.50" may be no number
    but a version, and is left alone."""
    case: Literal["lower", "capitalize", "upper"] = "lower"
    """Of truth values."""

    @staticmethod
    def of(vocabulary: Sequence[Any], type_: str = "") -> Form:
        """The form of a dataset's values.

        Args:
            vocabulary: the values, as `attributes.json` has them; of hashed ones there are none.
            type_: that of their column; empty where it was not noted.
        """
        noted = dt.dtype(type_ or "string")
        if not (noted.is_string() or noted.is_null()):
            return Form(dt.int64 if noted.is_integer() else noted)
        if vocabulary and all(isinstance(value, int) for value in vocabulary):
            return Form(dt.int64)
        texts = [str(value) for value in vocabulary]
        if texts and all(text in _CASES for text in texts):
            cases = {_CASES[text] for text in texts}
            return Form(dt.boolean, True, cases.pop()) if len(cases) == 1 else Form(dt.string)
        whole = any(re.fullmatch(INTEGER, text) for text in texts)
        if any(_FLOAT.fullmatch(text) for text in texts):
            return Form(dt.string) if whole else Form(dt.float64, from_text=True)
        return Form(dt.int64 if whole else dt.string, from_text=True)


def text_of(value: ir.Value, form: Form | None = None) -> ir.StringValue:
    """A value as text, in the form of those before where it is one of their type; NaN is null."""
    kind = value.type()
    if kind.is_floating():  # no NaN, and one zero
        zero = ibis.literal(0, kind)
        value = ibis.cases((value.isnan(), ibis.null(kind)), (value == zero, zero), else_=value)
    text = value.cast("string")
    if form is None:
        return text
    if kind.is_string():
        return _of_text(text, form)
    if kind.is_numeric() and not kind.is_boolean():
        return _of_number(value, text, form)
    if kind.is_boolean() and form.type.is_boolean():
        return _cased(text, form)
    if kind.is_date() or kind.is_timestamp():
        return _of_time(value, text, form)
    return text


def _of_text(text: ir.StringValue, form: Form) -> ir.StringValue:
    target = form.type
    if target.is_boolean():
        known = text.lower().isin(["true", "false"])
        return ibis.cases((known, _cased(text, form)), else_=text)
    if target.is_numeric() and not form.from_text:
        text = ibis.cases((~text.re_search(NAN), text))
    if target.is_integer():
        whole = text.re_search(_WITH_ZEROS)
        return ibis.cases((whole, text.re_replace(r"\.0+$", "")), else_=text)
    if target.is_floating() and form.from_text:
        return ibis.cases((text.re_search(INTEGER), text + ".0"), else_=text)
    number = ibis.cases((text.re_search(NUMBER), text.try_cast("float64")))
    if target.is_floating():
        exact = (number.abs() <= EXACT) | ~text.re_search(INTEGER)
        return ibis.cases((exact, text_of(number)), else_=text)
    if target.is_decimal():
        return ibis.coalesce(_of_number(number, text, form), text)
    if target.is_date() or target.is_timestamp():
        return _of_time(ibis.cases((text.re_search(TIMESTAMP), text)), text, form)
    return text


def _of_number(value: ir.NumericValue, text: ir.StringValue, form: Form) -> ir.StringValue:
    kind, target = value.type(), form.type
    if kind.is_floating() and (target.is_integer() or (target.is_string() and form.from_text)):
        whole = (value.abs() <= EXACT) & (value == value.floor())
        return ibis.cases((whole, value.try_cast("int64").cast("string")), else_=text)
    if target.is_integer() and kind.is_decimal():
        return _of_text(text, form)
    if target.is_floating() and not kind.is_floating():
        number = value.cast("float64")
        return ibis.cases((number.abs() <= EXACT, number.cast("string")), else_=text)
    if target.is_decimal():
        number = value.try_cast(target)
        same = number.cast("float64") == value.cast("float64")
        return ibis.cases((same, number.cast("string")), else_=text)
    return text


def _of_time(value: ir.Value, text: ir.StringValue, form: Form) -> ir.StringValue:
    """A date and its midnight are the same time."""
    if not (form.type.is_date() or form.type.is_timestamp()):
        return text
    time = value.try_cast("timestamp('UTC')")
    same = value.try_cast(form.type)
    is_same = same.try_cast("timestamp('UTC')") == time
    return ibis.cases((is_same, same.cast("string")), else_=text)


def _cased(text: ir.StringValue, form: Form) -> ir.StringValue:
    return getattr(text.lower(), form.case)()
