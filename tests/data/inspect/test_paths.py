"""The path that `inspect` writes to a config leads to the files it read, and to no others."""

from __future__ import annotations

import tomllib
import zipfile

import pytest

from cadc_rec.data.formats.lines import USUAL
from cadc_rec.data.inspect.inspect import inspect_path
from cadc_rec.data.inspect.paths import path_of
from cadc_rec.data.tables.files import FileSet, find_files, partition_keys
from cadc_rec.errors import CadcError
from tests.data.own_tables import json_lines

# The files of a folder, those among them that are the table, and the path that names them.
CASES = {
    "one file": ("a.csv b.csv", "a.csv", "d/a.csv"),
    "a folder": ("1.csv 2.csv", "1.csv 2.csv", "d"),
    "files of json": ("a.json b.json", "a.json b.json", "d/*.json"),
    "json beside others": ("a1.json a2.json b.json c.csv", "a1.json a2.json", "d/a*.json"),
    "an empty file between": ("p-0.csv p-1.csv p-2.csv", "p-0.csv p-2.csv", "d/[p]-[02].csv"),
    "folders": ("x/1.csv y/2.csv z.parquet", "x/1.csv y/2.csv", "d/**/*.csv"),
    "a partition": ("day=1/a.csv", "day=1/a.csv", "d"),
    "one partition of two": ("day=1/a.csv day=2/b.csv", "day=1/a.csv", "d/[d]ay=1/a.csv"),
    "compressed": ("a.csv a.csv.gz b.tsv", "a.csv a.csv.gz", "d/a.csv*"),
    "signs of patterns": ("[a]-1.csv [a]-2.csv [b].csv", "[a]-1.csv [a]-2.csv", "d/[[]a]-*.csv"),
    "points": ("2024.01.csv 2024.02.csv x.csv", "2024.01.csv 2024.02.csv", "d/2024.0*.csv"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_path_leads_to_the_files_alone(case, raw_folder):
    there, wanted, expected = CASES[case]
    for name in there.split():
        (raw_folder / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (raw_folder / "d" / name).touch()
    files = tuple(raw_folder / "d" / name for name in wanted.split())
    found = FileSet("json" if ".json" in wanted else "text", raw_folder / "d", files)
    path = path_of(found, raw_folder)
    assert path == expected
    assert path_of(found, None) == str(raw_folder / path)
    (read,) = find_files(path, "PATH", [raw_folder])
    assert (read.format, read.files) == (found.format, files)
    assert partition_keys(read) == partition_keys(found)


def test_entries_of_an_archive_are_named_alone(raw_folder):
    with zipfile.ZipFile(raw_folder / "shop.zip", "w") as archive:
        for name in ("log-1.csv", "log-2.csv", "users.csv"):
            archive.writestr(name, "x")
    place = raw_folder / "shop.zip"
    found = FileSet("text", place, (place / "log-1.csv", place / "log-2.csv"))
    assert path_of(found, raw_folder) == "shop.zip/log-*.csv"


def test_files_that_no_pattern_names_are_refused(raw_folder):
    for name in ("a.csv", "bc.csv", "d.csv"):
        (raw_folder / name).touch()
    found = FileSet("text", raw_folder, (raw_folder / "a.csv", raw_folder / "bc.csv"))
    with pytest.raises(CadcError, match=r"names the 2 files from a\.csv to bc\.csv and no others"):
        path_of(found, raw_folder)


def test_the_config_of_a_glob_of_json_reads_all_of_it(raw_folder, prepare):
    rows = [(f"u{n % 3}", f"i{n % 4}", n) for n in range(12)]
    (raw_folder / "d").mkdir()
    (raw_folder / "d/one.csv").write_text("")
    for number in range(2):
        part = json_lines(rows[number::2], ("user", "item", "time"))
        (raw_folder / f"d/log{number}.json").write_text(part)
    found = inspect_path(str(raw_folder / "d/*.json"), USUAL, None)
    data = tomllib.loads(found.config(raw_folder))["data"]
    assert data["tables"]["interactions"]["path"] == "d/log*.json"
    assert prepare(**data).info["rows_read"] == sum(t.rows for t in found.tables) == 12
