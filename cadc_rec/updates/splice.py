"""The next D_full: old rows as they stand, and those of users whom a day changed split anew.

In: a prepared dataset's files, the new rows with dense ids. Out: rows to learn from and held-out
rows, the same as if everything had been split again. Nearly all users of a log are absent on any
one day, and their rows pass as they are: only the rows of the others are sorted and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.columns import train_files
from cadc_rec.data.prepare.again import in_order, rows_of
from cadc_rec.data.prepare.split import LeaveLastTwo, Rows, whole_users
from cadc_rec.data.streams import read_groups


class SplicedSplit:
    """`LeaveLastTwo` of the old log and the new rows together; see `merged` for their order.

    Args:
        dataset: a prepare artifact's folder, each of whose users has the last two rows held out.
        new: with dense ids; a user's rows of equal times stand in their order.
        n_users: users there will be.
        context: names of the columns that say what a request carried.
        keep: which of the dataset's rows stay. Whoever loses one is split anew, too.

    Attributes:
        distinct: rows without repetitions of a pair, when the stream has ended.
    """

    def __init__(
        self,
        dataset: Path,
        new: Rows,
        n_users: int,
        context: Sequence[str] = (),
        keep: Callable[[Rows], Rows] = lambda rows: rows,
    ) -> None:
        self._dataset, self._context, self._keep = dataset, context, keep
        self._new = new.take(np.argsort(new.user, kind="stable"))
        self._changed = np.zeros(n_users, bool)
        self._changed[new.user] = True
        self._held_out = [self._read(f"{part}.parquet") for part in ("val", "test")]
        # Of users without a change: those of the others are added as they come.
        self._of_part: tuple[list[Rows], list[Rows]] = ([], [])
        self.distinct = 0

    @property
    def validation(self) -> Rows:
        """At most one row of each user, ascending; when the stream has ended."""
        return self._ascending(0)

    @property
    def test(self) -> Rows:
        """Likewise, later ones."""
        return self._ascending(1)

    def train(self) -> Iterator[Rows]:
        """The rows to learn from, in the order of users and their time; only once."""
        others = [*self._held_out, self._new]
        done = [0] * len(others)
        groups = read_groups(train_files(self._dataset))
        for block in whole_users(rows_of(group, self._context) for group in groups):
            last = block.user[-1]
            block = self._staying(block)
            ends = [int(np.searchsorted(rows.user, last, "right")) for rows in others]
            yield self._spliced(block, _between(others, done, ends))
            done = ends
        nothing = others[0].take(slice(0, 0))
        yield self._spliced(nothing, _between(others, done, [len(rows) for rows in others]))

    def _read(self, name: str) -> Rows:
        return self._staying(rows_of(pq.read_table(self._dataset / name), self._context))

    def _staying(self, rows: Rows) -> Rows:
        """The rows that stay; whoever loses one is marked as changed."""
        kept = self._keep(rows)
        if len(kept) < len(rows):
            n = len(self._changed)
            left = np.bincount(rows.user, minlength=n) - np.bincount(kept.user, minlength=n)
            self._changed |= left > 0
        return kept

    def _spliced(self, block: Rows, others: list[Rows]) -> Rows:
        """The rows to learn from of some whole users."""
        *parts, new = others
        old = [block, *parts]
        changed = [self._changed[rows.user] for rows in old]
        anew = [rows.take(mine) for rows, mine in zip(old, changed, strict=True)]
        split = LeaveLastTwo([in_order([*anew, new])])
        learned = Rows.joined(split.train())
        self.distinct += split.distinct
        stay = [rows.take(~mine) for rows, mine in zip(old, changed, strict=True)]
        self.distinct += sum(map(len, stay))
        for part, *found in zip(
            self._of_part, stay[1:], (split.validation, split.test), strict=True
        ):
            part += found
        return _by_user(stay[0], learned)

    def _ascending(self, part: int) -> Rows:
        rows = Rows.joined(self._of_part[part])
        return rows.take(np.argsort(rows.user, kind="stable"))


def _between(parts: list[Rows], starts: list[int], ends: list[int]) -> list[Rows]:
    return [rows.take(slice(*span)) for rows, *span in zip(parts, starts, ends, strict=True)]


def _by_user(one: Rows, other: Rows) -> Rows:
    """Two parts that have no user in common, each in the order of users, as one."""
    if not len(one) or not len(other):
        return other if not len(one) else one
    # Where each row goes, without sorting: behind those of its part, and of the other's before it.
    places = np.searchsorted(one.user, other.user) + np.arange(len(other))
    order: NDArray[np.int64] = np.empty(len(one) + len(other), np.int64)
    of_other = np.zeros(len(order), bool)
    of_other[places] = True
    order[of_other] = np.arange(len(one), len(order))
    order[~of_other] = np.arange(len(one))
    return Rows.joined([one, other]).take(order)
