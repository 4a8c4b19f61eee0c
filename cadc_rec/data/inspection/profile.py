"""What stands in each column of a table: types, missing and distinct values, the range.

In: the files of one table. Out: a `TableProfile`, counted by DuckDB within the engine's bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from cadc_rec.data.tables.columnar import columns_of, scan_columnar
from cadc_rec.data.tables.columns import INTEGER, MOMENT, NUMBER
from cadc_rec.data.tables.files import FileSet
from cadc_rec.data.tables.scan import Scan
from cadc_rec.data.tables.text import TextFormat, header_of, scan_text

SEPARATORS = ("|", ";", ",", " ")
_PADDED = r"^[+-]?0[0-9]"  # a zip code, no number
_SHOWN = 40  # characters of a value
_ODD = 6  # values listed that are no number


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
    moments: int = 0
    padded: int = 0
    """Texts of digits that begin with a 0: codes, no numbers."""
    odd: tuple[str, ...] = ()
    """Texts that are no numbers where nearly all are."""
    separated: tuple[tuple[str, int, int], ...] = ()
    """Of text: a separator, how many values hold it, how many distinct parts it makes."""


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


def column_names(found: FileSet, layout: TextFormat, scratch: Path) -> list[str]:
    """The columns of a table's first file that have a name."""
    if found.format == "text":
        return [name for name in header_of(found, layout, scratch) if name.strip()]
    return columns_of(found)


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
    wanted = dict.fromkeys(column_names(found, layout, scratch), "the table")
    scan: Scan
    if found.format == "text":
        scan = scan_text(backend, found, role, wanted, layout, scratch, reject=True)
    else:
        scan = scan_columnar(backend, found, role, wanted, scratch)
    names = list(wanted)
    counted: dict[str, ir.Scalar] = {"rows": scan.rows.count()}
    for number, name in enumerate(names):
        counted |= {f"{key}{number}": value for key, value in _counts(scan.rows[name]).items()}
    found_counts = scan.rows.aggregate(**counted).to_pyarrow().to_pylist()[0]
    columns = [
        _column(scan, name, {key: found_counts.get(f"{key}{n}") for key in _KEYS})
        for n, name in enumerate(names)
    ]
    return TableProfile(
        found, int(found_counts["rows"]), len(scan.unreadable), tuple(columns), scan
    )


_KEYS = (
    *("known", "distinct", "least", "greatest", "lowest", "highest"),
    *("integers", "numbers", "moments", "padded"),
)


def _counts(raw: ir.Column) -> dict[str, ir.Scalar]:
    """What one pass counts of a column."""
    known = raw.notnull()
    if raw.type().is_floating():
        known = known & ~raw.isnan()
    nested = raw.type().is_nested() or raw.type().is_binary()
    counts = {"known": known.sum(), "distinct": raw.cast("string").nunique()}
    if not nested:
        counts |= {"least": raw.min().cast("string"), "greatest": raw.max().cast("string")}
    if raw.type().is_string():
        patterns = {"integers": INTEGER, "numbers": NUMBER, "moments": MOMENT, "padded": _PADDED}
        counts |= {key: raw.re_search(pattern).sum() for key, pattern in patterns.items()}
        number = ibis.cases((raw.re_search(NUMBER), raw.try_cast("float64")))
        counts |= {"lowest": number.min(), "highest": number.max()}
    return counts


def _column(scan: Scan, name: str, counts: dict[str, Any]) -> ColumnProfile:
    raw = scan.rows[name]
    known, numbers = int(counts["known"] or 0), int(counts["numbers"] or 0)
    mostly_numbers = known * 0.9 <= numbers < known
    least, greatest = counts["least"] or "", counts["greatest"] or ""
    if numbers and known * 0.9 <= numbers:  # text sorts 10 before 7
        least, greatest = _plain(counts["lowest"]), _plain(counts["highest"])
    return ColumnProfile(
        name=name,
        type="text" if scan.is_text else str(raw.type()),
        is_list=raw.type().is_array(),
        known=known,
        distinct=int(counts["distinct"] or 0),
        least=least[:_SHOWN],
        greatest=greatest[:_SHOWN],
        integers=int(counts["integers"] or 0),
        numbers=numbers,
        moments=int(counts["moments"] or 0),
        padded=int(counts["padded"] or 0),
        odd=_odd(scan.rows, name) if mostly_numbers else (),
        separated=_separated(scan.rows, name, known) if raw.type().is_string() else (),
    )


def _plain(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


def _odd(rows: ir.Table, name: str) -> tuple[str, ...]:
    odd = rows.filter(rows[name].notnull() & ~rows[name].re_search(NUMBER))
    values = odd.select(name).distinct().order_by(name).limit(_ODD).to_pyarrow()[name].to_pylist()
    return tuple(values)


def _separated(rows: ir.Table, name: str, known: int) -> tuple[tuple[str, int, int], ...]:
    holding = {f"s{n}": rows[name].contains(sep).sum() for n, sep in enumerate(SEPARATORS)}
    counts = rows.aggregate(**holding).to_pyarrow().to_pylist()[0]
    found = []
    for n, separator in enumerate(SEPARATORS):
        holds = int(counts[f"s{n}"] or 0)
        if holds >= max(2, known * 0.1):
            parts = rows.select(part=rows[name].split(separator).unnest())
            stripped = parts.select(part=parts["part"].strip())
            distinct = stripped.filter(stripped["part"] != "")["part"].nunique()
            found.append((separator, holds, int(distinct.to_pyarrow().as_py())))
    return tuple(found)


def pair_counts(scan: Scan, user: str, item: str) -> dict[str, int]:
    """Repeated (user, item) pairs, and users with fewer than three different items."""
    pairs = scan.rows.group_by([user, item]).agg(n=ibis._.count())
    users = pairs.group_by(user).agg(items=ibis._.count())
    repeated = (pairs["n"] - 1).sum()
    few = (users["items"] < 3).sum()
    return {
        "repeated_pairs": int(repeated.to_pyarrow().as_py() or 0),
        "users_below_three": int(few.to_pyarrow().as_py() or 0),
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
