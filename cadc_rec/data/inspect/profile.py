"""Describes each column of a table: its type, missing and distinct values, its range.

In: the files of one table. Out: a `TableProfile`, counted by DuckDB within the engine's bounds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from cadc_rec.data.formats.lines import TextFormat
from cadc_rec.data.formats.open import columns_in, open_table
from cadc_rec.data.inspect.times import UNITS, Readings, readings, unit_counts
from cadc_rec.data.tables.attributes import list_parts
from cadc_rec.data.tables.columns import INTEGER, NUMBER, TIMESTAMP
from cadc_rec.data.tables.files import FileSet
from cadc_rec.data.tables.scan import Scan

SEPARATORS = ("|", ";", ",", " ")
_BRACKETED = r"^\s*\[.*\]\s*$"
NOTHINGS = ("nan", "null", "none", "na", "n/a", "<na>", "nil", "undefined", "\\n")
"""Texts, in lower case, that programs write for a missing value."""
_PADDED = r"^[+-]?0[0-9]"  # a zip code, not a number
_DATED = re.compile(r"(19|20)[0-9]{6}([0-9]{4}|[0-9]{6})?")
_SHOWN = 40  # characters of a value
_EXACT = "decimal(38, 0)"  # the widest whole numbers
_ODD = 6  # listed values that are not numbers


@dataclass(frozen=True)
class ColumnProfile:
    """One column."""

    name: str
    type: str
    """As the files have it; ``text`` where they are text."""
    is_list: bool
    known: int
    """Values that are not missing."""
    distinct: int
    least: str
    greatest: str
    integers: int = 0
    """Texts that are whole numbers; likewise the next two."""
    numbers: int = 0
    timestamps: int = 0
    padded: int = 0
    """Texts of digits that begin with a 0: codes, not numbers."""
    odd: tuple[str, ...] = ()
    """Texts that are not numbers in a column where nearly all are."""
    separated: tuple[tuple[str, int, int], ...] = ()
    """Of text: a separator, how many values hold it, how many distinct parts it makes."""
    bracketed: int = 0
    """Texts in square brackets."""
    lists: tuple[int, int] | None = None
    """Where nearly all texts are in brackets: how many are lists, and their distinct parts."""
    nothings: tuple[tuple[str, int], ...] = ()
    """Texts that mostly stand for a missing value, and how many rows have each."""
    readings: Readings | None = None
    """How texts that are not ISO can be read as times."""
    units: tuple[tuple[str, int], ...] = ()
    """Of whole numbers: units in which they lie between 1973 and 2286, and how many do in each."""


@dataclass(frozen=True)
class TableProfile:
    """One table."""

    files: FileSet
    rows: int
    unreadable: int
    """Lines of text whose columns cannot be told apart; not among the rows."""
    columns: tuple[ColumnProfile, ...]
    scan: Scan

    def column(self, name: str) -> ColumnProfile:
        """The column called `name`."""
        return next(column for column in self.columns if column.name == name)


def profile(
    backend: Backend, found: FileSet, role: str, layout: TextFormat, scratch: Path
) -> TableProfile:
    """Read a table once and count.

    Args:
        backend: counts.
        found: the files.
        role: a word that is the table's own among those looked at.
        layout: of text files.
        scratch: a folder for what is unpacked.

    Raises:
        CadcError: a file that cannot be read.
    """
    names = columns_in(backend, found, role, layout, scratch)
    wanted = dict.fromkeys(names, "the table")
    scan = open_table(backend, found, role, wanted, layout, scratch, reject=True)
    # Text is looked at once a value, not once a row: ids repeat, and patterns take their time.
    values = {
        name: _values(backend, scan, name, f"values_{role}_{number}")
        for number, name in enumerate(wanted)
        if scan.rows[name].type().is_string()
    }
    counted: dict[str, ir.Scalar] = {"rows": scan.rows.count()}
    for number, name in enumerate(wanted):
        if name not in values:
            counted |= {f"{key}{number}": value for key, value in _counts(scan.rows[name]).items()}
    found_counts = scan.rows.aggregate(**counted).to_pyarrow().to_pylist()[0]
    columns = []
    for number, name in enumerate(wanted):
        if name in values:
            text_counts = values[name].aggregate(**_text_counts(values[name]))
            counts = text_counts.to_pyarrow().to_pylist()[0]
        else:
            counts = {key: found_counts.get(f"{key}{number}") for key in _KEYS}
        columns.append(_column(scan, name, {**dict.fromkeys(_KEYS), **counts}, values.get(name)))
    return TableProfile(
        found, int(found_counts["rows"]), len(scan.unreadable), tuple(columns), scan
    )


_KEYS = (
    *("known", "distinct", "least", "greatest", "lowest", "highest", "whole_least", "whole_most"),
    *("integers", "numbers", "timestamps", "padded", "bracketed", *UNITS),
)


def _counts(raw: ir.Column) -> dict[str, ir.Scalar]:
    """What one pass counts of a column."""
    if raw.type().is_floating():
        raw = ibis.cases((~raw.isnan(), raw))  # NaN is missing
    known = raw.notnull()
    nested = raw.type().is_nested() or raw.type().is_binary()
    counts = {"known": known.sum(), "distinct": raw.cast("string").nunique()}
    if raw.type().is_integer():
        counts |= unit_counts(raw, None)
    if not nested:
        counts |= {"least": raw.min().cast("string"), "greatest": raw.max().cast("string")}
    return counts


def _values(backend: Backend, scan: Scan, name: str, place: str) -> ir.Table:
    """Every ``value`` of a column of text that is not missing, and ``n``, how many rows have it."""
    known = scan.rows.select(value=scan.rows[name]).filter(ibis._.value.notnull())
    return backend.create_table(place, known.group_by("value").agg(n=ibis._.count()))


def _text_counts(values: ir.Table) -> dict[str, ir.Scalar]:
    """What is counted of a column of text, of its `_values`."""
    text, n = values["value"], values["n"]
    patterns = {"integers": INTEGER, "numbers": NUMBER, "timestamps": TIMESTAMP, "padded": _PADDED}
    patterns["bracketed"] = _BRACKETED
    number = ibis.cases((text.re_search(NUMBER), text.try_cast("float64")))
    whole = ibis.cases((text.re_search(INTEGER), text.try_cast(_EXACT)))
    return {
        "known": n.sum(),
        "distinct": values.count(),
        "least": text.min(),
        "greatest": text.max(),
        **{key: n.sum(where=text.re_search(pattern)) for key, pattern in patterns.items()},
        "lowest": number.min(),
        "highest": number.max(),
        "whole_least": whole.min(),
        "whole_most": whole.max(),
        **unit_counts(ibis.cases((text.re_search(INTEGER), number)), n),
    }


def _column(
    scan: Scan, name: str, counts: dict[str, Any], values: ir.Table | None
) -> ColumnProfile:
    raw = scan.rows[name]
    known, numbers = int(counts["known"] or 0), int(counts["numbers"] or 0)
    mostly_numbers = known * 0.9 <= numbers < known
    least, greatest = counts["least"] or "", counts["greatest"] or ""
    if numbers and known * 0.9 <= numbers:  # text sorts 10 before 7
        least = _exact(counts["lowest"], counts["whole_least"])
        greatest = _exact(counts["highest"], counts["whole_most"])
    is_text = scan.is_text and raw.type().is_string()
    bracketed = int(counts["bracketed"] or 0)
    mostly_lists = values is not None and 0 < known * 0.9 <= bracketed
    dated = _DATED.fullmatch(least) and _DATED.fullmatch(greatest) and len(least) == len(greatest)
    usual = numbers + int(counts["timestamps"] or 0)
    plain = values is not None and not mostly_lists and usual <= known * 0.1
    return ColumnProfile(
        name=name,
        type="text" if is_text else str(raw.type()),
        is_list=raw.type().is_array(),
        known=known,
        distinct=int(counts["distinct"] or 0),
        least=least[:_SHOWN],
        greatest=greatest[:_SHOWN],
        integers=int(counts["integers"] or 0),
        numbers=numbers,
        timestamps=int(counts["timestamps"] or 0),
        padded=int(counts["padded"] or 0),
        odd=_odd(values) if mostly_numbers and values is not None else (),
        separated=_separated(values, known) if values is not None and not mostly_lists else (),
        bracketed=bracketed,
        lists=_lists(values) if values is not None and mostly_lists else None,
        nothings=_nothings(values) if values is not None else (),
        readings=_readings(scan, name, counts, values) if plain or dated else None,
        units=tuple((unit, int(counts[unit])) for unit in UNITS if counts[unit]),
    )


def _readings(
    scan: Scan, name: str, counts: Mapping[str, Any], values: ir.Table | None
) -> Readings | None:
    """How a column's texts, or whole numbers such as 20240131, can be read as times."""
    digits = values is None or bool(counts["integers"])
    if values is None:
        number = scan.rows.select(value=scan.rows[name].cast("string"))
        values = number.group_by("value").agg(n=ibis._.count())
    return readings(values, int(counts["known"] or 0), digits=digits)


def _plain(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


def _exact(number: float, whole: Decimal | None) -> str:
    """An end of a range of numbers; `whole`, that of the whole numbers, has all its digits."""
    return str(whole) if whole is not None and float(whole) == number else _plain(number)


def _odd(values: ir.Table) -> tuple[str, ...]:
    odd = values.filter(~values["value"].re_search(NUMBER))
    shown = odd.select("value").order_by("value").limit(_ODD).to_pyarrow()["value"].to_pylist()
    return tuple(shown)


def _lists(values: ir.Table) -> tuple[int, int]:
    """How many rows have a list as their text, and how many distinct parts these have."""
    listed = values.select("n", parts=list_parts(values["value"]))
    rows = listed["n"].sum(where=listed["parts"].notnull()).to_pyarrow().as_py()
    parts = listed.select(part=listed["parts"].unnest().strip())
    distinct = parts.filter(parts["part"] != "")["part"].nunique().to_pyarrow().as_py()
    return int(rows or 0), int(distinct)


def _nothings(values: ir.Table) -> tuple[tuple[str, int], ...]:
    found = values.filter(values["value"].lower().isin(NOTHINGS)).order_by("value")
    rows = found.select("value", "n").to_pyarrow().to_pylist()
    return tuple((row["value"], int(row["n"])) for row in rows)


def _separated(values: ir.Table, known: int) -> tuple[tuple[str, int, int], ...]:
    text, n = values["value"], values["n"]
    holding = {f"s{k}": n.sum(where=text.contains(sep)) for k, sep in enumerate(SEPARATORS)}
    counts = values.aggregate(**holding).to_pyarrow().to_pylist()[0]
    found = []
    for k, separator in enumerate(SEPARATORS):
        holds = int(counts[f"s{k}"] or 0)
        if holds >= max(2, known * 0.1):
            parts = values.select(part=text.split(separator).unnest())
            stripped = parts.select(part=parts["part"].strip())
            distinct = stripped.filter(stripped["part"] != "")["part"].nunique()
            found.append((separator, holds, int(distinct.to_pyarrow().as_py())))
    return tuple(found)


def pair_counts(scan: Scan, user: str, item: str) -> dict[str, Any]:
    """Repeated (user, item) pairs, and how many different items users have.

    Of the latter: the median, and how many users have fewer than three and how many have more.
    """
    pairs = scan.rows.group_by([user, item]).agg(n=ibis._.count())
    users = pairs.group_by(user).agg(items=ibis._.count(), rows=ibis._.n.sum())
    counts = users.aggregate(
        repeated=(users["rows"] - users["items"]).sum(),
        few=(users["items"] < 3).sum(),
        more=(users["items"] >= 3).sum(),
        median=users["items"].median(),
    )
    found = counts.to_pyarrow().to_pylist()[0]
    return {
        "repeated_pairs": int(found["repeated"] or 0),
        "users_below_three": int(found["few"] or 0),
        "held_out_users": int(found["more"] or 0),
        "median_items": float(found["median"] or 0),
    }


def popularity(scan: Scan, item: str) -> Sequence[tuple[int, int, int]]:
    """How many items have 1, 2-3, 4-7, ... interactions, and how many interactions these are.

    Returns:
        ``(least interactions of the class, items, interactions)``, ascending.
    """
    items = scan.rows.group_by(item).agg(n=ibis._.count())
    classed = items.mutate(power=items["n"].log2().floor().cast("int64"))
    found = classed.group_by("power").agg(items=ibis._.count(), rows=ibis._.n.sum())
    return [
        (2 ** row["power"], row["items"], int(row["rows"]))
        for row in found.order_by("power").to_pyarrow().to_pylist()
    ]
