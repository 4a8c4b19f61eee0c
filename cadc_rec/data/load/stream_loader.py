"""Batches of a D_sel that need not fit in memory: read row group by row group, ahead, in a thread.

In: the selection's shards, this rank, an arrangement. Out: what `loader.py` gives, in the order of
`stream_order.py`: every row once an epoch, equally many steps on every rank; any
number of ranks can continue from any position.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow.parquet as pq

from cadc_rec.data.load.batches import Arrangement, Arrays
from cadc_rec.data.load.position import Course, Position, taken
from cadc_rec.data.load.shards import Examples, SelectionShards
from cadc_rec.data.load.stream_order import Chunk, StreamOrder, Window, of_rank
from cadc_rec.data.streams import prefetched

_WINDOWS = 3  # in memory at once: one is used, one is ready, one is read


class StreamLoader:
    """The steps of an epoch, from shards that are read as they are needed.

    Args:
        shards: of the selection.
        rank: this rank.
        ranks: how many there are.
        batch_size: positives a step over all ranks.
        seed: of order and negatives.
        arrange: makes a step of its rows.
        buffer_rows: rows in memory at most, or three row groups where those are larger.

    Raises:
        CadcError: there are more ranks than shards.
    """

    def __init__(
        self,
        shards: SelectionShards,
        rank: int,
        ranks: int,
        batch_size: int,
        seed: int,
        arrange: Arrangement,
        buffer_rows: int,
    ) -> None:
        shards.require(ranks)
        self.shards, self.rank, self.ranks = shards, rank, ranks
        self.seed, self.arrange = seed, arrange
        self.rows, self.rows_here = sum(shards.rows), shards.rows_by_rank(ranks)[rank]
        self.steps = max(1, -(-self.rows // batch_size))
        self.order = StreamOrder(shards.groups, buffer_rows // _WINDOWS, self.steps, seed)

    def epoch(self, epoch: int, done: Position = ()) -> Iterator[Arrays]:
        """The steps of epoch number `epoch` that are not `done`; the same whenever asked for."""
        with self.reading(epoch, done) as (course, take):
            for step in course.left():
                yield self.arrange(step, take(step.start, step.start + len(step.rows)))

    @contextlib.contextmanager
    def reading(
        self, epoch: int, done: Position = ()
    ) -> Iterator[tuple[Course, Callable[[int, int], Examples]]]:
        """What is left of an epoch, and what gives rows of it from one place to another, in order.

        A thread reads ahead until the context ends.
        """
        goes_on = bool(done) and done[-1].ranks == self.ranks
        before, now = (done[:-1] if goes_on else done), taken(done)
        first = taken(before)
        left, steps = self.order.left(epoch, before), self.steps - first
        counts = [
            sum(chunk.count for chunk in of_rank(left, rank, self.ranks))
            for rank in range(self.ranks)
        ]
        course = Course(self.seed, epoch, self.rank, first, now - first, steps, counts)
        windows = self.order.windows(left, epoch, self.rank, self.ranks, first)
        due = [window for window in windows if window.start + window.count > course.start]
        read = (self._read(window, epoch, first) for window in due)
        with contextlib.closing(prefetched(read, depth=1)) as ready:
            yield course, _Rows(ready, due[0].start if due else course.rows).take

    def _read(self, window: Window, epoch: int, first: int) -> Examples:
        """A window's rows in their order."""
        parts = [self._chunk(chunk) for chunk in window.chunks]
        order = self.order.within(window, epoch, self.rank, first)
        users, items = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return Examples(users[order], items[order])

    def _chunk(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        # The thread that reads is one already: more of them would take the training's cores.
        with pq.ParquetFile(self.shards.files[chunk.shard]) as file:
            columns = ["user", "item"]
            group = file.read_row_group(chunk.group, columns=columns, use_threads=False)
        users, items = (group[name].to_numpy() for name in columns)
        return (users, items) if chunk.rows is None else (users[chunk.rows], items[chunk.rows])


class _Rows:
    """Consecutive rows out of windows that come one after the other.

    Args:
        windows: in order.
        start: where the first one begins.
    """

    def __init__(self, windows: Iterator[Examples], start: int) -> None:
        self.windows, self.start = windows, start
        self.window = Examples(np.zeros(0, np.int32), np.zeros(0, np.int32))

    def take(self, start: int, stop: int) -> Examples:
        """Rows ``start:stop``, not before any that were taken."""
        parts = [self._some(start, stop)]
        while self.start + len(self.window) < stop:
            self.start += len(self.window)
            self.window = next(self.windows)
            parts.append(self._some(start, stop))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _some(self, start: int, stop: int) -> Examples:
        here = slice(max(0, start - self.start), max(0, stop - self.start))
        return Examples(self.window.users[here], self.window.items[here])


def _joined(parts: Sequence[Examples]) -> Examples:
    return Examples(
        np.concatenate([part.users for part in parts]),
        np.concatenate([part.items for part in parts]),
    )
