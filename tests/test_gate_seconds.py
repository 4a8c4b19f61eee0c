"""The table of the gate's seconds is made from what `.ci/run` leaves."""

import pytest

from tools import gate_seconds

STEPS = "commit\tabc1234\ncores\t2\nquick tests\t240\nslow tests\t1000\n"


def test_each_step_has_its_row_and_the_last_row_is_their_sum():
    assert gate_seconds.table(STEPS).splitlines() == [
        "Commit abc1234, 2 cores:",
        "",
        "| step | seconds |",
        "|---|---|",
        "| quick tests | 240 |",
        "| slow tests | 1,000 |",
        "| all | 1,240 |",
    ]


def test_only_what_lies_between_the_marks_is_written():
    page = f"before\n{gate_seconds.BEGIN}\nold\n{gate_seconds.END}\nafter\n"
    once = gate_seconds.renewed(page, STEPS)
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert gate_seconds.renewed(once, STEPS) == once
    with pytest.raises(SystemExit, match="lacks the marks"):
        gate_seconds.renewed("no marks", STEPS)


def test_the_contributing_page_has_the_marks():
    page = gate_seconds.PAGE.read_text("utf-8")
    assert gate_seconds.renewed(page, STEPS) != page
