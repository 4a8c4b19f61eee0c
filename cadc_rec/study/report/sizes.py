"""How much of D_full a method learns from: three columns, beside each other in every table.

In: a group. Out: labelled examples, rows touched and bytes of D_sel. A labelled example with a long
history takes more to keep than one without, so none of the three stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from cadc_rec.study.report import formatting
from cadc_rec.study.report.groups import Group
from cadc_rec.study.report.table_view import Column, Entry

SIZES = (
    Column(
        "labelled",
        "seeds",
        "labelled examples the towers are trained on, and without towers what pre-training "
        "read; seeds done",
    ),
    Column(
        "touched",
        "of all",
        "training interactions that the labelled examples and their histories refer to, and the "
        "share of all that they are",
    ),
    Column(
        "D_sel",
        "of all",
        "bytes of D_sel as Parquet, and the share of D_full's that they are; a row of D_sel has "
        "its history beside it, so this may be above 100%",
    ),
)


def sizes(group: Group) -> tuple[Entry, ...]:
    """The entries of these columns, of the first seed that is done."""
    seeds = formatting.seeds_done(group)
    rows = group.done[0].rows if group.done else None
    if rows is None:
        return (Entry("", second=seeds), Entry(""), Entry(""))
    touched = rows.selected if rows.touched is None else rows.touched
    share = f"{touched / rows.train:.1%}" if rows.train else ""
    size, of_size = Entry("–", tone="word"), ""
    if rows.bytes is not None:
        if rows.bytes_of:
            of_size = f"{rows.bytes / rows.bytes_of:.1%}"
        size = Entry(formatting.size(rows.bytes), second=of_size, sort=rows.bytes)
    return (
        Entry(
            f"{rows.selected:,}",
            second=seeds,
            tip=formatting.rows_tip(group, rows),
            sort=rows.selected,
        ),
        Entry(f"{touched:,}", second=share, sort=touched),
        size,
    )


def beside_sizes(
    entries: Sequence[tuple[Entry, ...]], groups: Sequence[Group | None]
) -> tuple[tuple[Entry, ...], ...]:
    """A row's entries with the sizes behind them, where there is a group."""
    both = zip(entries, groups, strict=True)
    return tuple(of if group is None else (*of, *sizes(group)) for of, group in both)
