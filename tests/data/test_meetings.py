"""How tables of users and items and the interactions meet by their ids."""

from __future__ import annotations

import random

import ibis
import pytest

from cadc_rec.data.engine import open_engine
from cadc_rec.data.meetings import meet


def met(side, table, taken, rows, known=None, backend=None):
    """`meet`, of lists."""

    def ids(values, **more):
        return ibis.memtable({"id": values, **more})

    backend = backend or ibis.duckdb.connect()
    known = None if known is None else ids(known)
    return meet(backend, side, ids(table), ids(taken, rows=rows), known)


def test_rows_and_interactions_that_meet_nothing_are_counted():
    found = met("item", ["a", "b", "c"], ["b", "d"], [5, 2])
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
    nothing = met("item", [7, 8], [1], [5])
    assert nothing.sentence().endswith(
        "; the table alone has '7', and the interactions alone have '1': check that "
        "data.tables.items.id names the right column."
    )


def test_a_catalogue_of_which_little_was_taken_is_no_fault():
    found = met("item", ["a", "b", "c"], ["b"], [5])
    assert found.reason == ()
    assert found.sentence().endswith("and 0 of 5 interactions meet no row of it.")
    everything = met("item", ["a", "b"], ["b", "a"], [5, 1])
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
    found = met("item", table, taken, [1] * len(taken))
    assert found.reason == reason
    assert shown in found.sentence()
    forms = ", ".join(f'"{form}"' for form in reason)
    assert found.sentence().endswith(f"set data.tables.normalize_ids = [{forms}].")


def test_ids_that_are_known_count_as_met():
    found = met("user", [1, 2], [3, 4], [1, 1], [1, 3])
    assert (found.table_alone, found.interactions_alone) == (1, 1)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("kind", [str, int])
def test_counts_and_examples_are_those_of_pythons_sets(overlap, kind, tmp_path, monkeypatch):
    draw = random.Random(f"{overlap}{kind}")
    table = draw.sample(range(1000), 300)
    taken = [n if draw.random() < overlap else n + 1000 for n in table]
    known = draw.sample(range(2000), 50)
    rows = [draw.randrange(1, 9) for _ in taken]
    table, taken, known = ([kind(n) for n in ids] for ids in (table, taken, known))
    lone = {*table} - {*taken} - {*known}
    alone = {*taken} - {*table} - {*known}
    with open_engine(tmp_path) as backend:
        sizes = []

        def counted(values, ask=backend.to_pyarrow):
            found = ask(values)
            sizes.append(len(found) if hasattr(found, "num_rows") else 1)
            return found

        monkeypatch.setattr(backend, "to_pyarrow", counted)
        found = met("item", table, taken, rows, known, backend)
    assert max(sizes) == 1  # the ids themselves never leave the engine, and its limit of memory
    assert found.counts() == {
        "item_rows": 300,
        "item_rows_without_interactions": len(lone),
        "interactions_without_item_row": sum(
            n for one, n in zip(taken, rows, strict=True) if one in alone
        ),
    }
    assert found.reason == ()
    wanted = (min(map(str, lone)), min(map(str, alone))) if overlap < 0.5 else None
    assert found.examples == wanted


def test_of_two_forms_the_one_that_lets_more_meet_is_named_with_the_least_example():
    table = ["b ", "a ", "c ", "7.0", "x"]
    found = met("user", table, ["c", "b", "a", "7", "y"], [1] * 5)
    assert (found.reason, found.examples) == (("trim", "integer-like"), ("7.0", "7"))
    found = met("user", table[:3], ["c", "b", "a", "a\t"], [1] * 4)
    assert (found.reason, found.examples) == (("trim",), ("a ", "a"))
