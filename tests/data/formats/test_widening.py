"""Files of one table may write a column in different types: all values are kept, in one type."""

from __future__ import annotations

import json
import re
from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.formats.widening import plain, widest
from cadc_rec.errors import CadcError
from tests.data.own_tables import ids

pytestmark = pytest.mark.slow  # together; each by itself is quick

TEXT = [
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (TEXT, pa.string()),
        ([pa.int32(), pa.int64(), pa.uint8()], pa.int64()),
        ([pa.int8(), pa.uint64()], pa.decimal128(38, 0)),
        ([pa.uint8(), pa.uint64()], pa.uint64()),
        ([pa.float32(), pa.float64()], pa.float64()),
        ([pa.timestamp("ns"), pa.timestamp("us")], pa.timestamp("us")),
        ([pa.timestamp("ms", "Asia/Tokyo"), pa.date32()], pa.timestamp("us", "UTC")),
        ([pa.decimal128(9, 2), pa.decimal128(12, 4)], pa.decimal128(12, 4)),
        ([pa.null(), pa.int32()], pa.int32()),
        ([pa.null(), pa.null()], pa.string()),
        ([pa.list_(pa.int32()), pa.large_list(pa.int64())], pa.list_(pa.int64())),
        ([pa.list_(pa.null()), pa.list_(pa.large_string(), 2)], pa.list_(pa.string())),
        ([pa.string(), pa.int64()], None),
        ([pa.int64(), pa.float64()], None),
        ([pa.bool_(), pa.int64()], None),
    ],
    ids=str,
)
def test_the_widest_type_holds_all(kinds, expected):
    assert widest(map(plain, kinds)) == expected
    assert widest(map(plain, reversed(kinds))) == expected


def write(folder, parts, suffix="parquet"):
    folder.mkdir()
    for number, columns in enumerate(parts):
        table = pa.table(columns)
        if suffix == "parquet":
            pq.write_table(table, folder / f"{number}.parquet")
        else:
            with pa.ipc.new_file(folder / f"{number}.arrow", table.schema) as out:
                out.write_table(table)


@pytest.mark.parametrize("engine", ["duckdb", pytest.param("spark", marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_parts_of_different_types_are_one_table(suffix, engine, tables, raw_folder):
    times = [datetime(2024, 1, 1), datetime(2024, 1, 2)]
    parts = [
        {"who": pa.array(["a", "b"], kind), "what": pa.array([1, 2], number), "when": when}
        for kind, number, when in zip(
            TEXT,
            (pa.int8(), pa.int64(), pa.uint32(), pa.int32()),
            (
                pa.array(times, pa.timestamp("ns")),
                pa.array(times, pa.timestamp("us")),
                pa.array(times, pa.timestamp("ms", "UTC")),
                pa.array([time.date() for time in times], pa.date32()),
            ),
            strict=True,
        )
    ]
    write(raw_folder / "log", parts, suffix)
    artifact = tables("log", engine=engine)
    assert ids(artifact, "user") == ["a", "b"]
    assert ids(artifact, "item") == [1, 2]
    assert artifact.info["rows_read"] == 8
    assert artifact.info["duplicates_dropped"] == 6
    assert pq.read_table(artifact.path / "train")["timestamp"].to_pylist() == [
        1_704_067_200 * 10**6,
        1_704_153_600 * 10**6,
    ]


def test_a_part_without_any_value_is_missing_row_by_row(tables, raw_folder):
    whole = {"who": ["a", "b"], "what": ["x", "y"], "when": [1, 2]}
    write(raw_folder / "log", [whole, {**whole, "when": pa.nulls(2)}])
    with pytest.raises(CadcError, match=r"log/1\.parquet, row 1: when is missing"):
        tables("log")
    assert tables("log", on_bad_row="reject").info["rejected"] == 2


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
        *(pa.timestamp(unit, "Asia/Tokyo") for unit in ("ms", "us")),
        pa.date32(),
        pa.date64(),
    ],
    ids=str,
)
def test_a_part_without_any_time_goes_with_times_of_every_kind(kind, tables, raw_folder):
    times = pa.array([datetime(2024, 1, 1), datetime(2024, 1, 2)]).cast(kind)
    whole = {"who": ["a", "b"], "what": ["x", "y"], "when": times}
    write(raw_folder / "log", [{**whole, "when": pa.nulls(2)}, whole])
    info = tables("log", on_bad_row="reject").info
    assert (info["rows_read"], info["rejected"]) == (4, 2)


@pytest.mark.parametrize("ids", [[1, 2], ["a", "b"]])
def test_a_table_whose_ids_are_all_missing_goes_with_ids_of_every_kind(ids, tables, raw_folder):
    write(raw_folder / "log", [{"who": ["a", "b"], "what": ids, "when": [1, 2]}])
    pq.write_table(
        pa.table({"sku": pa.nulls(3), "kind": ["x", "y", "z"]}), raw_folder / "items.parquet"
    )
    artifact = tables(
        "log", items={"path": "items.parquet", "id": "sku", "categorical": ["kind"]},
        on_bad_row="reject",
    )  # fmt: skip
    assert artifact.info["rejected_items"] == 3
    found = pq.read_table(artifact.path / "items.parquet")["item_id"].to_pylist()
    assert found == ids


def test_rows_of_widened_files_keep_their_order_and_place(tables, raw_folder):
    first = {"who": ["a"] * 3, "what": ["x", "y", "z"], "when": pa.array([1, 1, 1], pa.int32())}
    last = {"who": ["a", "a", None], "what": ["v", "w", "u"], "when": [1, 1, 1]}
    again = {"who": ["a"], "what": ["t"], "when": pa.array([1], pa.int32())}
    write(raw_folder / "log", [first, last, again])
    with pytest.raises(CadcError, match=r"log/1\.parquet, row 3: who is missing"):
        tables("log")
    artifact = tables("log", on_bad_row="reject")
    items = ids(artifact, "item")
    order = pq.read_table(artifact.path / "train")["item"].to_pylist()
    order += pq.read_table(artifact.path / "val.parquet")["item"].to_pylist()
    order += pq.read_table(artifact.path / "test.parquet")["item"].to_pylist()
    assert [items[item] for item in order] == ["x", "y", "z", "v", "w", "t"]


def test_attributes_are_widened_too(tables, raw_folder):
    parts = [
        {
            "item_id": ["x"],
            "size": pa.array([1], pa.int16()),
            "cost": pa.array([Decimal("1.5")], pa.decimal128(4, 1)),
            "tags": pa.array([["r"]], pa.list_(pa.string())),
            "since": pa.array([date(2024, 1, 1)]),
        },
        {
            "item_id": ["y"],
            "size": pa.array([2**40]),
            "cost": pa.array([Decimal("1.25")], pa.decimal128(6, 2)),
            "tags": pa.array([["r", "s"]], pa.large_list(pa.large_string())),
            "since": pa.array([datetime(2024, 1, 1)]),
        },
    ]
    write(raw_folder / "items", parts)
    items = {
        "path": "items",
        "categorical": ["size", "since"],
        "numeric": ["cost"],
        "multi": ["tags"],
    }
    artifact = tables("log.csv", "who,what,when\na,x,1\na,y,2\n", items=items)
    found = pq.read_table(artifact.path / "items.parquet").to_pydict()
    assert found == {
        "item_id": ["x", "y"],
        "size": [1, 2],
        "since": [1, 1],
        "cost": [2, 1],
        "cost:value": [1.5, 1.25],
        "tags": [[1], [1, 2]],
    }


def test_values_of_different_kinds_are_refused_with_both_files(tables, raw_folder):
    whole = {"who": ["a"], "what": ["x"], "when": [1]}
    write(raw_folder / "log", [whole, whole, {**whole, "when": ["1"]}])
    with pytest.raises(
        CadcError, match=r"2\.parquet: its column when is string, and in .*0\.parquet"
    ):
        tables("log")


SIGNED_AND_NOT = [(pa.int64(), pa.uint64()), (pa.uint64(), pa.int8()), (pa.uint64(), pa.null())]


def signed_and_not(folder, kinds, who=(5, 7), when=(1, 2)):
    """Parts of one row each; a part without any value has no row."""
    parts = []
    for kind, user, time in zip(kinds, who, when, strict=True):
        rows = 0 if pa.types.is_null(kind) else 1
        part = {"who": pa.array([user][:rows], kind), "when": pa.array([time][:rows], kind)}
        parts.append({**part, "what": pa.array(["x"][:rows], pa.string())})
    write(folder, parts)


@pytest.mark.parametrize("kinds", SIGNED_AND_NOT, ids=str)
def test_integers_with_and_without_a_sign_stay_integers(kinds, tables, raw_folder):
    signed_and_not(raw_folder / "log", kinds)
    artifact = tables("log")
    rows = [row for row, kind in enumerate(kinds) if not pa.types.is_null(kind)]
    assert ids(artifact, "user") == [(5, 7)[row] for row in rows]
    (train,) = (artifact.path / "train").iterdir()
    assert pq.read_table(train)["timestamp"].to_pylist() == [(1, 2)[row] for row in rows]


@pytest.mark.parametrize("least", [3, -3])
@pytest.mark.parametrize("column", ["who", "when"])
def test_an_integer_beyond_64_bits_beside_signed_ones_is_refused_by_value(
    least, column, tables, raw_folder
):
    values = {"who": (5, 7), "when": (1, 2), column: (least, 2**63)}
    signed_and_not(raw_folder / "log", SIGNED_AND_NOT[0], **values)
    place = f"{raw_folder}/log/1.parquet, row 1: {column} is '{2**63}', not a whole number"
    with pytest.raises(CadcError, match=re.escape(place)):
        tables("log")


def test_a_damaged_part_is_named_before_its_values_are_compared(tables, raw_folder):
    (raw_folder / "log").mkdir()
    for number, kind in enumerate([pa.int64(), pa.uint64()]):
        users = pa.array(range(1000), kind)
        table = pa.table({"who": users, "what": users, "when": users})
        path = raw_folder / f"log/{number}.parquet"
        pq.write_table(table, path, write_statistics=False)
    path.write_bytes(b"PAR1" + b"\xff" * 396 + path.read_bytes()[400:])
    with pytest.raises(CadcError, match=r"log/1\.parquet, row group 1: cannot be read"):
        tables("log")


def test_codes_beyond_64_bits_are_values_of_an_attribute(tables, raw_folder):
    pq.write_table(pa.table({"who": ["a"], "what": ["x"], "when": [1]}), raw_folder / "log.parquet")
    ids_and_codes = [
        (["x"], pa.array([3], pa.int64())),
        (["y"], pa.array([2**64 - 1], pa.uint64())),
    ]
    write(raw_folder / "items", [{"id": i, "code": code} for i, code in ids_and_codes])
    artifact = tables("log.parquet", items={"path": "items", "id": "id", "categorical": ["code"]})
    (attribute,) = json.loads((artifact.path / "attributes.json").read_text("utf-8"))["item"]
    assert {str(value) for value in attribute["vocabulary"]} == {"3", str(2**64 - 1)}
