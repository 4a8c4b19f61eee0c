"""JSON Lines are read like any other table; a line that is no object is named."""

from __future__ import annotations

import gzip
import json

import pyarrow.parquet as pq
import pytest

from cadc_rec.data.formats.lines import USUAL
from cadc_rec.data.inspect.inspect import inspect_path
from cadc_rec.errors import CadcError
from tests.data.own_tables import (
    COLUMNS,
    ROWS,
    ids,
    json_lines,
    quick_first,
    refusal,
    text,
)


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
@pytest.mark.slow
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


@pytest.mark.slow
def test_the_first_bad_line_of_all_files_is_named_and_rejected_ones_are_counted(tables, raw_folder):
    (raw_folder / "d").mkdir()
    bad = "[]\n" * 500
    (raw_folder / "d/0.jsonl").write_text(json_lines(ROWS[:2]))
    (raw_folder / "d/1.jsonl").write_text(json_lines(ROWS[2:4]) + "\n" + bad)
    (raw_folder / "d/2.jsonl").write_text("5\n" + json_lines(ROWS[4:]))
    message = refusal(tables, "d")
    assert message.startswith(f"{raw_folder}/d/1.jsonl, line 4: is no JSON object: '[]'"), message
    artifact = tables("d", on_bad_row="reject")
    assert (artifact.info["rows_read"], artifact.info["rejected"]) == (507, 501)
    rejected = pq.read_table(artifact.path / "rejected/interactions.parquet").to_pylist()
    assert [row["line"] for row in rejected] == [*range(4, 504), 1]


@pytest.mark.slow
def test_a_member_may_have_no_name_or_one_that_differs_in_case(tables, raw_folder):
    lines = [{**dict(zip(COLUMNS, row, strict=True)), "": 1, "WHO": "x"} for row in ROWS]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    assert ids(tables("log.jsonl", content), "user") == ["Ana", "Bo"]
    with pytest.raises(CadcError, match="has the members 'who' and 'WHO', which differ only in"):
        inspect_path(str(raw_folder / "log.jsonl"), USUAL, None)
    (raw_folder / "log.jsonl").write_text(content.replace('"WHO"', '" "'))
    (found,) = inspect_path(str(raw_folder / "log.jsonl"), USUAL, None).tables
    assert [column.name for column in found.columns] == list(COLUMNS)
