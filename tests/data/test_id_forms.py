"""Ids that differ in form only are made alike, in the same way by every reader of them."""

from __future__ import annotations

import unicodedata

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadc_rec.data.id_forms import ID_FORMS, SPACES, in_form
from cadc_rec.data.tables.columns import in_id_form

PIECES = [*SPACES, "0", "1", "9", ".", "+", "-", "e", "\u0301", "\u00e9", "x", "\u1112\u1161"]
FORMS = st.lists(st.sampled_from(ID_FORMS), max_size=3)


def in_python(text: str, forms: list[str]) -> str:
    """The same in plain Python."""
    if "trim" in forms:
        text = text.strip(SPACES)
    if "nfc" in forms:
        text = unicodedata.normalize("NFC", text)
    if "integer-like" in forms:
        sign, digits = ("-", text[1:]) if text[:1] == "-" else ("", text.removeprefix("+"))
        whole, _, rest = digits.partition(".")
        if whole and set(whole) <= set("0123456789") and not rest.strip("0"):
            whole = whole.lstrip("0") or "0"
            text = whole if whole == "0" else sign + whole
    return text


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES)).map("".join), min_size=1, max_size=40), FORMS)
def test_duckdb_and_arrow_write_an_id_alike(texts, forms):
    wanted = [in_python(text, forms) for text in texts]
    assert in_form(pa.array(texts), forms).to_pylist() == wanted
    table = ibis.memtable(pa.table({"n": range(len(texts)), "id": texts}))
    read = table.select("n", id=in_id_form(table["id"], forms)).order_by("n")
    assert ibis.duckdb.connect().to_pyarrow(read)["id"].to_pylist() == wanted


@pytest.mark.parametrize(
    "column",
    [
        pa.array([101.0, 7.0, None, float("nan"), 2.0**60, 0.5]),
        pa.array([101.0, 7.0, None, None, 2.0**60, 0.5], pa.float32()),
    ],
    ids=["float64", "float32"],
)
def test_a_column_of_floats_holds_whole_numbers(column):
    table = ibis.memtable(pa.table({"n": range(len(column)), "id": column}))
    read = table.select("n", id=in_id_form(table["id"], ["integer-like"])).order_by("n")
    found = ibis.duckdb.connect().to_pyarrow(read)["id"].to_pylist()
    assert found[:4] == ["101", "7", None, None]
    assert found[5] == "0.5"


def test_numbers_stay_numbers_where_only_text_is_to_be_alike():
    column = ibis.memtable(pa.table({"id": [7, 8]}))["id"]
    assert in_id_form(column, ["trim", "nfc"]).type().is_integer()
    assert in_id_form(column, ["integer-like"]).type().is_string()
