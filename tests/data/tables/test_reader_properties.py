"""Whatever stands in a table, each row is kept as it is, or refused with its place and a reason."""

from __future__ import annotations

import csv
import io
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cadc_rec.errors import CadcError
from tests.data.own_tables import COLUMNS, arrow, ids, text

# Each with what the pages promise of it: the value kept, or None where the row is none.
TEXT_IDS = {
    "ann": "ann",
    " Bo": " Bo",
    "é": "é",
    "007": "007",
    "a,b": "a,b",
    'q"q': 'q"q',
    "": None,
}
WHOLE = {
    "5": 5,
    "-3": -3,
    "999999999999999999": 10**18 - 1,
    "": None,
    "1e3": None,
    "0x10": None,
    "1.0": None,
    "9" * 19: None,
    "nan": None,
    "٣": None,  # a digit, and none that a number is written with
}
DATES = {
    "1970-01-02": 86_400 * 10**6,
    "2024-01-01T00:00:01.5Z": 1_704_067_201_500_000,
    "30000-01-01": 884_541_340_800 * 10**6,
    "infinity": None,
    "2024-13-01": None,
    "": None,
    "x": None,
}
ORACLE = {"who": TEXT_IDS, "what": WHOLE, "when": DATES}
ROW = st.tuples(*(st.sampled_from(list(values)) for values in ORACLE.values()))


def expected(rows):
    """The good rows, converted."""
    converted = [tuple(ORACLE[c][v] for c, v in zip(COLUMNS, row, strict=True)) for row in rows]
    return [row for row in converted if None not in row]


def found(artifact):
    """Every (user, item, time) of the dataset."""
    users, items = ids(artifact, "user"), ids(artifact, "item")
    kept = []
    for name in ("train", "val.parquet", "test.parquet"):
        table = pq.read_table(artifact.path / name).to_pydict()
        rows = zip(table["user"], table["item"], table["timestamp"], strict=True)
        kept += [(users[user], items[item], time) for user, item, time in rows]
    return kept


def earliest(rows):
    """One row of each pair: the first by time."""
    first = {}
    for user, item, time in rows:
        first[user, item] = min(time, first.get((user, item), time))
    return {(*pair, time) for pair, time in first.items()}


def check(tables, rows, path, content=None):
    """Compare what became of the rows with what the pages promise."""
    good = expected(rows)
    arguments = {"on_bad_row": "reject", "item_ids": "integer", "user_ids": "string"}
    if not good:
        with pytest.raises(CadcError, match=r"has no (good row among its|rows)"):
            tables(path, content, **arguments)
        return
    artifact = tables(path, content, **arguments)
    assert set(found(artifact)) == earliest(good)
    assert len(found(artifact)) == len(earliest(good))
    assert artifact.info["rows_read"] == len(rows)
    assert artifact.info["rejected"] == len(rows) - len(good)
    assert artifact.info["duplicates_dropped"] == len(good) - len(earliest(good))
    listing = artifact.path / "rejected/interactions.parquet"
    listed = pq.read_table(listing).to_pylist() if listing.exists() else []
    bad = [n for n, row in enumerate(rows) if not expected([row])]
    first = 2 if path.endswith(".csv") else 1
    assert [row["line"] for row in listed] == [n + first for n in bad]
    assert all(row["reason"] for row in listed)


PROPERTY = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Enough rows look like dates for the column to be one of dates.
DATED = [("ann", "5", "2024-01-01T00:00:01.5Z")] * 8


@pytest.mark.slow
@PROPERTY
@given(rows=st.lists(ROW, max_size=6))
def test_rows_of_text_are_kept_or_listed(tables, rows):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([COLUMNS, *DATED, *rows])
    check(tables, [*DATED, *rows], "log.csv", out.getvalue())


@pytest.mark.slow
@PROPERTY
@given(rows=st.lists(ROW, max_size=6), group=st.integers(1, 4))
def test_rows_of_parquet_are_kept_or_listed(tables, raw_folder, rows, group):
    rows = [*DATED, *rows]
    pq.write_table(arrow(rows), raw_folder / "log.parquet", row_group_size=group)
    check(tables, rows, "log.parquet")


@pytest.mark.slow
@PROPERTY
@given(
    values=st.lists(
        st.one_of(st.none(), st.floats(), st.integers(-(2**53), 2**53).map(float)), min_size=1
    )
)
def test_times_that_are_numbers_are_seconds_or_listed(tables, raw_folder, values):
    table = pa.table(
        {
            "who": [f"u{n}" for n in range(len(values))],
            "what": ["x"] * len(values),
            "when": pa.array(values, pa.float64()),
        }
    )
    pq.write_table(table, raw_folder / "log.parquet")
    good = {f"u{n}" for n, value in enumerate(values) if value is not None and abs(value) < 9.2e12}
    if not good:
        with pytest.raises(CadcError, match="has no good row among its"):
            tables("log.parquet", on_bad_row="reject")
        return
    artifact = tables("log.parquet", on_bad_row="reject")
    assert set(ids(artifact, "user")) == good
    assert artifact.info["rejected"] == len(values) - len(good)


@pytest.mark.slow
def test_an_empty_file_among_others_adds_no_rows(tables, raw_folder):
    folder = raw_folder / "log"
    folder.mkdir()
    pq.write_table(arrow().slice(0, 0), folder / "a.parquet")
    pq.write_table(arrow(), folder / "b.parquet")
    pq.write_table(arrow().slice(0, 0), folder / "c.parquet")
    assert tables("log").info["rows_read"] == 6
    partitioned = raw_folder / "days"
    for day, rows in (("1", arrow()), ("2", arrow().slice(0, 0))):
        (partitioned / f"day={day}").mkdir(parents=True)
        pq.write_table(rows, partitioned / f"day={day}/a.parquet")
    assert tables("days").info["rows_read"] == 6
    header = text([])
    (raw_folder / "text").mkdir()
    (raw_folder / "text/a.csv").write_text(header)
    (raw_folder / "text/b.csv").write_text(text())
    assert tables("text").info["rows_read"] == 6


def test_one_file_of_another_encoding_is_named_with_its_line(tables, raw_folder):
    (raw_folder / "log").mkdir()
    (raw_folder / "log/a.csv").write_text(text([("é", "x", 1)]), "utf-8")
    (raw_folder / "log/b.csv").write_text(text([("a", "x", 1), ("é", "x", 1)]), "latin-1")
    with pytest.raises(CadcError, match=r"b\.csv, line 3: is not utf-8"):
        tables("log")


@pytest.mark.slow
def test_a_byte_order_mark_is_no_part_of_a_name_in_any_of_several_files(tables, raw_folder):
    (raw_folder / "log").mkdir()
    for name in "abc":
        (raw_folder / f"log/{name}.csv").write_text(text([(name, "x", 1)]), "utf-8-sig")
    assert ids(tables("log"), "user") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (pa.array([1, 2**63], pa.uint64()), 2),
        (pa.array([-(2**63), 2**63 - 1], pa.int64()), None),
        (pa.array([0, 255], pa.uint8()), None),
    ],
    ids=["beyond 64 bits", "the ends of 64 bits", "small"],
)
def test_ids_keep_their_value_or_are_refused_by_row(tables, raw_folder, values, row):
    table = pa.table({"who": values, "what": ["x", "x"], "when": [1, 2]})
    pq.write_table(table, raw_folder / "log.parquet")
    if row is None:
        assert ids(tables("log.parquet"), "user") == values.to_pylist()
        return
    with pytest.raises(CadcError, match=rf"row {row}: who is '\d+', not a whole number of 64 bits"):
        tables("log.parquet")


@pytest.mark.slow
def test_a_text_of_ten_megabytes_is_an_id_like_any_other_in_parquet(tables, raw_folder):
    long = "x" * 10_000_000
    pq.write_table(arrow([(long, "a", 1), ("b", "a", 1)]), raw_folder / "log.parquet")
    assert [len(name) for name in ids(tables("log.parquet"), "user")] == [1, 10_000_000]
    pq.write_table(arrow([(long, None, 1), ("b", "a", 1)]), raw_folder / "log.parquet")
    artifact = tables("log.parquet", on_bad_row="reject")
    (listed,) = pq.read_table(artifact.path / "rejected/interactions.parquet").to_pylist()
    assert listed["reason"] == "what is missing"
    assert len(listed["row"]) <= 1000


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.slow
def test_times_of_parquet_are_the_same_in_any_unit_and_what_does_not_fit_is_refused(
    tables, raw_folder, unit
):
    seconds = 1_704_067_200
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    kind = pa.timestamp(unit)
    table = arrow([("a", "x", seconds * scale)])
    table = table.set_column(2, "when", table["when"].cast(kind))
    pq.write_table(table, raw_folder / "log.parquet")
    assert found(tables("log.parquet")) == [("a", "x", seconds * 10**6)]


def test_the_year_thirty_thousand_is_a_date_in_parquet_too(tables, raw_folder):
    days = (date(9999, 12, 31) - date(1970, 1, 1)).days + 7_304_850  # 20,000 years on
    table = pa.table({"who": ["a"], "what": ["x"], "when": pa.array([days], pa.date32())})
    pq.write_table(table, raw_folder / "log.parquet")
    assert found(tables("log.parquet")) == [("a", "x", days * 86_400 * 10**6)]


def test_a_parquet_column_there_twice_is_refused(tables, raw_folder: Path):
    table = pa.table([["a"], ["x"], [1], ["b"]], names=["who", "what", "when", "WHO"])
    pq.write_table(table, raw_folder / "log.parquet")
    with pytest.raises(CadcError, match=r"log\.parquet: has the column who twice"):
        tables("log.parquet")


@pytest.mark.slow
def test_a_parquet_file_cut_anywhere_is_named(tables, raw_folder: Path):
    pq.write_table(arrow([(f"u{n}", "x", n) for n in range(200)]), raw_folder / "log.parquet")
    whole = (raw_folder / "log.parquet").read_bytes()
    for at in range(1, len(whole), max(1, len(whole) // 60)):
        with pytest.raises(CadcError) as caught:
            tables("log.parquet", whole[:at])
        assert str(caught.value).startswith(f"{raw_folder}/log.parquet: "), caught.value
