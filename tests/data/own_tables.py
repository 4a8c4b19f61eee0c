"""A small log of one's own, with ids of text and columns of any names."""

from __future__ import annotations

import csv
import io
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import CadcError

# Ana takes y and x at one time (file order decides) and y once more later; Bo has two only.
ROWS = [
    ("Ana", "z", 9),
    ("Ana", "y", 5),
    ("Ana", "x", 5),
    ("Ana", "y", 8),
    ("Bo", "x", 1),
    ("Bo", "z", 2),
]
COLUMNS = ("who", "what", "when")
INTERACTIONS = {"user": "who", "item": "what", "timestamp": "when"}


def text(rows=ROWS, columns=COLUMNS, delimiter=",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows([columns, *rows])
    return out.getvalue()


def arrow(rows=ROWS, columns=COLUMNS) -> pa.Table:
    return pa.table(dict(zip(columns, zip(*rows, strict=True), strict=True)))


USERS = """\
name,plan,age,tags,score
Ana,pro,30,a|b,1.5
Bo,,NA, b | a |b,
Cy,free,40,,2
"""


def ids(artifact, side):
    return pq.read_table(artifact.path / f"{side}s.parquet")[f"{side}_id"].to_pylist()


def quick_first(values):
    """Parameters of a test: the first in every run, the others where slow tests run too."""
    first, *others = values
    marked = [
        pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) for v in others
    ]
    return [first, *marked]


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


def json_lines(rows=ROWS, columns=COLUMNS) -> str:
    return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
