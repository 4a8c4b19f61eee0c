"""The forms in which people have text: archives, encodings, separators, no header, JSON Lines."""

from __future__ import annotations

import bz2
import gzip
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.engine import load_installed, open_engine
from cadc_rec.data.tables.files import find_files
from cadc_rec.data.tables.lines import TextFormat
from cadc_rec.data.tables.open import open_table
from cadc_rec.errors import CadcError
from tests.data.own_tables import COLUMNS, ROWS, arrow, ids, quick_first, text

SIGNS = [("Bö€", "“x”", 1), ("Bö€", "žy", 2), ("Ann", "“x”", 3), ("Ann", "žy", 4)]


def refusal(tables, *arguments, **settings) -> str:
    with pytest.raises(CadcError) as caught:
        tables(*arguments, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "path",
    quick_first(
        [
            "one.zip",
            "one.zip/log.csv",
            "many.zip/d",
            "many.zip/d/*.csv",
            "gz.zip",
            "lines.zip",
            "p?.zip",
        ]
    ),
)
def test_what_is_in_an_archive_is_the_same_table(path, tables, raw_folder):
    expected = tables("log.csv", text()).fingerprint
    parts = {f"d/part-{n}.csv": text(ROWS[3 * n : 3 * n + 3]) for n in range(2)}
    zipped(raw_folder / "one.zip", {"log.csv": text(), "__MACOSX/._log.csv": "x", "README": "x"})
    zipped(raw_folder / "many.zip", {**parts, "users.tsv.gz": gzip.compress(b"who\n")})
    zipped(raw_folder / "gz.zip", {"log.csv.gz": gzip.compress(text().encode())})
    zipped(raw_folder / "lines.zip", {"log.jsonl": json_lines()})
    zipped(raw_folder / "p0.zip", {"part-0.csv": text(ROWS[:3])})
    zipped(raw_folder / "p1.zip", {"part-1.csv": text(ROWS[3:])})
    assert tables(path, workdir="w").fingerprint == expected


@pytest.mark.slow
def test_compressed_files_that_differ_in_the_last_suffix_are_two(tables, raw_folder):
    (raw_folder / "d").mkdir()
    (raw_folder / "d/log.csv.gz").write_bytes(gzip.compress(text(ROWS[:2]).encode()))
    (raw_folder / "d/log.csv.bz2").write_bytes(bz2.compress(text(ROWS[2:]).encode()))
    (raw_folder / "d/log.csv").write_text(text([("Cy", "x", 1)]))
    artifact = tables("d")
    assert artifact.info["rows_read"] == 7
    assert ids(artifact, "user") == ["Ana", "Bo", "Cy"]


@pytest.mark.slow
def test_a_folder_is_without_its_archives(tables, raw_folder):
    expected = tables("d/log.csv", text())
    zipped(raw_folder / "d/log.zip", {"log.csv": text()})
    (raw_folder / "d/notes.json").write_text("{}")
    found = tables("d", workdir="beside")
    assert found.info["rows_read"] == expected.info["rows_read"] == 6


def test_an_unsafe_archive_is_refused_before_anything_is_written(tables, raw_folder, tmp_path):
    bomb = {"log.csv": text() + "Ana,x,1\n" * (4 << 20)}
    for name, members, sentence in [
        ("up.zip", {"log.csv": text(), "../evil.csv": text()}, "points outside its folder"),
        ("root.zip", {"/evil.csv": text()}, "points outside its folder"),
        ("bomb.zip", bomb, "would expand from"),
    ]:
        zipped(raw_folder / name, members)
        message = refusal(tables, name)
        assert message.startswith(f"{raw_folder}/{name}: entry "), message
        assert sentence in message
        assert "unpack it yourself" in message
    (raw_folder / "cut.zip").write_bytes((raw_folder / "up.zip").read_bytes()[:-30])
    assert "not a whole zip file" in refusal(tables, "cut.zip")
    zipped(raw_folder / "none.zip", {"log.parquet": b"PAR1"})
    assert "holds no file of a known format" in refusal(tables, "none.zip")
    zipped(raw_folder / "good.zip", {"a/log.csv": text(), "README": "x"})
    for entry in ("log.csv", "README", "a/*.tsv"):
        message = refusal(tables, f"good.zip/{entry}")
        assert f"good.zip/{entry}: no such file in the archive, which holds a/log.csv" in message
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    ("encoding", "python"),
    quick_first(
        [
            ("windows-1252", "cp1252"),
            ("cp1252", "cp1252"),
            ("utf-16", "utf-16"),
            ("UTF-16LE", "utf-16-le"),
            ("utf-16-be", "utf-16-be"),
            ("utf-8-sig", "utf-8-sig"),
        ]
    ),
)
def test_an_encoding_changes_no_value(encoding, python, tables):
    expected = tables("log.csv", text(SIGNS)).fingerprint
    content = text(SIGNS).replace("\n", "\r\n").encode(python)
    found = tables("log.csv", content, workdir="w", encoding=encoding)
    assert found.fingerprint == expected
    assert ids(found, "user") == ["Ann", "Bö€"]
    packed = tables("log.csv.gz", gzip.compress(content), workdir="z", encoding=encoding)
    assert packed.fingerprint == expected


def test_a_byte_that_no_letter_has_is_named_by_its_line(tables, raw_folder):
    for number, (encoding, content) in enumerate(
        [
            ("latin-1", text(SIGNS).encode("cp1252")),
            ("windows-1252", text().encode() + b"a\x81,x,1\n"),
            ("utf-16", text().encode("utf-16") + "a,x,1\n".encode("utf-16-le")[:-1]),
            ("gb18030", text().encode() + b"a\xff\xff,x,1\n"),
        ]
    ):
        line = 2 if encoding == "latin-1" else 8
        message = refusal(tables, "log.csv", content, workdir=f"w{number}", encoding=encoding)
        assert message.startswith(f"{raw_folder}/log.csv, line {line}: is not {encoding}"), message
    found = tables(
        "log.csv", text().encode() + b"a\x81,x,1\n", encoding="cp1252", on_bad_row="reject"
    )
    assert (found.info["rows_read"], found.info["rejected"]) == (7, 1)
    message = refusal(tables, "log.csv", text().encode("utf-16"))
    assert "set data.tables.encoding = 'utf-16'" in message


@pytest.mark.parametrize("sign", quick_first(["::", "||", "<->", " | ", "¦", ";"]))
def test_a_separator_may_have_several_characters(sign, tables, raw_folder):
    # Every value holds a piece of the separator.
    piece = sign[0] if len(sign) > 1 else "-"
    rows = [(f"{who}{piece}x", f"a {what}", when) for who, what, when in ROWS]
    content = "".join(sign.join(map(str, row)) + "\n" for row in [COLUMNS, *rows])
    found = tables("log.dat", content, delimiter=sign)
    assert ids(found, "user") == [f"Ana{piece}x", f"Bo{piece}x"]
    assert found.info["rows_read"] == 6
    bad = content.replace(f"{sign}9\n", f"{sign}nine\n") + '"q\nr"' + f"{sign}b{sign}x\n"
    message = refusal(tables, "log.dat", bad, delimiter=sign)
    assert message.startswith(f"{raw_folder}/log.dat, line 2: when is 'nine'"), message
    quoted = content + '"q\nr"' + f"{sign}b{sign}x\n"
    assert ", line 8: when is 'x'" in refusal(tables, "log.dat", quoted, delimiter=sign)


def test_a_delimiter_or_encoding_that_cannot_be_is_refused(tables):
    for setting, words in [
        ({"delimiter": "abcde"}, "at most four bytes"),
        ({"delimiter": '"'}, "holds no quote"),
        ({"encoding": "klingon"}, "should be a character set"),
        ({"encoding": "rot13"}, "should be a character set"),
        ({"interactions": {"columns": ["who", "Who"]}}, "every column has a name of its own"),
    ]:
        with pytest.raises(ValueError, match=words):
            tables("log.csv", text(), **setting)


@pytest.mark.parametrize(
    ("name", "sign"), quick_first([("log.csv", ","), ("log.tsv", "\t"), ("log.dat", "::")])
)
def test_columns_name_those_of_a_file_without_a_header(name, sign, tables, raw_folder):
    header, *lines = text(delimiter="\t").replace("\t", sign).splitlines(keepends=True)
    expected = tables("named.csv", text()).fingerprint
    settings = {"interactions": {"columns": list(COLUMNS)}}
    if sign == "::":
        settings["delimiter"] = sign
    body = "".join(lines)
    assert tables(name, "\n" + body, workdir="w", **settings).fingerprint == expected
    message = refusal(tables, name, body + f"a{sign}b\n", **settings)
    assert f"{name}, line 7: has fewer fields than the 3 of the config" in message
    message = refusal(tables, name, body + f"a{sign}b{sign}c\n", **settings)
    assert message.startswith(f"{raw_folder}/{name}, line 7: when is 'c'")
    assert "line 1: names the columns itself" in refusal(tables, name, header + body, **settings)


def test_a_missing_header_or_another_separator_is_suspected(tables):
    message = refusal(tables, "log.csv", "a,x,1\nb,y,2\n")
    assert message.endswith(
        "If the first line is a row, name the columns in data.tables.interactions.columns."
    )
    message = refusal(tables, "log.csv", text(delimiter=";"))
    assert message.endswith("separated by ';', set data.tables.delimiter to it.")
    message = refusal(tables, "log.csv", text(), interactions={"columns": ["who", "item", "when"]})
    assert "These are the names that data.tables.interactions.columns gives." in message


@pytest.mark.parametrize("start", quick_first(["\n", "\r\n", ",,\n", "  \n", "\n\n\n"]))
def test_a_blank_first_line_is_named_as_such(start, tables, raw_folder):
    message = refusal(tables, "log.csv", start + text())
    assert message.startswith(f"{raw_folder}/log.csv: line 1 is blank")


def test_excels_line_of_the_separator_is_named(tables):
    content = "sep=;\n" + text(delimiter=";")
    for sign in (";", ","):
        assert "line 1 is 'sep=" in refusal(tables, "log.csv", content, delimiter=sign)


def json_lines(rows=ROWS, columns=COLUMNS) -> str:
    return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)


@pytest.mark.parametrize("form", quick_first(["log.json", "log.ndjson", "log.jsonl.gz", "hive"]))
def test_json_lines_are_the_same_table(form, tables, raw_folder):
    expected = tables("log.csv", text()).fingerprint
    content = json_lines()
    forms = {
        "log.json": content.replace('"when": 9', '"when": "9"').encode(),
        "log.ndjson": b"\xef\xbb\xbf" + content.replace("\n", "\r\n\r\n").encode(),
        "log.jsonl.gz": gzip.compress(content.encode()),
    }
    for name, data in forms.items():
        (raw_folder / name).write_bytes(data)
    for who in ("Ana", "Bo"):
        part = json_lines([row[1:] for row in ROWS if row[0] == who], COLUMNS[1:])
        (raw_folder / f"hive/who={who}").mkdir(parents=True)
        (raw_folder / f"hive/who={who}/0.jsonl").write_text(part)
    assert tables(form, workdir="w").fingerprint == expected


def test_json_values_keep_their_meaning(tables, raw_folder):
    big = 2**63 - 1
    lines = [
        {"who": big, "what": "007", "when": 5, "x/y": 1.5, "tags": ["b", "a", None]},
        {"who": 1, "what": "é\n", "when": 6, "x/y": float("nan"), "tags": []},
        {"who": 1, "what": "007", "when": 7, "extra": {"a": 1}},
    ]
    (raw_folder / "items.jsonl").write_text(
        '{"what": "007", "tags": ["b", "a", null], "x/y": 1.5}\n'
        '{"what": "\\u00e9\\n", "tags": [], "x/y": NaN}\n'
    )
    artifact = tables(
        "log.jsonl",
        "".join(json.dumps(line) + "\n" for line in lines),
        user_ids="string",
        items={"path": "items.jsonl", "id": "what", "multi": ["tags"], "numeric": ["x/y"]},
    )
    assert ids(artifact, "user") == ["1", str(big)]
    assert ids(artifact, "item") == ["007", "é\n"]
    described = json.loads((artifact.path / "attributes.json").read_text("utf-8"))["item"]
    assert described[0]["vocabulary"] == ["a", "b"]
    assert artifact.info["rows_read"] == 3


@pytest.mark.parametrize(
    "bad", quick_first(["{", "5", '["Ana"]', '{"who": 1} {"who": 2}', '{"who": "\x01"}'])
)
def test_a_line_that_is_no_object_is_named_or_counted(bad, tables, raw_folder):
    content = json_lines(ROWS[:2]) + "\n" + bad + "\n" + json_lines(ROWS[2:])
    message = refusal(tables, "log.jsonl", content)
    assert message.startswith(f"{raw_folder}/log.jsonl, line 4: is no JSON object: "), message
    artifact = tables("log.jsonl", content, on_bad_row="reject")
    assert (artifact.info["rows_read"], artifact.info["rejected"]) == (7, 1)
    rejected = pq.read_table(artifact.path / "rejected/interactions.parquet").to_pylist()
    assert [(row["line"], row["row"]) for row in rejected] == [(4, bad)]
    missing = json_lines(ROWS[:2]) + '{"who": null, "what": "x", "when": 1}\n'
    assert ", line 3: who is missing" in refusal(tables, "log.jsonl", missing)
    assert "has no column 'when'" in refusal(tables, "log.jsonl", '{"who": 1, "what": 2}\n')


@pytest.mark.parametrize("indent", [None, 1])
def test_json_that_is_one_array_is_named_as_such(indent, tables, raw_folder):
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    message = refusal(tables, "log.json", json.dumps(rows, indent=indent))
    assert message.startswith(f"{raw_folder}/log.json, line 1: is no JSON object: '["), message


def micros(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 10**6


@pytest.mark.parametrize(
    ("form", "times"),
    quick_first(
        [
            ("%m/%d/%Y", ["1/15/2024", "01/05/2024", "12/31/1999"]),
            ("%d.%m.%Y", ["15.1.2024", "05.01.2024", "31.12.1999"]),
            ("%d %b %Y %I %p", ["15 Jan 2024 12 AM", "5 Jan 2024 12 am", "31 Dec 1999 12 AM"]),
            (
                "%d/%b/%Y:%H:%M:%S %z",
                [f"{day}:02:00:00 +0200" for day in ("15/Jan/2024", "05/Jan/2024", "31/Dec/1999")],
            ),
            ("%Y%m%d", ["20240115", "20240105", "19991231"]),
        ]
    ),
)
def test_a_format_says_how_times_are_written(form, times, tables, raw_folder):
    rows = [("Ana", item, time) for item, time in zip("xyz", times, strict=True)]
    artifact = tables("log.csv", text(rows), interactions={"format": form}, since="1990-01-01")
    found = [
        row["timestamp"]
        for name in ("train", "val.parquet", "test.parquet")
        for row in pq.read_table(artifact.path / name).to_pylist()
    ]
    assert found == [micros(1999, 12, 31), micros(2024, 1, 5), micros(2024, 1, 15)]
    message = refusal(
        tables, "log.csv", text([*rows, ("Bo", "x", "99/99/24")]), interactions={"format": form}
    )
    assert message.startswith(
        f"{raw_folder}/log.csv, line 5: when is '99/99/24', not a time like {form}"
    )


def test_a_format_that_cannot_be_is_refused(tables, raw_folder):
    assert "is not a form of times" in refusal(
        tables, "log.csv", text(), interactions={"format": "%Q"}
    )
    pq.write_table(pa.table({**arrow().to_pydict(), "when": [1.5] * 6}), raw_folder / "f.parquet")
    assert "needs no format" in refusal(tables, "f.parquet", interactions={"format": "%Y"})
    for settings in ({"timestamp": ""}, {"unit": "s"}, {"format": "Y-m-d"}):
        with pytest.raises(ValueError, match=r"data\.tables\.interactions\.format"):
            tables("log.csv", text(), interactions={"format": "%Y", **settings})


@pytest.mark.parametrize(
    "lists",
    quick_first(
        [
            ["['Action', 'Comedy']", "['Comedy']", "[]", "['Rock \\'n\\' Roll', \"It's\"]"],
            ['["Action", "Comedy"]', '["Com\\u0065dy"]', "", '["Rock \'n\' Roll", "It\'s"]'],
            ["[Action, Comedy]", " [Comedy] ", "[]", '["Rock \'n\' Roll", "It\'s"]'],
        ]
    ),
)
def test_lists_as_text_give_their_values(lists, tables, raw_folder):
    rows = list(zip("wxyz", lists, strict=True))
    (raw_folder / "items.csv").write_text(text(rows, ("id", "tags")))
    items = {"path": "items.csv", "id": "id", "lists": ["tags"]}
    artifact = tables("log.csv", text(), items=items)
    (attribute,) = json.loads((artifact.path / "attributes.json").read_text("utf-8"))["item"]
    assert attribute["kind"] == "multi"
    assert set(attribute["vocabulary"]) <= {"Action", "Comedy", "It's", "Rock 'n' Roll"}
    assert "Comedy" in attribute["vocabulary"]
    (raw_folder / "items.csv").write_text(text([*rows, ("v", "Action")], ("id", "tags")))
    message = refusal(tables, "log.csv", items=items)
    assert "tags is 'Action', not a list such as ['a', 'b']" in message


def lake(folder, kind: str) -> None:
    """A table's folder whose Parquet file also holds a row that its log has removed."""
    marks = {
        "delta": ["_delta_log/00000000000000000000.json"],
        "iceberg": ["metadata/v1.metadata.json"],
        "hudi": [".hoodie/hoodie.properties"],
    }
    for name in [*marks[kind], "data/part-0.parquet"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    pq.write_table(arrow([*ROWS, ("Removed", "x", 1)]), folder / "data/part-0.parquet")


@pytest.mark.parametrize("kind", ["delta", "iceberg", "hudi"])
def test_a_lake_is_never_read_as_plain_files(kind, tables, raw_folder, monkeypatch):
    monkeypatch.setattr("cadc_rec.data.engine.load_installed", lambda *_: False)
    lake(raw_folder / "log", kind)
    for path in ("log", "log/data", "log/data/*.parquet", "log/**/*.parquet"):
        message = refusal(tables, path)
        assert message.startswith(f"{raw_folder}/log: is a"), message
        assert {"delta": "Delta", "iceberg": "Iceberg", "hudi": "Hudi"}[kind] in message
    assert "plain Parquet files" in refusal(tables, "log")


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_lakes_rows_are_those_its_reader_gives(kind, tables, raw_folder, monkeypatch):
    """A macro stands for the reader of an extension that cannot be had for every DuckDB."""

    def install(connection, _):
        rows = raw_folder / "log/data/part-0.parquet"
        connection.execute(
            f"CREATE OR REPLACE TEMP MACRO {kind}_scan(folder) AS TABLE "
            f"SELECT * FROM '{rows}' WHERE who != 'Removed' AND folder LIKE '%/log'"
        )
        return True

    monkeypatch.setattr("cadc_rec.data.engine.load_installed", install)
    lake(raw_folder / "log", kind)
    artifact = tables("log")
    assert ids(artifact, "user") == ["Ana", "Bo"]
    assert artifact.info["rows_read"] == 6


@pytest.mark.slow
def test_a_real_delta_table_where_the_extension_is_at_hand(tables, raw_folder):
    deltalake = pytest.importorskip("deltalake")
    with duckdb.connect() as connection:
        if not load_installed(connection, "delta"):
            pytest.skip("no extension of this DuckDB: pip install duckdb-extension-delta")
    deltalake.write_deltalake(str(raw_folder / "log"), arrow([*ROWS, ("Removed", "x", 1)]))
    deltalake.DeltaTable(str(raw_folder / "log")).delete("who = 'Removed'")
    artifact = tables("log")
    assert ids(artifact, "user") == ["Ana", "Bo"]
    assert artifact.info["rows_read"] == 6


@pytest.mark.parametrize("name", quick_first(["log.csv.gz", "log.zip", "log.csv"]))
def test_a_bad_row_of_a_copy_is_found_from_a_relative_work_folder(
    name, raw_folder, monkeypatch, tmp_path
):
    """DuckDB's notes of bad rows name the copy in the work folder; none may be overlooked."""
    monkeypatch.chdir(tmp_path)
    content = text() + "Bo\n"
    encoding = "utf-16" if name == "log.csv" else "utf-8"
    if name == "log.zip":
        zipped(raw_folder / name, {"log.csv": content})
    else:
        data = content.encode(encoding)
        (raw_folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (found,) = find_files(name, "PATH", [raw_folder])
    scratch = Path("scratch")
    scratch.mkdir()
    with open_engine(scratch) as backend:
        layout = TextFormat("", encoding)
        scan = open_table(backend, found, "users", {"who": "id"}, layout, scratch, reject=True)
        assert [row.line for row in scan.unreadable] == [8]


def test_an_archive_that_may_not_be_read_is_named(tables, raw_folder, monkeypatch):
    zipped(raw_folder / "shop.zip", {"log.csv": text()})
    opened = Path.open

    def refuse(path, *arguments, **more):
        if path.name == "shop.zip":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CadcError, match=r"shop\.zip: cannot be read \(Permission denied\)"):
        tables("shop.zip")
