"""In which order a streamed epoch takes its rows, computed from row counts alone.

In: rows of every row group of every shard, and the stretches of the epoch that are done
(`position.py`). Out: a rank's windows. A rank takes the row groups of its shards in a shuffled
order, as many at a time as a window holds, and the rows of a window in a shuffled order. So rows of
many shards are mixed, only a window has to be in memory, and which rows a step took is known
without reading any: so another number of ranks can go on with the rows that are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.load.position import Position, Stretch, pieces
from cadc_rec.data.randomness import Purpose, bit_generator

_GROUPS, _ROWS = 0, 1  # of the draws: the order of the row groups, and of a window's rows


@dataclass(frozen=True)
class Chunk:
    """Rows of one row group.

    Attributes:
        shard: number of the shard.
        group: number of the row group in it.
        count: rows.
        rows: which of the group's, int64 ``[count]``, ascending; None is all of them.
    """

    shard: int
    group: int
    count: int
    rows: NDArray[np.int64] | None = None

    def only(self, wanted: NDArray[np.bool_]) -> Chunk:
        """Those of the rows that are `wanted` ``[count]``."""
        rows = np.flatnonzero(wanted) if self.rows is None else self.rows[wanted]
        return Chunk(self.shard, self.group, len(rows), rows)


@dataclass(frozen=True)
class Window:
    """Row groups whose rows are mixed; ``start`` rows of the rank's stretch come before it."""

    chunks: tuple[Chunk, ...]
    number: int
    start: int

    @property
    def count(self) -> int:
        """Rows."""
        return sum(chunk.count for chunk in self.chunks)


class StreamOrder:
    """The order of every rank's rows.

    Args:
        groups: rows of the row groups of each shard; shard s is rank ``s mod ranks``'s.
        window_rows: a window takes whole row groups while it has no more rows than these, and at
            least one.
        steps: of an epoch.
        seed: of the order.
    """

    def __init__(
        self, groups: Sequence[Sequence[int]], window_rows: int, steps: int, seed: int
    ) -> None:
        self.groups, self.window_rows, self.steps, self.seed = groups, window_rows, steps, seed

    def left(self, epoch: int, done: Position) -> list[Chunk]:
        """What no step of these stretches has taken."""
        chunks = [
            Chunk(shard, group, count)
            for shard, counts in enumerate(self.groups)
            for group, count in enumerate(counts)
            if count
        ]
        for stretch in done:
            unused = (
                chunk
                for rank in range(stretch.ranks)
                for chunk in self._unused(chunks, epoch, stretch, rank)
            )
            # What follows must not depend on the order in which they were to be taken.
            chunks = sorted(unused, key=lambda chunk: (chunk.shard, chunk.group))
        return chunks

    def windows(
        self, left: Sequence[Chunk], epoch: int, rank: int, ranks: int, first: int
    ) -> list[Window]:
        """A rank's windows of what is `left` at step `first`, where this stretch begins."""
        mine = of_rank(left, rank, ranks)
        draw = self._generator(epoch, rank, first, _GROUPS)
        windows: list[Window] = []
        waiting: list[Chunk] = []
        rows = start = 0
        for at in draw.permutation(len(mine)).tolist():
            if waiting and rows + mine[at].count > self.window_rows:
                windows.append(Window(tuple(waiting), len(windows), start))
                start, waiting, rows = start + rows, [], 0
            waiting.append(mine[at])
            rows += mine[at].count
        if waiting:
            windows.append(Window(tuple(waiting), len(windows), start))
        return windows

    def within(self, window: Window, epoch: int, rank: int, first: int) -> NDArray[np.int64]:
        """The order of a window's rows, numbered through its chunks."""
        draw = self._generator(epoch, rank, first, _ROWS, window.number)
        return draw.permutation(window.count)

    def _unused(
        self, left: Sequence[Chunk], epoch: int, stretch: Stretch, rank: int
    ) -> Iterator[Chunk]:
        """What `rank` had not taken when a stretch ended."""
        rows = sum(chunk.count for chunk in of_rank(left, rank, stretch.ranks))
        used, _ = pieces(rows, self.steps - stretch.first, stretch.stop - stretch.first)
        for window in self.windows(left, epoch, rank, stretch.ranks, stretch.first):
            if window.start >= used:
                yield from window.chunks
            elif window.start + window.count > used:
                unused = np.ones(window.count, bool)
                order = self.within(window, epoch, rank, stretch.first)
                unused[order[: used - window.start]] = False
                start = 0
                for chunk in window.chunks:
                    kept = chunk.only(unused[start : start + chunk.count])
                    start += chunk.count
                    if kept.count:
                        yield kept

    def _generator(self, epoch: int, rank: int, first: int, *place: int) -> np.random.Generator:
        key = (self.seed, Purpose.STREAM_ORDER, epoch, rank, first, *place)
        return np.random.Generator(bit_generator(key))


def of_rank(chunks: Sequence[Chunk], rank: int, ranks: int) -> list[Chunk]:
    """Those that one rank reads."""
    return [chunk for chunk in chunks if chunk.shard % ranks == rank]
