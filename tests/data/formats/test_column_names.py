"""A column may be called like what the reader adds to each row, or is refused by name."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from cadc_rec.data.formats.lines import USUAL
from cadc_rec.data.inspect.inspect import inspect_path
from tests.data.own_tables import ROWS, arrow, ids, json_lines, quick_first, refusal, text

pytestmark = pytest.mark.slow  # together; each by itself is quick


def write(folder, form, columns):
    """ROWS in two files."""
    folder.mkdir()
    for number, rows in enumerate([ROWS[:3], ROWS[3:]]):
        if form == "parquet":
            pq.write_table(arrow(rows, columns), folder / f"{number}.parquet")
        else:
            content = text(rows, columns) if form == "csv" else json_lines(rows, columns)
            (folder / f"{number}.{form}").write_text(content)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("names", quick_first(["filename name start", "Filename json row"]))
def test_names_of_the_readers_are_names_like_any_other(form, names, tables, raw_folder):
    columns = names.split()
    expected = tables("log.csv", text())
    write(raw_folder / "d", form, columns)
    keys = dict(zip(("user", "item", "timestamp"), columns, strict=True))
    found = tables("d", workdir="w", interactions=keys)
    assert ids(found, "user") == ids(expected, "user") == ["Ana", "Bo"]
    assert found.fingerprint == expected.fingerprint
    bad = {"csv": ",x,1\n", "jsonl": json_lines([("", "x", 1)], columns)}
    if form in bad:
        with (raw_folder / "d" / f"1.{form}").open("a") as out:
            out.write(bad[form])
        line = 5 if form == "csv" else 4
        message = refusal(tables, "d", interactions=keys)
        assert f"d/1.{form}, line {line}: {columns[0]} is missing" in message


@pytest.mark.parametrize(
    ("form", "name"), [("csv", "__row"), ("jsonl", "__FILE"), ("parquet", "file_row_number")]
)
def test_names_that_are_used_while_reading_are_refused(form, name, tables, raw_folder):
    write(raw_folder / "d", form, (name, "what", "when"))
    message = refusal(tables, "d", interactions={"user": name})
    assert f"d/0.{form}: has a column {name}, a name that" in message
    assert message.endswith("rename it.")


def test_inspect_looks_at_a_column_called_filename(raw_folder):
    write(raw_folder / "d", "parquet", ("filename", "what", "when"))
    (found,) = inspect_path(str(raw_folder / "d"), USUAL, None).tables
    assert [(c.name, c.distinct) for c in found.columns] == [
        ("filename", 2),
        ("what", 3),
        ("when", 5),
    ]
