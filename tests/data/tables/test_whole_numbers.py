"""Whole numbers of 64 bits keep their value in every form; others are refused by value."""

from __future__ import annotations

import math
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import CadcError
from tests.data.own_tables import ids, text

pytestmark = pytest.mark.slow  # together; each by itself is quick

SNOW = 1_790_000_000_000_000_001
MOST, LEAST = 2**63 - 1, -(2**63)
NANOSECONDS = 1_704_067_200 * 10**9
ROWS = [(SNOW + n, item, NANOSECONDS + n) for n in (0, 1) for item in (5, MOST)]


def test_ids_and_times_of_text_have_64_bits(tables):
    artifact = tables("log.csv", text([*ROWS, (LEAST, 5, MOST)]))
    assert ids(artifact, "user") == [LEAST, SNOW, SNOW + 1]
    assert ids(artifact, "item") == [5, MOST]
    times = pq.read_table(artifact.path / "train")["timestamp"].to_pylist()
    assert times == [MOST, NANOSECONDS, NANOSECONDS, NANOSECONDS + 1, NANOSECONDS + 1]


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, LEAST - 1])
@pytest.mark.parametrize("column", ["who", "when"])
def test_text_beyond_64_bits_is_refused_by_value(column, value, tables):
    row = {"who": (value, 5, 1), "when": (1, 5, value)}[column]
    words = rf"line 6: {column} is '{value}', not a whole number of 64 bits"
    with pytest.raises(CadcError, match=words):
        tables("log.csv", text([*ROWS, row]), user_ids="integer")


def test_ids_of_text_beyond_64_bits_stay_text_where_nothing_is_asked(tables):
    assert ids(tables("log.csv", text([(2**63, 5, 1)])), "user") == [str(2**63)]


@pytest.mark.parametrize(
    ("since", "until", "left"),
    [(NANOSECONDS + 1, "", 2), ("", NANOSECONDS + 1, 2), (LEAST, MOST, 4)],
)
def test_since_and_until_have_64_bits(since, until, left, tables):
    artifact = tables("log.csv", text(ROWS), since=str(since), until=str(until))
    assert artifact.info["train"] == left
    assert artifact.info.get("outside_window", 0) == 4 - left


def test_since_beyond_64_bits_is_refused(tables):
    with pytest.raises(CadcError, match=rf"data\.since = {2**63} does not fit into 64 bits"):
        tables("log.csv", text(ROWS), since=str(2**63))


@pytest.mark.parametrize("log", ["csv", "parquet"])
def test_a_table_of_users_in_text_meets_a_log_of_either_kind(log, tables, raw_folder):
    table = pa.table(dict(zip(("who", "what", "when"), zip(*ROWS, strict=True), strict=True)))
    pq.write_table(table, raw_folder / "log.parquet")
    (raw_folder / "log.csv").write_text(text(ROWS))
    (raw_folder / "users.csv").write_text(f"user_id,age\n{SNOW},7\n{SNOW + 1},8\n")
    artifact = tables(f"log.{log}", users={"path": "users.csv", "numeric": ["age"]})
    assert pq.read_table(artifact.path / "users.parquet").to_pydict() == {
        "user_id": [SNOW, SNOW + 1],
        "age": [1, 2],
    }


NUMBERS = {
    "decimal": (pa.array([Decimal(SNOW), Decimal(2)], pa.decimal128(38, 0)), [2, SNOW]),
    "decimal with zeros": (pa.array([Decimal(3), Decimal(2)], pa.decimal128(20, 4)), [2, 3]),
    "float": (pa.array([3.0, 2.0**53]), [3, 2**53]),
    "small float": (pa.array([3.0, 2.0], pa.float32()), [2, 3]),
}


@pytest.mark.parametrize("case", list(NUMBERS))
def test_whole_numbers_of_another_type_are_ids_where_the_config_says_so(case, tables, raw_folder):
    values, expected = NUMBERS[case]
    table = pa.table({"who": values, "what": ["x", "y"], "when": [1, 2]})
    pq.write_table(table, raw_folder / "log.parquet")
    assert ids(tables("log.parquet", user_ids="integer"), "user") == expected
    with pytest.raises(CadcError, match=r"set data\.tables\.user_ids = 'integer'"):
        tables("log.parquet")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (pa.array([Decimal("1.5")], pa.decimal128(30, 2)), "who is '1.50', not a whole number"),
        (pa.array([Decimal(2**63)], pa.decimal128(38, 0)), f"who is '{2**63}', not a whole number"),
        (pa.array([1.5]), "who is '1.5', not a whole number"),
        (pa.array([2.0**60]), "who is '1.152921504606847e+18', not a whole number of at most 2^53"),
        (pa.array([math.nan]), "who is missing"),
        (pa.array([math.inf]), "who is 'inf', not a whole number"),
    ],
    ids=["fraction", "beyond 64 bits", "half", "beyond 53 bits", "NaN", "infinite"],
)
def test_a_number_that_is_no_whole_one_is_refused_by_row(values, sentence, tables, raw_folder):
    table = pa.table({"who": values, "what": ["x"], "when": [1]})
    first = table.set_column(0, "who", pa.array([1]).cast(values.type))
    pq.write_table(pa.concat_tables([first, table]), raw_folder / "log.parquet")
    with pytest.raises(CadcError) as caught:
        tables("log.parquet", user_ids="integer")
    assert f"log.parquet, row 2: {sentence}" in str(caught.value)


@pytest.mark.parametrize("on_bad_row", ["error", "reject"])
@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("who,what,when\n,x,1\n,y,2\n", "line 2: who is missing"),
        ("who,what,when\na,x,2024-13-01\nb,y,soon\n", "line 2: when is '2024-13-01', not a date"),
        (
            "who,what,when\n\na,x,1,9\n",
            "line 3: has more fields than the 3 of the header: 'a,",
        ),
    ],
    ids=["missing", "no date", "unreadable"],
)
def test_the_first_bad_row_is_named_also_where_all_are_bad(content, place, on_bad_row, tables):
    with pytest.raises(CadcError) as caught:
        tables("log.csv", content, on_bad_row=on_bad_row)
    assert f"log.csv, {place}" in str(caught.value)


def test_numbers_of_the_size_of_milliseconds_are_told_of(tables, raw_folder, caplog):
    table = pa.table({"who": ["a"], "what": ["x"], "when": [1.7e12]})
    pq.write_table(table, raw_folder / "log.parquet")
    tables("log.parquet")
    assert "of the size of ms since 1970" in caplog.text
    assert "data.tables.interactions.unit = 'ms'" in caplog.text
