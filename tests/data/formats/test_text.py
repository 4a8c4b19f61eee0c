"""The forms in which people have text: encodings, separators, no header."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cadc_rec.data.engine import open_engine
from cadc_rec.data.formats.lines import TextFormat
from cadc_rec.data.formats.open import open_table
from cadc_rec.data.tables.files import find_files
from tests.data.own_tables import (
    COLUMNS,
    ROWS,
    ids,
    quick_first,
    refusal,
    text,
    zipped,
)

SIGNS = [("Bö€", "“x”", 1), ("Bö€", "žy", 2), ("Ann", "“x”", 3), ("Ann", "žy", 4)]


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
@pytest.mark.slow
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
@pytest.mark.slow
def test_a_blank_first_line_is_named_as_such(start, tables, raw_folder):
    message = refusal(tables, "log.csv", start + text())
    assert message.startswith(f"{raw_folder}/log.csv: line 1 is blank")


def test_excels_line_of_the_separator_is_named(tables):
    content = "sep=;\n" + text(delimiter=";")
    for sign in (";", ","):
        assert "line 1 is 'sep=" in refusal(tables, "log.csv", content, delimiter=sign)


@pytest.mark.parametrize("name", quick_first(["log.csv.gz", "log.zip", "log.csv"]))
@pytest.mark.slow
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
