"""How a column may write times: which forms fit its texts, what its numbers count, its gaps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from cadc_rec.data.engine import DuckdbEngine
from cadc_rec.data.sources.times import Gaps
from cadc_rec.data.tables.columns import formatted_micros, time_column, time_kind

UNITS = ("s", "ms", "us", "ns")
_DATES = (
    *("%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d.%m.%Y", "%Y.%m.%d", "%d-%m-%Y", "%m-%d-%Y"),
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d-%m-%y", "%m-%d-%y", "%m %d, %Y"),
    *("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y"),
    *("%d-%b-%Y", "%d-%b-%y", "%d/%b/%Y"),
)
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_FORMS = (
    *(date + clock for date in _DATES for clock in _CLOCKS),
    "%d/%b/%Y:%H:%M:%S %z",  # web servers' logs
    "%a %b %d %H:%M:%S %z %Y",  # Twitter
    "%a %b %d %H:%M:%S %Y",  # C's ctime
    "%a, %d %b %Y %H:%M:%S %z",  # mail
)
_DIGITS = ("%Y%m%d", "%Y%m%d%H%M%S", "%Y%m%d%H%M")
_TRIED = 1000
"""Different values that every form is tried on; the rest is read in the best ones only."""
_MOST = 0.9
_MAYBE = re.compile(r"^(?=.{6,40}$).*[0-9]")


@dataclass(frozen=True)
class Readings:
    """How a column's texts can be read as times."""

    forms: tuple[str, ...]
    """One, or two that differ in what is the day and what the month, and fit equally."""
    fit: int
    """How many rows' texts are in that form."""
    example: str
    """A text."""


def readings(values: ir.Table, known: int, *, digits: bool = False) -> Readings | None:
    """The form that nearly all texts of a column have, where there is one.

    Args:
        values: each different ``value``, text, and ``n``, how many rows have it.
        known: how many rows have a value.
        digits: the texts are whole numbers, which may be dates such as 20240131.
    """
    tried = _first_counts(values.limit(_TRIED), _DIGITS if digits else _FORMS)
    most = max(tried.values(), default=0)
    best = [form for form, fit in tried.items() if fit == most > 0]
    if not best:
        return None
    counts = _counts(values, best)
    fit = max(counts.values())
    forms = [form for form in best if counts[form] == fit]
    if fit < known * _MOST:
        return None
    swapped = forms[0].translate(str.maketrans("dm", "md"))
    chosen = (forms[0], swapped) if swapped != forms[0] and swapped in forms else (forms[0],)
    inside = values.filter(formatted_micros(values["value"], forms[0]).notnull())
    example = inside.order_by("value").limit(1).to_pyarrow()["value"][0].as_py()
    return Readings(chosen, fit, example)


def user_gaps(
    backend: Backend, rows: ir.Table, user: str, time: str, reading: Readings | None
) -> Gaps:
    """The gaps between users' times.

    Args:
        backend: counts.
        rows: the interactions as they stand in their files.
        user: column of the user's id.
        time: column of the time.
        reading: how its texts are read, where they are not ISO.
    """
    if reading is not None:
        when: ir.Column = formatted_micros(rows[time].cast("string"), reading.forms[0])
    else:
        when = time_column(rows[time], time, time_kind(rows, time, time)).value
    known = rows.select(user_id=rows[user].cast("string"), timestamp=when).drop_null()
    return Gaps.of(DuckdbEngine(backend), known)


def _first_counts(values: ir.Table, forms: Sequence[str]) -> dict[str, int]:
    """`_counts`, in SQL: Ibis takes seconds to write so many forms as expressions."""
    found = values.to_pyarrow()
    texts = found["value"].to_pylist()
    if sum(_MAYBE.search(text) is not None for text in texts) < len(texts) * _MOST:
        return {}
    fits = [
        f"sum(n) FILTER (try_strptime(value, '{form}') >= TIMESTAMP '1000-01-01')" for form in forms
    ]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("found", found)
        counts = connection.execute(f"SELECT {', '.join(fits)} FROM found").fetchone()
    assert counts is not None, "an aggregate has one row"
    return {form: int(count or 0) for form, count in zip(forms, counts, strict=True)}


def _counts(values: ir.Table, forms: Sequence[str]) -> dict[str, int]:
    """How many rows each form fits."""
    fits = {
        f"f{number}": values["n"].sum(where=formatted_micros(values["value"], form).notnull())
        for number, form in enumerate(forms)
    }
    found = values.aggregate(**fits).to_pyarrow().to_pylist()[0]
    return {form: int(found[f"f{number}"] or 0) for number, form in enumerate(forms)}


def unit_counts(number: ir.NumericColumn, n: ir.IntegerColumn | None) -> Mapping[str, ir.Scalar]:
    """By unit, how many values would lie between 1973 and 2286 if they counted it.

    Args:
        number: the values.
        n: how many rows have each; None: one.
    """
    inside = {
        unit: (number >= 10 ** (8 + 3 * k)) & (number < 10 ** (10 + 3 * k))
        for k, unit in enumerate(UNITS[:3])
    }
    inside["ns"] = number >= 10**17  # all that 64 bits hold
    return {unit: here.sum() if n is None else n.sum(where=here) for unit, here in inside.items()}
