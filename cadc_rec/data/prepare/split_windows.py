"""The split of `split.py` as window functions, for an engine that works on all users at once.

In: dense rows in any order, each pair once, with the columns that sort a user's rows. Out: the same
rows, each with its part. The two files hold the same rule; a test compares them row by row.
"""

from __future__ import annotations

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from cadc_rec.data.prepare.split import HELD_OUT, TEST, VALIDATION

PART, COLD = "part", "cold"
LEFT, UNUSED = 0, 3
"""Beside `VALIDATION` and `TEST`: what is left to learn from, and what a split by time leaves out
since its user has an earlier row in the same span."""


def with_part(rows: ir.Table, keys: Sequence[str], cuts: tuple[int, int] | None) -> ir.Table:
    """The rows and their part: LEFT, VALIDATION, TEST or UNUSED, int8.

    A user's rows of cold items are divided as if there were no others, and the others likewise.

    Args:
        rows: user, timestamp, COLD and `keys`; of no user two rows have the same keys.
        keys: columns that sort a user's rows, ascending.
        cuts: where validation and test begin, of a split by time; None holds out the last two.
    """
    if cuts is None:
        group = [rows["user"], rows[COLD]]
        after = ibis.row_number().over(group_by=group, order_by=[rows[key].desc() for key in keys])
        enough = rows[COLD] | (rows.count().over(group_by=group) > HELD_OUT)
        part = ibis.cases(
            (enough & (after == 0), TEST), (enough & (after == 1), VALIDATION), else_=LEFT
        )
        return rows.mutate(**{PART: part.cast("int8")})
    span = ibis.cases(
        (rows["timestamp"] >= cuts[1], TEST), (rows["timestamp"] >= cuts[0], VALIDATION), else_=LEFT
    )
    rows = rows.mutate(span=span.cast("int8"))
    group = [rows["user"], rows[COLD], rows["span"]]
    place = ibis.row_number().over(group_by=group, order_by=[rows[key] for key in keys])
    part = ibis.cases(((rows["span"] == LEFT) | (place == 0), rows["span"]), else_=UNUSED)
    return rows.mutate(**{PART: part.cast("int8")}).drop("span")
