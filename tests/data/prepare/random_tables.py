"""Random tables of one's own, for Hypothesis to shrink.

A `Case` holds values of Python; `write` puts them into files of one format, each part with an
encoding of its own. `prepared_by_pandas.py` says what has to become of them.
"""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
from hypothesis import strategies as st

NAN, INF = math.nan, math.inf
INT64 = range(-(2**63), 2**63)
SECONDS = 1_704_067_200
Value = Any


@dataclass(frozen=True)
class Kind:
    """A type of column: values that may stand in it, and the Arrow types that can hold them."""

    values: tuple[Value, ...]
    types: tuple[pa.DataType, ...]
    asked: str = "auto"
    """What `user_ids` or `item_ids` has to say."""


TEXTS = ("a", "b", "B", "é", " a", "a ", "007", "7", "10", "nan", "NULL", "a,b", 'q"q', "", None)
TEXT_TYPES = (
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.large_string()),
)
IDS = {
    "text": Kind(TEXTS, TEXT_TYPES),
    "int64": Kind((1, 2, 10, -5, 2**63 - 1, -(2**63), 17 * 10**17 + 1, None), (pa.int64(),)),
    "small": Kind((1, 2, 3, 100, 0, None), (pa.int8(), pa.int16(), pa.int64(), pa.uint32())),
    "uint64": Kind((1, 2, 3, 2**63 - 1, 2**63, 2**64 - 1, None), (pa.uint64(),)),
    "decimal": Kind(
        (Decimal(1), Decimal(2), Decimal(2**63 - 1), Decimal(10**20), None),
        (pa.decimal128(36, 0), pa.decimal128(24, 2)),
        "integer",
    ),
    "float": Kind(
        (1.0, 2.0, 3.0, 1.5, -0.0, 2.0**53, 2.0**60, NAN, INF, None),
        (pa.float64(), pa.float32()),
        "integer",
    ),
}
TIMES = {
    "int64": Kind((1, 2, 3, -7, 2**63 - 1, SECONDS * 10**9, None), (pa.int64(),)),
    "small": Kind((1, 2, 3, 4, None), (pa.int32(), pa.int64(), pa.uint16())),
    "float": Kind((0.0, 1.5, -3.25, 1e9, 1e13, NAN, INF, None), (pa.float64(),)),
    "timestamp": Kind(
        (0, SECONDS, SECONDS + 1, -86_400, None),
        (*map(pa.timestamp, ("s", "ms", "us", "ns")), pa.timestamp("us", "UTC")),
    ),
    "date": Kind((date(2024, 1, 1), date(1969, 12, 31), date(2024, 1, 2), None), (pa.date32(),)),
}
RATINGS = Kind((1.0, 2.5, 3.0, 4.0, NAN, None, INF, -INF), (pa.float64(), pa.float32()))
ATTRIBUTES = {
    "text": Kind(TEXTS, TEXT_TYPES),
    "integer": Kind((1, 2, -3, 2**62, None), (pa.int64(),)),
    "float": Kind((1.0, 2.0, 0.5, -0.0, 0.0, NAN, INF, None), (pa.float64(), pa.float32())),
    "boolean": Kind((True, False, None), (pa.bool_(),)),
}
NUMBERS = Kind((1.0, 2.0, 3.5, -4.0, 0.0, -0.0, 1e300, NAN, INF, None), (pa.float64(),))
LISTS = Kind(
    ([1, 2], [2, 2], [], [None, 3], None), (pa.list_(pa.int64()), pa.large_list(pa.int32()))
)
FLOAT_LISTS = Kind(([1.0, NAN], [NAN], [2.0], None), (pa.list_(pa.float64()),))
FORMATS = ("parquet", "feather", "csv")
AS_TEXT = {"text", "int64", "small", "uint64"}  # kinds of ids that CSV has as it is
HASH_CODES, BUCKETS = 7, 3


@dataclass(frozen=True)
class Case:
    """Two tables and how they are prepared."""

    format: str
    items_format: str
    user: str
    item: str
    time: str
    rows: list[tuple[Value, ...]]
    """user, item, time, rating"""
    cuts: list[int]
    """Where a further file begins."""
    encodings: list[int]
    """Which of its types each column has, in turn."""
    group: int
    attribute: str
    entities: list[tuple[Value, ...]]
    """item, categorical, hashed, numeric, multi"""
    floats_in_lists: bool
    min_rating: float | None
    window: tuple[int | None, int | None]
    duplicates: str
    max_per_user: int
    k_core: int
    nan_text: str = field(default="")
    """How CSV writes NaN."""

    @property
    def asked(self) -> dict[str, str]:
        """The settings of the ids' types."""
        return {"user_ids": IDS[self.user].asked, "item_ids": IDS[self.item].asked}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any case; the first of each choice is the simplest."""

    def of(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    format_ = of(*FORMATS)
    ids = sorted(AS_TEXT, reverse=True) if format_ == "csv" else list(IDS)
    user, item, time = of(*ids), of(*ids), of("small", "int64", *TIMES)
    if format_ == "csv" and time == "float":
        time = "int64"
    items_format = "csv" if item in AS_TEXT and draw(st.booleans()) else of("parquet", "feather")
    if format_ == "csv":
        items_format = "csv"
    attribute, floats = of(*ATTRIBUTES), draw(st.booleans())

    def choose(kind: Kind) -> st.SearchStrategy[Value]:
        good = [value for value in kind.values if value is not None][:4]
        return st.one_of(st.sampled_from(good), st.sampled_from(kind.values))

    row = st.tuples(*map(choose, (IDS[user], IDS[item], TIMES[time], RATINGS)))
    entity = st.tuples(
        choose(IDS[item]),
        choose(ATTRIBUTES[attribute]),
        choose(ATTRIBUTES[attribute]),
        choose(NUMBERS),
        choose(FLOAT_LISTS if floats else LISTS),
    )
    ends = st.one_of(st.none(), st.integers(0, 3))
    return Case(
        format=format_,
        items_format=items_format,
        user=user,
        item=item,
        time=time,
        rows=draw(st.lists(row, min_size=1, max_size=30)),
        cuts=draw(st.lists(st.integers(0, 12), max_size=2)),
        encodings=draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)),
        group=draw(st.integers(1, 20)),
        attribute=attribute,
        entities=draw(st.lists(entity, max_size=8)),
        floats_in_lists=floats,
        min_rating=of(None, 3.0, 0.0),
        window=(draw(ends), draw(ends))
        if TIMES[time].types[0] in (pa.int64(), pa.int32())
        else (None, None),
        duplicates=of("first", "last"),
        max_per_user=of(0, 0, 1, 3),
        k_core=of(0, 0, 2),
        nan_text=of("", "nan", "NaN"),
    )


# Writing ------------------------------------------------------------------------------------------


def write(case: Case, folder: Path) -> dict[str, Any]:
    """Write the tables below `folder`; the section `data` that prepares them."""
    kinds = {
        "who": IDS[case.user],
        "what": IDS[case.item],
        "when": TIMES[case.time],
        "rating": RATINGS,
    }
    cuts = sorted({cut for cut in case.cuts if 0 < cut < len(case.rows)})
    bounds = [0, *cuts, len(case.rows)]
    for part, (start, end) in enumerate(itertools.pairwise(bounds)):
        write_part(case, folder / f"log/{part}", case.format, kinds, case.rows[start:end], part)
    tables: dict[str, Any] = {
        "interactions": {"path": "log", "user": "who", "item": "what", "timestamp": "when"},
        "on_bad_row": "reject",
        **case.asked,
    }
    tables["interactions"] |= {"rating": "rating", "min_rating": case.min_rating}
    if case.entities:
        lists = FLOAT_LISTS if case.floats_in_lists else LISTS
        attribute = ATTRIBUTES[case.attribute]
        columns = {
            "sku": IDS[case.item],
            "kind": attribute,
            "hash": attribute,
            "price": NUMBERS,
            "tags": lists,
        }
        write_part(case, folder / "items/0", case.items_format, columns, case.entities, 0)
        tables["items"] = {
            "path": "items",
            "id": "sku",
            "categorical": ["kind"],
            "hashed": ["hash"],
            "hash_codes": HASH_CODES,
            "numeric": ["price"],
            "buckets": BUCKETS,
            "multi": ["tags"],
        }
    since, until = ("" if time is None else str(time) for time in case.window)
    return {
        "source": "tables",
        "tables": tables,
        "since": since,
        "until": until,
        "duplicates": case.duplicates,
        "max_per_user": case.max_per_user,
        "k_core": case.k_core,
    }


def write_part(
    case: Case,
    path: Path,
    format_: str,
    kinds: dict[str, Kind],
    rows: list[tuple[Value, ...]],
    part: int,
) -> None:
    """One file of a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if format_ == "csv":
        with Path(f"{path}.csv").open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(kinds)
            writer.writerows([as_text(value, case) for value in row] for row in rows)
        return
    arrays = {}
    for place, (name, kind) in enumerate(kinds.items()):
        values = [row[place] for row in rows]
        type_ = kind.types[case.encodings[(place + part) % len(case.encodings)] % len(kind.types)]
        if all(value is None for value in values) and case.encodings[0] == 3:
            type_ = pa.null()
        arrays[name] = array(values, type_)
    table = pa.table(arrays)
    if format_ == "parquet":
        pq.write_table(table, f"{path}.parquet", row_group_size=case.group)
    else:
        feather.write_feather(table, f"{path}.feather", compression="uncompressed")


def array(values: list[Value], type_: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(type_):
        return pa.array(values, pa.timestamp("s")).cast(type_)
    if pa.types.is_dictionary(type_):
        return pa.array(values, pa.string()).cast(type_.value_type).dictionary_encode().cast(type_)
    return pa.array(values, type_, from_pandas=False)


def as_text(value: Value, case: Case) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and math.isnan(value):
        return case.nan_text
    if isinstance(value, list):
        return "|".join(as_text(part, case) for part in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)
