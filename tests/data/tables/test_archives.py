"""Archives and compressed files: what is in them is a table like any other, or they are refused."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path, PurePosixPath

import pytest

from cadc_rec.errors import CadcError
from tests.data.own_tables import (
    ROWS,
    ids,
    json_lines,
    quick_first,
    refusal,
    text,
    zipped,
)


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
        ("drive.zip", {"C:\\evil.csv": text()}, "points outside its folder"),
        ("slash.zip", {"C:/evil.csv": text()}, "points outside its folder"),
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
    "name", quick_first(["d/./log.csv", "./log.csv", "d//log.csv", "12:30.csv", "c:log.csv"])
)
def test_an_entry_whose_name_is_odd_and_harmless_is_read(name, tables, raw_folder):
    zipped(raw_folder / "odd.zip", {"./": "", name: text()})
    assert tables("odd.zip").info["rows_read"] == 6
    path = PurePosixPath("odd.zip", name)
    assert tables(str(path), workdir="w").info["rows_read"] == 6


def test_two_entries_of_one_path_are_refused(tables, raw_folder):
    zipped(raw_folder / "two.zip", {"log.csv": text(), "./log.csv": text()})
    assert "lists the entry log.csv more than once" in refusal(tables, "two.zip")


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
