"""Ids that differ in form only are made alike, in the same way by every reader of them."""

from __future__ import annotations

import unicodedata

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadc_rec.data.id_forms import ID_FORMS, SPACES, in_form, meet
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


def test_rows_and_interactions_that_meet_nothing_are_counted():
    found = meet("item", pa.array(["a", "b", "c"]), pa.array(["b", "d"]), pa.array([5, 2]))
    assert found.counts() == {
        "item_rows": 3,
        "item_rows_without_interactions": 2,
        "interactions_without_item_row": 2,
    }
    assert found.reason == ()
    assert found.sentence() == (
        "2 of 3 rows of the items' table meet no interaction, and 2 of 7 interactions meet no row "
        "of it; the table alone has 'a', and the interactions alone have 'd'."
    )
    nothing = meet("item", pa.array([7, 8]), pa.array([1]), pa.array([5]))
    assert nothing.sentence().endswith(
        "; the table alone has '7', and the interactions alone have '1': check that "
        "data.tables.items.id names the right column."
    )


def test_a_catalogue_of_which_little_was_taken_is_no_fault():
    found = meet("item", pa.array(["a", "b", "c"]), pa.array(["b"]), pa.array([5]))
    assert found.reason == ()
    assert found.sentence().endswith("and 0 of 5 interactions meet no row of it.")
    everything = meet("item", pa.array(["a", "b"]), pa.array(["b", "a"]), pa.array([5, 1]))
    assert everything.sentence() == ""


@pytest.mark.parametrize(
    ("table", "taken", "reason", "shown"),
    [
        (["101", "102"], ["101.0", "102.0"], ("integer-like",), "'101' in the table is written"),
        (["i0 ", "i1 "], ["i0", "i1"], ("trim",), "'i0 ' in the table is written 'i0'"),
        (["001", "2"], ["1", "02"], ("integer-like",), "'001' in the table is written '1'"),
        (
            ["caf\u00e9"],
            ["cafe\u0301"],
            ("nfc",),
            r"'caf\xe9' in the table is written 'cafe\u0301'",
        ),
        ([" 7.0"], ["07"], ("trim", "integer-like"), "' 7.0' in the table is written '07'"),
    ],
    ids=["floats", "spaces", "zeros", "accents", "two at once"],
)
def test_the_likely_reason_is_named_with_an_example_of_each_side(table, taken, reason, shown):
    found = meet("item", pa.array(table), pa.array(taken), pa.array([1] * len(taken)))
    assert found.reason == reason
    assert shown in found.sentence()
    forms = ", ".join(f'"{form}"' for form in reason)
    assert found.sentence().endswith(f"set data.tables.normalize_ids = [{forms}].")


def test_ids_that_are_known_count_as_met():
    found = meet("user", pa.array([1, 2]), pa.array([3, 4]), pa.array([1, 1]), pa.array([1, 3]))
    assert (found.table_alone, found.interactions_alone) == (1, 1)
