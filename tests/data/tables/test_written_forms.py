"""Times and lists in the forms that people write them in."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.own_tables import (
    arrow,
    quick_first,
    refusal,
    text,
)

pytestmark = pytest.mark.slow  # together; each by itself is quick


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
