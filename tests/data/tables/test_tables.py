"""A user's own tables: the same dataset whatever the format, and its columns as named."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cadc_rec.data.prepare.vocabulary import bucket_edges
from cadc_rec.errors import CadcError
from tests.data.own_tables import COLUMNS, ROWS, USERS, arrow, ids, text


def rows(artifact, name):
    table = pq.read_table(artifact.path / name)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def test_ids_of_text_survive_and_the_split_is_that_of_every_source(tables):
    artifact = tables(content=text())
    assert ids(artifact, "user") == ["Ana", "Bo"]
    assert ids(artifact, "item") == ["x", "y", "z"]
    # Ana in time: y (5, line 3), x (5, line 4), z (9); the second y is dropped
    assert rows(artifact, "train") == [(0, 1, 5), (1, 0, 1), (1, 2, 2)]
    assert rows(artifact, "val.parquet") == [(0, 0, 5)]
    assert rows(artifact, "test.parquet") == [(0, 2, 9)]
    assert artifact.info["duplicates_dropped"] == 1
    assert artifact.info["users_train_only"] == 1
    assert artifact.info["rows_read"] == 6
    assert artifact.info["order"] == "time"


def write_forms(folder: Path) -> dict[str, str]:
    """The same rows in every form; the path of each."""
    table, plain = arrow(), text()
    (folder / "log.csv").write_text(plain)
    (folder / "crlf.csv").write_bytes(plain.replace("\n", "\r\n").encode())
    (folder / "bom.csv").write_bytes(b"\xef\xbb\xbf" + plain.encode())
    (folder / "blank.csv").write_text(plain.replace("\n", "\n\n", 2))
    (folder / "log.tsv").write_text(text(delimiter="\t"))
    (folder / "log.csv.gz").write_bytes(gzip.compress(plain.encode()))
    (folder / "log.csv.bz2").write_bytes(bz2.compress(plain.encode()))
    with pa.CompressedOutputStream(str(folder / "log.csv.zst"), "zstd") as out:
        out.write(plain.encode())
    pq.write_table(table, folder / "log.parquet", row_group_size=2)
    feather.write_feather(table, folder / "log.feather")
    with pa.ipc.new_file(folder / "log.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    with pa.ipc.new_stream(folder / "stream.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    for form in ("parts", "csvs", "mixed"):
        (folder / form).mkdir()
    for n, (start, end) in enumerate([(0, 3), (3, 3), (3, 6)]):  # the middle one is empty
        pq.write_table(table.slice(start, end - start), folder / f"parts/part-{n}.parquet")
        (folder / f"csvs/part-{n}.csv").write_text(text(ROWS[start:end]))
        packed = gzip.compress(text(ROWS[start:end]).encode())
        name, data = (f"part-{n}.csv.gz", packed) if n else ("part-0.csv", text(ROWS[:3]).encode())
        (folder / "mixed" / name).write_bytes(data)
    (folder / "parts/_SUCCESS").write_text("")
    for who in ("Ana", "Bo"):
        for form in ("hive", "hive-csv"):
            (folder / form / f"who={who}").mkdir(parents=True)
        part = [row[1:] for row in ROWS if row[0] == who]
        pq.write_table(arrow(part, COLUMNS[1:]), folder / f"hive/who={who}/0.parquet")
        (folder / f"hive-csv/who={who}/0.csv").write_text(text(part, COLUMNS[1:]))
    (folder / "odd [1]*").mkdir()
    (folder / "odd [1]*" / "a?b.csv").write_text(plain)
    pq.write_table(table, folder / "odd [1]*" / "a?b.parquet")
    names = "crlf.csv bom.csv blank.csv log.tsv log.csv.gz log.csv.bz2 log.csv.zst log.parquet"
    names += " log.feather log.arrow stream.arrow parts csvs mixed hive hive-csv parts/*.parquet"
    forms = {name: name for name in names.split()}
    forms["deep glob"] = "**/part-*.parquet"
    forms["wildcards in a csv's name"] = "odd [1]*/a?b.csv"
    forms["wildcards in a Parquet file's name"] = "odd [1]*/a?b.parquet"
    return forms


FEW = ("crlf.csv", "log.csv.gz", "log.feather", "parts", "hive-csv", "deep glob")


@pytest.mark.parametrize(
    "some", [FEW, pytest.param((), marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_every_form_of_the_same_rows_gives_the_same_dataset(some, tables, raw_folder):
    forms = write_forms(raw_folder)
    forms = {form: forms[form] for form in some or forms}
    expected = tables("log.csv").fingerprint
    found = {form: tables(path, workdir=form.replace("/", "-")) for form, path in forms.items()}
    assert {form: artifact.fingerprint for form, artifact in found.items()} == dict.fromkeys(
        forms, expected
    )


def test_a_path_is_looked_for_in_the_data_folder_and_absolute_ones_stay(tables, raw_folder):
    (raw_folder / "below").mkdir()
    (raw_folder / "below/log.csv").write_text(text())
    relative = tables("below/log.csv")
    assert tables(str(raw_folder / "below/log.csv")).path == relative.path
    with pytest.raises(CadcError) as caught:
        tables("nowhere.csv")
    assert str(caught.value) == (
        f"{raw_folder}/nowhere.csv: no such file or folder; correct "
        "data.tables.interactions.path, or name its --data-dir."
    )


def test_the_key_of_the_artifact_follows_bytes_and_columns_not_places(tables, raw_folder):
    first = tables("log.csv", text())
    (raw_folder / "moved").mkdir()
    (raw_folder / "log.csv").rename(raw_folder / "moved/log.csv")
    assert tables("moved/log.csv").path == first.path
    assert tables("moved/log.csv", text(ROWS[:5])).path != first.path
    swapped = tables("moved/log.csv", text(), interactions={"user": "what", "item": "who"})
    assert swapped.path != first.path


@pytest.mark.slow
def test_columns_nobody_asked_for_may_be_called_anything(tables, raw_folder):
    content = ',who,x,what,X,"a ""b""",when\n0,Ana,1,pen,2,3,4\n'
    assert ids(tables(content=content), "item") == ["pen"]
    table = pa.table([pa.array([1])] * 2 + list(arrow().slice(0, 1)), names=["x", "x", *COLUMNS])
    pq.write_table(table, raw_folder / "log.parquet")
    assert ids(tables("log.parquet"), "item") == ["z"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_whole_numbers_are_numbers_and_sort_as_such(form, tables, raw_folder):
    numbers = [(10, 200, 1), (9, 1000, 2), (-3, 200, 3)]
    if form == "csv":
        artifact = tables(content=text(numbers))
    else:
        pq.write_table(arrow(numbers), raw_folder / "log.parquet")
        artifact = tables("log.parquet")
    assert ids(artifact, "user") == [-3, 9, 10]
    assert ids(artifact, "item") == [200, 1000]


@pytest.mark.parametrize("odd", ["007", "1.0", "1e3", "+5", "0x1F", " 5", "9" * 30, "é", "nan"])
def test_ids_that_are_not_all_whole_numbers_are_text_and_stay_as_they_are(odd, tables):
    artifact = tables(content=text([(odd, 1, 1), ("5", 2, 2)]))
    assert ids(artifact, "user") == sorted([odd, "5"], key=str.encode)
    assert ids(artifact, "item") == [1, 2]


def test_ids_can_be_declared(tables):
    content = text([("10", "1", 1), ("9", "2", 2)])
    assert ids(tables(content=content, user_ids="string"), "user") == ["10", "9"]
    with pytest.raises(CadcError, match=r"log\.csv, line 3: who is '007', not a whole number"):
        tables(content=text([("10", 1, 1), ("007", 2, 2)]), user_ids="integer")


@pytest.mark.slow
def test_ids_of_every_integer_type_and_of_64_bits_are_kept(tables, raw_folder):
    for kind in (pa.int8(), pa.uint16(), pa.int32(), pa.uint64(), pa.int64()):
        table = arrow([(1, 2, 1), (3, 4, 2)]).set_column(0, "who", pa.array([1, 3], kind))
        pq.write_table(table, raw_folder / "log.parquet")
        assert ids(tables("log.parquet"), "user") == [1, 3]
    huge = pa.array([2**63 - 1, -(2**63)])
    pq.write_table(arrow([(1, 2, 1), (3, 4, 2)]).set_column(0, "who", huge), raw_folder / "l.pq")
    assert ids(tables("l.pq"), "user") == [-(2**63), 2**63 - 1]
    huge = pa.array([1, 2**63], pa.uint64())
    pq.write_table(arrow([(1, 2, 1), (3, 4, 2)]).set_column(0, "who", huge), raw_folder / "l.pq")
    with pytest.raises(CadcError, match=r"l\.pq, row 2: who is '9223372036854775808', not a whole"):
        tables("l.pq")


MICRO = 1_000_000
DAY = 86_400 * MICRO


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["5", "-7"], [5, -7]),
        (["5.25", "7"], [5_250_000, 7_000_000]),
        (["1.5e3", "-0.5"], [1500 * MICRO, -MICRO // 2]),
        (["1970-01-02", "1970-01-03"], [DAY, 2 * DAY]),
        (["1970-01-02 00:00:01", "1970-01-02T00:00:01.5"], [DAY + MICRO, DAY + 3 * MICRO // 2]),
        # Paris was an hour ahead of UTC
        (["1970-01-02T01:00:00+01:00", "1970-01-02T00:00:00Z"], [DAY, DAY]),
    ],
)
def test_times_of_text(written, expected, tables):
    artifact = tables(content=text([("a", n, t) for n, t in enumerate(written)]))
    assert sorted(t for _, _, t in rows(artifact, "train")) == sorted(expected)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([5, 7], pa.uint8()), [5, 7]),
        (pa.array([0.25, 7.0]), [250_000, 7_000_000]),
        (pa.array([date(1970, 1, 2), date(1970, 1, 3)]), [DAY, 2 * DAY]),
        (pa.array([datetime(1970, 1, 2), datetime(1970, 1, 3)]), [DAY, 2 * DAY]),
        (pa.array([DAY * 1000, 0], pa.timestamp("ns")), [0, DAY]),
        (pa.array([86_400, 0], pa.timestamp("s")), [0, DAY]),
        (pa.array([datetime(1970, 1, 2, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC")), [DAY, DAY]),
        (pa.array(["1970-01-02", "1970-01-03"]), [DAY, 2 * DAY]),
        # 28,030 years of 365.2425 days: 10,237,747 of them
        (pa.array([10_237_747 * DAY, 0], pa.timestamp("us")), [0, 10_237_747 * DAY]),
    ],
)
def test_times_of_parquet(column, expected, tables, raw_folder):
    table = arrow([("a", 1, 0), ("a", 2, 0)]).set_column(2, "when", column)
    pq.write_table(table, raw_folder / "log.parquet")
    assert sorted(t for _, _, t in rows(tables("log.parquet"), "train")) == expected


def test_without_a_time_column_the_order_is_seeded_and_said(tables):
    log = text([(u, i, 0) for u in range(20) for i in range(8)])
    first = tables(content=log, interactions={"timestamp": ""})
    other = tables(content=log, interactions={"timestamp": ""}, split_seed=1)
    assert first.info["order"] == "seeded random, split_seed=0"
    assert rows(first, "test.parquet") != rows(other, "test.parquet")
    timed = tables(content=log)
    assert tables(content=log, split_seed=1).path == timed.path


def test_rows_rated_too_low_are_no_interactions_and_counted(tables):
    log = text([("a", n, n, stars) for n, stars in enumerate([5, 3.5, 4, 2])], (*COLUMNS, "stars"))
    artifact = tables(content=log, interactions={"rating": "stars", "min_rating": 3.5})
    assert ids(artifact, "item") == [0, 1, 2]
    assert artifact.info["rows_read"] == 4
    assert artifact.info["below_min_rating"] == 1
    with pytest.raises(CadcError, match=r"min_rating = 6\.0 leaves no interaction at all"):
        tables(content=log, interactions={"rating": "stars", "min_rating": 6.0})


def test_attributes_become_codes(tables, raw_folder):
    (raw_folder / "users.csv").write_text(USERS)
    artifact = tables(
        content=text([*ROWS, ("Cy", "x", 1), ("Di", "x", 2)]),
        users={
            "path": "users.csv",
            "id": "name",
            "categorical": ["plan"],
            "multi": ["tags"],
            "numeric": ["age", "score"],
            "missing": ["NA"],
        },
    )
    described = json.loads((artifact.path / "attributes.json").read_text("utf-8"))["user"]
    assert described == [
        {"name": "plan", "kind": "categorical", "size": 3, "vocabulary": ["free", "pro"]},
        {"name": "tags", "kind": "multi", "size": 3, "vocabulary": ["a", "b"]},
        {"name": "age", "kind": "numeric", "size": 3, "vocabulary": [30.0, 40.0]},
        {"name": "score", "kind": "numeric", "size": 3, "vocabulary": [1.5, 2.0]},
    ]
    assert pq.read_table(artifact.path / "users.parquet").to_pydict() == {
        "user_id": ["Ana", "Bo", "Cy", "Di"],  # Di stands in no table of users
        "plan": [2, 0, 1, 0],
        "tags": [[1, 2], [1, 2], [], []],
        "age": [1, 0, 2, 0],
        "score": [1, 0, 2, 0],
    }


def test_lists_numbers_and_dates_of_parquet_are_attributes_too(tables, raw_folder):
    items = pa.table(
        {
            "sku": ["x", "y", "z"],
            "name": ["X", None, "Z"],
            "colours": [["red", "blue", "red"], None, []],
            "sizes": [[2, 10], [2], [None]],
            "price": [1.0, float("nan"), None],
            "since": [date(2020, 1, 1), None, date(2021, 1, 1)],
            "is new": [True, False, None],
            "title": [3, 3, 1],
        }
    )
    pq.write_table(items, raw_folder / "items.parquet")
    artifact = tables(
        content=text(),
        items={
            "path": "items.parquet",
            "id": "sku",
            "title": "name",
            "categorical": ["is new", "title"],
            "multi": ["colours", "sizes"],
            "numeric": ["price", "since"],
        },
    )
    assert pq.read_table(artifact.path / "items.parquet").to_pydict() == {
        "item_id": ["x", "y", "z"],
        "title": ["X", None, "Z"],
        "is_new": [2, 1, 0],
        "title_": [2, 2, 1],  # the dataset's own title has the name
        "colours": [[1, 2], [], []],  # blue, red
        "sizes": [[1, 2], [2], []],  # as text: 10, 2
        "price": [1, 0, 0],
        "since": [1, 0, 2],
        # For filters; dates as seconds since 1970: 18,262 and 18,628 days.
        "price:value": [1.0, None, None],
        "since:value": [18_262 * 86_400.0, None, 18_628 * 86_400.0],
    }


def test_text_ids_of_one_table_meet_the_numbers_of_another(tables, raw_folder):
    pq.write_table(arrow([(10, "x", 1), (9, "y", 2)]), raw_folder / "log.parquet")
    (raw_folder / "users.csv").write_text("user_id,plan\n9,free\n10,pro\n")
    users = {"path": "users.csv", "categorical": ["plan"]}
    artifact = tables("log.parquet", users=users)
    assert pq.read_table(artifact.path / "users.parquet").to_pydict() == {
        "user_id": [9, 10],
        "plan": [1, 2],
    }


def test_quantile_buckets_are_of_equal_size_and_merge_equal_beginnings():
    # of 1 to 12 in four: three each
    numbers = pa.array(range(12, 0, -1)).to_numpy().astype(float)
    assert bucket_edges(numbers, 4).tolist() == [1, 4, 7, 10]
    # numbers 0, 2, 4, 7 and 9 of the 12 begin a bucket, and the first three are equal
    skewed = pa.array([0.0] * 7 + [1.0, 2.0, 3.0, 4.0, 5.0]).to_numpy()
    assert bucket_edges(skewed, 5).tolist() == [0, 1, 3]
    # no more values than buckets: each has its own
    assert bucket_edges(skewed, 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert bucket_edges(numbers[:0], 4).tolist() == []


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.text(min_size=1).filter(lambda s: s.strip("\r\n") != ""),
            st.text(min_size=1),
            st.integers(-(10**17), 10**17),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_text_a_csv_quotes_is_an_id_again(tables, raw_folder, drawn):
    # surrogates cannot be written as UTF-8
    drawn = [
        (u.encode("utf-8", "replace").decode(), i.encode("utf-8", "replace").decode(), t)
        for u, i, t in drawn
    ]
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([COLUMNS, *drawn])
    artifact = tables(content=out.getvalue(), user_ids="string", item_ids="string")
    assert ids(artifact, "user") == sorted({u for u, _, _ in drawn}, key=str.encode)
    assert ids(artifact, "item") == sorted({i for _, i, _ in drawn}, key=str.encode)
    kept = len({(u, i) for u, i, _ in drawn})
    assert sum(artifact.info[split] for split in ("train", "val", "test")) == kept
