"""What is wrong with a user's own tables is said by file, line or row and column, or counted."""

from __future__ import annotations

import bz2
import gzip
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import CadcError
from tests.data.own_tables import COLUMNS, USERS, arrow, ids, text

HEADER = "who,what,when\n"
GOOD = "a,x,1\nb,y,2\n"
QUOTE = "has a quote that is not closed, or closed too early"
FEWER = "has fewer fields than the 3 of the header"
BAD_LINES = {
    "no user": (HEADER + GOOD + ",x,3\n", "line 4: who is missing"),
    "quoted nothing": (HEADER + GOOD + '"",x,3\n', "line 4: who is missing"),
    "no item": (HEADER + "a,,3\n" + GOOD, "line 2: what is missing"),
    "no time": (HEADER + GOOD + "a,x,\n", "line 4: when is missing"),
    "NaN time": (HEADER + GOOD + "c,x,NaN\n", "line 4: when is 'NaN', not a whole number"),
    "infinite time": (HEADER + "a,x,1.5\nc,x,inf\n", "line 3: when is 'inf', not a number"),
    "word for a time": (HEADER + GOOD + "c,x,noon\n", "line 4: when is 'noon', not a whole number"),
    "no such day": (
        HEADER + "a,x,2024-02-29\na,y,2023-02-29\n",
        "line 3: when is '2023-02-29', not a date or datetime",
    ),
    "endless day": (
        HEADER + "a,x,2024-02-29\na,z,2024-03-01\na,y,infinity\n",
        "line 4: when is 'infinity', not a date or datetime",
    ),
    "huge time": (HEADER + GOOD + f"c,x,{10**30}\n", "line 4: when is '1000000"),
    "after blank lines": (HEADER + "\n\n" + GOOD + "\n,x,3\n", "line 7: who is missing"),
    "after a line break in quotes": (HEADER + '"a\nb",x,1\n,x,3\n', "line 4: who is missing"),
    "after a byte order mark": ("\ufeff" + HEADER + GOOD + ",x,3\n", "line 4: who is missing"),
    "too short": (HEADER + GOOD + "c,x\n", f"line 4: {FEWER}: 'c,x'"),
    "too short after blank lines": (HEADER + "\n\n" + GOOD + "\nc,x\n", f"line 7: {FEWER}: 'c,x'"),
    "cut at the end": (HEADER + GOOD + "c", f"line 4: {FEWER}: 'c'"),
    "too short after a byte order mark": (
        "\ufeff" + HEADER + GOOD + "c\n",
        f"line 4: {FEWER}: 'c'",
    ),
    "too long": (HEADER + "c,x,1,2\n" + GOOD, "line 2: has more fields than the 3 of the header"),
    "open quote": (HEADER + GOOD + 'c,"x,3\n' + GOOD * 3, f"line 4: {QUOTE}: 'c,\"x,3'"),
    "early end of a quote": (HEADER + GOOD + 'c,"x"y,3\n' + GOOD, f"line 4: {QUOTE}"),
    "another encoding on top": ("wé\n".encode("latin-1"), "line 1: is not utf-8"),
    "another encoding": ((HEADER + GOOD + "é,x,3\n").encode("latin-1"), "line 4: is not utf-8"),
    "10 MB in a line": (HEADER + GOOD + "c" * 10_000_000 + ",x,3\n", "line 4: is longer than 2,"),
    "mixed line ends": (HEADER + "a,x,1\nb,y,2\r\n", "line 3: ends in b'\\r\\n', and the lines"),
    "a column twice": ("who,what,when,What\n", "line 1: has the column what twice"),
    "no such column": ("who,waht,when\n", "line 1: has no column 'what', which data.tables."),
}


def refusal(tables, *arguments, **settings) -> str:
    with pytest.raises(CadcError) as caught:
        tables(*arguments, **settings)
    return str(caught.value)


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_refused_by_file_and_line(case, tables, raw_folder, tmp_path):
    content, sentence = BAD_LINES[case]
    message = refusal(tables, "log.csv", content)
    assert message.startswith(f"{raw_folder}/log.csv, {sentence}"), message
    assert "\n" not in message
    assert len(message) < 600
    assert not list((tmp_path / "work" / "prepare").glob("*")), "nothing half-written"


WHOLE_FILES = {
    "empty": ("log.csv", b"", "is empty; its first line has to name the columns."),
    "header only": ("log.csv", HEADER.encode(), "has no rows; name a table with interactions."),
    "utf-16": ("log.csv", (HEADER + GOOD).encode("utf-16"), "is UTF-16, by its first bytes"),
    "no Parquet": ("log.parquet", (HEADER + GOOD).encode(), "not a whole Parquet file"),
    "empty Parquet": ("log.parquet", b"", "not a whole Parquet file"),
    "no Arrow": ("log.arrow", (HEADER + GOOD).encode(), "not a whole Arrow file"),
    "no gzip": ("log.csv.gz", (HEADER + GOOD).encode(), "not a whole .gz file"),
    "no bzip2": ("log.csv.bz2", (HEADER + GOOD).encode(), "not a whole .bz2 file"),
    "no zstd": ("log.csv.zst", (HEADER + GOOD).encode(), "not a whole .zst file"),
    "unknown": ("log.xlsx", b"PK", "the end of a file's name says its format"),
}


@pytest.mark.parametrize("case", WHOLE_FILES)
def test_a_file_that_is_not_what_it_should_be_is_named(case, tables, raw_folder):
    name, content, sentence = WHOLE_FILES[case]
    message = refusal(tables, name, content)
    assert message.startswith(f"{raw_folder}/{name}: "), message
    assert sentence in message


@pytest.mark.parametrize("form", ["parquet", "feather", "csv.gz", "csv.bz2", "csv.zst"])
def test_a_truncated_file_is_refused_wherever_it_is_cut(form, tables, raw_folder):
    generator = np.random.default_rng(0)
    table = arrow(
        [(int(u), int(i), n) for n, (u, i) in enumerate(generator.integers(99, size=(999, 2)))]
    )
    path = raw_folder / f"log.{form}"
    plain = text(zip(*table.to_pydict().values(), strict=True)).encode()
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "feather":
        feather.write_feather(table, path)
    elif form == "csv.zst":
        with pa.CompressedOutputStream(str(path), "zstd") as out:
            out.write(plain)
    else:
        path.write_bytes({"csv.gz": gzip, "csv.bz2": bz2}[form].compress(plain))
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        message = refusal(tables, path.name, whole[: int(len(whole) * share)])
        assert message.startswith(f"{path}: not a whole "), message
    assert tables(path.name, whole).info["rows_read"] == 999


def test_a_damaged_row_group_is_refused_by_file(tables, raw_folder):
    path = raw_folder / "log.parquet"
    pq.write_table(
        arrow([(f"user {n}", "x", n) for n in range(1000)]), path, write_statistics=False
    )
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396  # the first page
    message = refusal(tables, path.name, bytes(data))
    assert message.startswith(f"{path}, row group 1: cannot be read "), message


def test_files_whose_types_differ_are_refused(tables, raw_folder):
    folder = raw_folder / "log"
    folder.mkdir()
    pq.write_table(arrow([(1, "x", 1)]), folder / "a.parquet")
    pq.write_table(arrow([("1", "x", 1)]), folder / "b.parquet")
    assert refusal(tables, "log") == (
        f"{folder}/b.parquet: its column who is string, and in {folder}/a.parquet it is int64; "
        "write all files with one type."
    )
    pq.write_table(arrow([(1, "x")], COLUMNS[:2]), folder / "b.parquet")
    assert f"{folder}/b.parquet: has no column 'when'" in refusal(tables, "log")
    # a column that nobody asked for may come and go
    pq.write_table(arrow([(2, "x", 1, 5)], (*COLUMNS, "extra")), folder / "b.parquet")
    assert ids(tables("log"), "user") == [1, 2]


@pytest.mark.slow
def test_text_files_whose_headers_differ_are_refused(tables, raw_folder):
    (raw_folder / "log").mkdir()
    (raw_folder / "log/a.csv").write_text(text())
    (raw_folder / "log/b.csv").write_text(text(columns=("what", "who", "when")))
    message = refusal(tables, "log")
    assert message.startswith(f"{raw_folder}/log/b.csv, line 1: its columns are what, who, when, ")
    (raw_folder / "log/b.csv").write_text("who,what,when\na,x,1\n,x,2\n")
    assert refusal(tables, "log").startswith(f"{raw_folder}/log/b.csv, line 3: who is missing")


def test_folders_without_or_with_several_formats_and_uneven_partitions_are_refused(
    tables,
    raw_folder,
):
    folder = raw_folder / "log"
    folder.mkdir()
    assert f"{folder}: holds no file of a known format" in refusal(tables, "log")
    (folder / "day=1").mkdir()
    (folder / "day=1/a.csv").write_text(text())
    (folder / "b.csv").write_text(text())
    message = refusal(tables, "log")
    assert message.startswith(f"{folder}/day=1/a.csv: is partitioned by day, and {folder}/b.csv by")
    (folder / "b.csv").unlink()
    pq.write_table(arrow(), folder / "b.parquet")
    assert f"{folder}: holds parquet and text files" in refusal(tables, "log")


@pytest.mark.parametrize(
    ("column", "kind", "sentence"),
    [
        ("who", pa.float64(), "who is float64 (a missing id makes pandas write numbers"),
        ("what", pa.bool_(), "what is boolean; ids are integers or text"),
        ("what", pa.list_(pa.int64()), "what is array<int64>; ids are integers or text"),
        ("when", pa.bool_(), "when is boolean; times are whole numbers"),
        ("when", pa.time64("us"), "when is time; times are whole numbers"),
    ],
)
def test_a_column_of_a_type_that_cannot_serve_is_refused(
    column,
    kind,
    sentence,
    tables,
    raw_folder,
):
    table = arrow([("a", "x", 1)])
    table = table.set_column(COLUMNS.index(column), column, pa.nulls(1, kind))
    pq.write_table(table, raw_folder / "log.parquet")
    message = refusal(tables, "log.parquet")
    assert message.startswith(f"{raw_folder}/log.parquet: its column {sentence}"), message


@pytest.mark.parametrize(
    ("column", "values", "sentence"),
    [
        ("who", pa.array(["a", None, "c"]), "row 2: who is missing"),
        ("what", pa.array([1, 2, None]), "row 3: what is missing"),
        ("when", pa.array([1.0, 2.0, float("nan")]), "row 3: when is missing"),
        ("when", pa.array([1.0, float("inf"), 2.0]), "row 2: when is 'inf', not a number"),
        ("when", pa.array([1.0, 1e300, 2.0]), "row 2: when is '1e+300', not a number"),
    ],
)
def test_a_bad_row_of_parquet_is_refused_by_row(
    column,
    values,
    sentence,
    tables,
    raw_folder,
):
    table = arrow([("a", "x", 1), ("b", "x", 1), ("c", "x", 1)])
    table = table.set_column(COLUMNS.index(column), column, values)
    pq.write_table(table.slice(0, 1), raw_folder / "0.parquet")
    pq.write_table(table, raw_folder / "1.parquet", row_group_size=1)
    message = refusal(tables, "*.parquet")
    assert message.startswith(f"{raw_folder}/1.parquet, {sentence}"), message


@pytest.mark.parametrize(
    ("stars", "sentence"),
    [(None, "missing"), (float("nan"), "missing"), (float("inf"), "'inf', not a")],
)
@pytest.mark.slow
def test_a_rating_that_is_no_number_is_refused_only_where_it_decides(
    stars, sentence, tables, raw_folder
):
    table = arrow([("a", "x", 1, 5.0), ("a", "y", 2, stars)], (*COLUMNS, "stars"))
    pq.write_table(table, raw_folder / "log.parquet")
    rated = {"rating": "stars", "min_rating": 3}
    message = refusal(tables, "log.parquet", interactions=rated)
    assert message.startswith(f"{raw_folder}/log.parquet, row 2: stars is {sentence}"), message
    assert tables("log.parquet", interactions=rated, on_bad_row="reject").info["rejected"] == 1
    assert tables("log.parquet").info["train"] == 2


def test_an_infinite_attribute_is_refused_by_row(tables, raw_folder):
    people = pa.table({"name": ["Ana", "Bo"], "age": [1.0, float("-inf")]})
    pq.write_table(people, raw_folder / "users.parquet")
    users = {"path": "users.parquet", "id": "name", "numeric": ["age"]}
    message = refusal(tables, "log.csv", text(), users=users)
    assert message.startswith(f"{raw_folder}/users.parquet, row 2: age is '-inf', not a finite")


def test_a_bad_attribute_and_a_double_id_are_refused_by_line(tables, raw_folder):
    users = {"path": "users.csv", "id": "name", "numeric": ["age"]}
    (raw_folder / "users.csv").write_text(USERS)
    message = refusal(tables, "log.csv", text(), users=users)
    assert message.startswith(f"{raw_folder}/users.csv, line 3: age is 'NA', not a finite number")
    (raw_folder / "users.csv").write_text(USERS + "Ana,pro,1,,\n")
    message = refusal(tables, "log.csv", users={**users, "missing": ["NA"]})
    assert f"{raw_folder}/users.csv, line 5: name Ana stands in an earlier row" in message
    named_twice = {**users, "categorical": ["age"]}
    assert "names the column 'age' twice" in refusal(tables, "log.csv", users=named_twice)
    message = refusal(tables, "log.csv", users={**users, "numeric": [], "categorical": ["plna"]})
    assert message.endswith("its columns are name, plan, age, tags, score. Did you mean plan?")


def test_ids_that_are_numbers_here_and_text_there_are_refused(tables, raw_folder):
    pq.write_table(arrow([(1, "x", 1)]), raw_folder / "log.parquet")
    pq.write_table(arrow([("1",)], ("user_id",)), raw_folder / "users.parquet")
    message = refusal(tables, "log.parquet", users={"path": "users.parquet"})
    assert "set data.tables.user_ids to 'integer' or 'string'" in message
    users = {"path": "users.parquet"}
    assert ids(tables("log.parquet", users=users, user_ids="string"), "user") == ["1"]
    assert ids(tables("log.parquet", users=users, user_ids="integer"), "user") == [1]


def test_rejected_rows_are_counted_and_listed_with_line_and_reason(tables, raw_folder):
    content = "who,what,when\na,x,1\na\n,y,2\n\nb,y,noon\nb,y,3,4\nb,y,5\nc,,\n"
    users = "name,age\na,5\nb,old\na,6\nb,7\n,8\n"
    (raw_folder / "users.csv").write_text(users)
    artifact = tables(
        "log.csv",
        content,
        on_bad_row="reject",
        users={"path": "users.csv", "id": "name", "numeric": ["age"]},
    )
    folder = artifact.path / "rejected"
    found = pq.read_table(folder / "interactions.parquet").to_pylist()
    assert {row["file"] for row in found} == {str(raw_folder / "log.csv")}
    assert [(row["line"], row["reason"], row["row"]) for row in found] == [
        (3, "has fewer fields than the 3 of the header", "a"),
        (7, "has more fields than the 3 of the header", "b,y,3,4"),
        (4, "who is missing", "who=; what=y; when=2"),
        (6, "when is 'noon', not a whole number of 64 bits", "who=b; what=y; when=noon"),
        (9, "what is missing", "who=c; what=; when="),
    ]
    assert (artifact.info["rows_read"], artifact.info["rejected"]) == (7, 5)
    assert artifact.info["train"] == 2
    listed = pq.read_table(folder / "users.parquet").to_pylist()
    assert [(row["line"], row["reason"]) for row in listed] == [
        (3, "age is 'old', not a finite number"),
        (4, "name a stands in an earlier row"),
        (6, "name is missing"),
    ]
    assert artifact.info["rejected_users"] == 3
    # user b's good row counts, though a bad one stands before it
    assert pq.read_table(artifact.path / "users.parquet")["age"].to_pylist() == [1, 2]


@pytest.mark.slow
def test_where_a_row_ends_must_be_known_to_reject_it(tables):
    content = HEADER + GOOD + 'c,"x,3\n' + GOOD
    message = refusal(tables, "log.csv", content, on_bad_row="reject")
    assert f"line 4: {QUOTE}" in message


def test_without_any_good_row_there_is_nothing_to_go_on_with(tables):
    message = refusal(tables, "log.csv", HEADER + ",x,1\n,y,2\n", on_bad_row="reject")
    assert "log.csv: has no good row among its 2" in message


@pytest.mark.slow
def test_lines_of_rejected_rows_are_right_in_a_large_file(tables, raw_folder):
    """Large enough to be parsed in parallel, and with line breaks inside quotes on the way."""
    short, late, lines = [], [], 2  # line 1 is the header
    with (raw_folder / "log.csv").open("w") as out:
        out.write(HEADER)
        for n in range(1_500_000):
            if n % 400_000 == 399_999:
                out.write(f"user {n}\n")
                short.append(lines)
            elif n % 300_000 == 299_999:
                out.write(f"user {n},x,noon\n")
                late.append(lines)
            elif n % 1000 == 7:
                out.write(f'"user\n{n}",x,{n}\n\n')
                lines += 2
            else:
                out.write(f"user {n},item {n % 50},{n}\n")
            lines += 1
    artifact = tables("log.csv", on_bad_row="reject")
    found = pq.read_table(artifact.path / "rejected/interactions.parquet").to_pylist()
    assert [row["line"] for row in found] == [*short, *late]
    assert artifact.info["rows_read"] == 1_500_000
    kept = artifact.info["train"] + artifact.info["val"] + artifact.info["test"]
    assert kept == 1_500_000 - len(short) - len(late)


def damage(content: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, taken out or put in."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data))
        step = draw.randrange(4)
        if step == 0:
            data[at] = draw.randrange(256)
        elif step == 1:
            del data[at : at + draw.randint(1, 20)]
        elif step == 2:
            data[at:at] = draw.choice([b'"', b",", b"\n", b"\r\n", b"\0", b"\xff", b"'", b"\\"])
        else:
            del data[at:]
        data = data or bytearray(b"\n")
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "parquet", "feather", "csv.gz", "csv.zst"])
@pytest.mark.parametrize("on_bad_row", ["error", "reject"])
def test_damaged_files_end_in_a_sentence_or_a_whole_dataset(
    form,
    on_bad_row,
    tables,
    raw_folder: Path,
):
    table = arrow([(f"u{n % 7}", f"i{n % 11}", n) for n in range(60)])
    path = raw_folder / f"log.{form}"
    if form == "parquet":
        pq.write_table(table, path, row_group_size=16)
    elif form == "feather":
        feather.write_feather(table, path)
    else:
        plain = text(zip(*table.to_pydict().values(), strict=True)).encode()
        if form == "csv.zst":
            with pa.CompressedOutputStream(str(path), "zstd") as out:
                out.write(plain)
        else:
            path.write_bytes(gzip.compress(plain) if form == "csv.gz" else plain)
    whole = path.read_bytes()
    draw = random.Random(f"{form} {on_bad_row}")
    sentences: list[str] = []
    for _ in range(60):
        try:
            info = tables(path.name, damage(whole, draw), on_bad_row=on_bad_row).info
        except CadcError as error:
            sentences.append(str(error))
            continue
        kept = info["train"] + info["val"] + info["test"] + info["duplicates_dropped"]
        assert kept == info["rows_read"] - info.get("rejected", 0)
    assert all(sentence.startswith(str(path)) for sentence in sentences), sentences
