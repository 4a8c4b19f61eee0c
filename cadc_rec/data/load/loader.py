"""Batches of D_sel for one rank: shuffled every epoch, negatives drawn afresh.

In: this rank's rows, how many rows every shard has, and an arrangement (`data.load.pair_batches`,
`data.load.candidates`). Out: batches of NumPy arrays, see `cadc_rec.data.load.batches`.

Every rank takes the same number of steps and cuts its own rows into that many pieces, so each row
is used once an epoch, no rank waits for one that has run out, and all know how many positives a
step has over all ranks without asking. An interrupted epoch can
continue on the same number of ranks (the same batches) or on another (the rows that are left), see
`position.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cadc_rec.data.load.batches import Arrangement, Arrays
from cadc_rec.data.load.position import Course, Position, RowsLeft, order, taken
from cadc_rec.data.load.shards import Examples


class Loader:
    """The order of an epoch, and how it is cut into steps.

    Args:
        examples: this rank's rows.
        rows_by_rank: number of rows of every rank.
        rank: this rank.
        batch_size: positives a step over all ranks.
        seed: of order and negatives.
        arrange: makes a step of its rows.
        rows_by_shard: number of rows of every shard, shard s being rank ``s mod ranks``'s; default:
            each rank has one. Needed where a number of ranks goes on with another's epoch.
    """

    def __init__(
        self,
        examples: Examples,
        rows_by_rank: Sequence[int],
        rank: int,
        batch_size: int,
        seed: int,
        arrange: Arrangement,
        rows_by_shard: Sequence[int] | None = None,
    ) -> None:
        if rows_by_rank[rank] != len(examples):
            raise ValueError(f"rank {rank} has {len(examples)} rows, expected {rows_by_rank[rank]}")
        self.examples, self.arrange = examples, arrange
        self.rows_by_rank, self.rank, self.seed = list(rows_by_rank), rank, seed
        self.rows, self.ranks = sum(rows_by_rank), len(rows_by_rank)
        self.rows_here = rows_by_rank[rank]
        self.steps = max(1, -(-self.rows // batch_size))
        self.left = RowsLeft(rows_by_shard or rows_by_rank, self.steps, seed)

    def epoch(self, epoch: int, done: Position = ()) -> Iterator[Arrays]:
        """The steps of epoch number `epoch` that are not `done`; the same whenever asked for."""
        course, rows = self.course(epoch, done)
        for step in course.left(rows):
            yield self.arrange(step, self.examples.take(step.rows))

    def course(self, epoch: int, done: Position = ()) -> tuple[Course, np.ndarray]:
        """What is left of an epoch, and this rank's rows in their order, int64."""
        goes_on = bool(done) and done[-1].ranks == self.ranks
        before, now = (done[:-1] if goes_on else done), taken(done)
        first, counts = taken(before), self.rows_by_rank
        rows = None
        if before:  # by other numbers of ranks
            left = self.left.after(epoch, before)
            by_rank = [self.left.of_rank(left, rank, self.ranks) for rank in range(self.ranks)]
            rows, counts = by_rank[self.rank], [len(each) for each in by_rank]
        shuffled = order(counts[self.rank], self.seed, epoch, self.rank, first)
        if rows is not None:
            shuffled = rows[shuffled]
        steps = self.steps - first
        course = Course(self.seed, epoch, self.rank, first, now - first, steps, counts)
        return course, shuffled
