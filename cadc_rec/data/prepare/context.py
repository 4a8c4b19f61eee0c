"""Columns of the interaction that a request carries: their values become codes.

In: the rows' ranks of values, as NumPy. Out: codes, in the order in which the values come
first in the training rows, then those that held-out rows alone have; and ``context.json``, which
describes them. Also the check that no such column gives the item away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec import strict_json
from cadc_rec.config.tables import InteractionsTable
from cadc_rec.data.engine import Engine, count
from cadc_rec.data.prepare.split import Rows
from cadc_rec.data.prepare.vocabulary import UNKNOWN
from cadc_rec.data.sources.raw_tables import CONTEXT_FILE, context_column
from cadc_rec.errors import CadcError

MOST_VALUES = 100_000
_TELLS, _TIMES = 0.2, 5  # share of right guesses, and how many times those of the favourite


class ContextCodes:
    """Gives the values of context columns their codes, as rows come by.

    Args:
        values: of each column, all its values; rank r of the stream (from 1) is ``values[r - 1]``.
    """

    def __init__(self, values: dict[str, pa.Array]) -> None:
        self.values = values
        self._code = [np.zeros(len(each) + 1, np.int32) for each in values.values()]
        self._order: list[list[int]] = [[] for _ in values]
        self.learned = [0] * len(values)
        """How many values of each column training rows have."""

    def of_training(self, rows: Rows) -> Rows:
        """Rows with codes in place of ranks; a value that is new gets the next code."""
        coded = self._coded(rows)
        self.learned = [len(order) for order in self._order]
        return coded

    def of_held_out(self, rows: Rows) -> Rows:
        """The same of held-out rows, when all training rows have been."""
        return self._coded(rows)

    def take(self, column: int, learned: Sequence[int], held_out: Sequence[int]) -> None:
        """Give a column's values their codes where who knows their order has not seen the rows.

        Args:
            column: its place.
            learned: ranks of values, in the order in which they come first in training rows.
            held_out: those of held-out rows, in theirs; ones that were learned count no more.
        """
        order = list(dict.fromkeys([*learned, *held_out]))
        self._order[column] = order
        self._code[column][order] = np.arange(1, len(order) + 1)
        self.learned[column] = len(learned)

    @property
    def code_of_rank(self) -> list[NDArray[np.int32]]:
        """Of each column, the code of every rank, and first `UNKNOWN` of what is missing."""
        return self._code

    def _coded(self, rows: Rows) -> Rows:
        if rows.context is None:
            return rows
        codes = np.empty_like(rows.context)
        for n, (code, order) in enumerate(zip(self._code, self._order, strict=True)):
            ranks = rows.context[:, n]
            new = (code[ranks] == UNKNOWN) & (ranks != UNKNOWN)
            found, first = np.unique(ranks[new], return_index=True)
            for rank in found[np.argsort(first)].tolist():
                order.append(rank)
                code[rank] = len(order)
            codes[:, n] = code[ranks]
        return Rows(rows.user, rows.item, rows.timestamp, rows.weight, codes)

    def write(self, folder: Path, lagged: tuple[str, ...]) -> None:
        """Write ``context.json``, a description of each column.

        Its name, size (codes of training rows, code 0 included), vocabulary (the values of codes
        1, 2, ...) and whether it is lagged.
        """
        described: list[dict[str, Any]] = [
            {
                "name": name,
                "size": learned + 1,
                "lagged": name in lagged,
                "vocabulary": values.take(pa.array(np.array(order, np.int64) - 1)).to_pylist(),
            }
            for (name, values), order, learned in zip(
                self.values.items(), self._order, self.learned, strict=True
            )
        ]
        text = strict_json.dumps(described, indent=2, ensure_ascii=False) + "\n"
        (folder / CONTEXT_FILE).write_text(text, "utf-8")


def require_few_values(column: str, values: int) -> None:
    """Refuse a column of very many values, such as the number of a session.

    Raises:
        CadcError: names the column.
    """
    if values > MOST_VALUES:
        raise CadcError(
            f"data.tables.interactions: the context column {column!r} has {values:,} different "
            f"values, and a column of a context has at most {MOST_VALUES:,}; leave it out."
        )


def check_context(engine: Engine, rows: ir.Table, keys: InteractionsTable) -> None:
    """Refuse columns that say nothing, or that only the item itself could tell.

    A column tells the item if, of training rows, the item that the other rows of the same value
    have most often is the right one far more often than the favourite of all rows is. Each row is
    left out of its own guess, so that a column whose values are all different tells nothing.

    Args:
        engine: runs the counting.
        rows: to learn from, with a number for each value of a column, 0 where it is missing.
        keys: names the columns.

    Raises:
        CadcError: a column has one value in all training rows, or tells the item.
    """
    total = count(engine, rows)
    favourite = _right(engine, rows.mutate(all=ibis.literal(0)), "all") / total
    for column in (*keys.context, *keys.context_lagged):
        name = context_column(column)
        if int(engine.only_row(rows.aggregate(n=rows[name].nunique()))["n"]) < 2:
            raise CadcError(
                f"data.tables.interactions: the context column {column!r} has a single value in "
                f"all {total:,} training rows, which tells nothing; leave it out."
            )
        if column in keys.context_lagged:
            continue
        told = _right(engine, rows.filter(rows[name] != UNKNOWN), name) / total
        if told > _TELLS and told > _TIMES * favourite:
            raise CadcError(
                f"data.tables.interactions.context: the column {column!r} tells the item (by it "
                f"alone {told:.1%} of training rows are guessed right, {favourite:.1%} without "
                "it), so no request could carry it; name it in "
                "data.tables.interactions.context_lagged, or leave it out."
            )


def _right(engine: Engine, rows: ir.Table, by: str) -> int:
    """Rows whose item is the most common one among the other rows of their value."""
    counts = rows.group_by(by, "item").agg(n=ibis._.count())
    place = ibis.row_number().over(group_by=counts[by], order_by=[counts.n.desc(), counts["item"]])
    best = counts.mutate(place=place)
    tops = best.group_by(by).agg(
        first=best.n.max(where=best.place == 0), second=best.n.max(where=best.place == 1)
    )
    alone = tops["first"] - 1 > tops["second"].fill_null(0)
    right = tops.aggregate(right=tops["first"].sum(where=alone).fill_null(0))
    return int(engine.only_row(right)["right"])


def context_columns(rows: Rows, names: list[str]) -> list[NDArray[np.int32]]:
    """The columns of rows' codes, one for each name."""
    if rows.context is None:  # no row at all
        return [np.empty(0, np.int32) for _ in names]
    return [np.ascontiguousarray(rows.context[:, n]) for n in range(len(names))]
