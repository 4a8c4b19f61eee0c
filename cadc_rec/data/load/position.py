"""How far an epoch is, and which rows remain when the number of ranks changes.

In: the rows of every shard, and the stretches of the epoch that are done, each with the number of
ranks that took it. Out: which rows of each shard no step has used.

While the number of ranks stays the same, a stretch is one shuffled order of a rank's rows, and a
position is a step of it. When the number changes in the middle of an epoch, every rank keeps to
the shards that are its own under the new number, shuffles those of their rows that are left, and
spreads them over the steps that are left: each row is used exactly once, and the epoch has as many
steps as it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cadc_rec.data.load.batches import Step
from cadc_rec.data.randomness import Purpose, bit_generator


@dataclass(frozen=True)
class Stretch:
    """Steps ``first .. stop`` of an epoch, taken by one number of ranks."""

    ranks: int
    first: int
    stop: int


Position = tuple[Stretch, ...]
"""What is done of an epoch, in order, without gaps from step 0; empty at its start."""


def taken(position: Position) -> int:
    """Steps of the epoch that are done."""
    return position[-1].stop if position else 0


def advanced(position: Position, ranks: int, step: int) -> Position:
    """`position` after `ranks` ranks have gone on to `step`."""
    if position and position[-1].ranks == ranks:
        return (*position[:-1], Stretch(ranks, position[-1].first, step))
    return (*position, Stretch(ranks, taken(position), step))


def pieces(rows: int, steps: int, step: int) -> tuple[int, int]:
    """First and last row (exclusive) of piece number `step` of `steps` even ones."""
    return rows * step // steps, rows * (step + 1) // steps


def order(rows: int, seed: int, epoch: int, rank: int, first: int) -> np.ndarray:
    """The order in which `rank` takes so many rows in the stretch that begins at step `first`."""
    key = (seed, Purpose.EPOCH_ORDER, epoch, rank, *([first] if first else []))
    return np.random.Generator(bit_generator(key)).permutation(rows)


@dataclass(frozen=True)
class Course:
    """What is left of an epoch for one rank, cut into steps.

    Attributes:
        seed: of the training.
        epoch: from 1.
        rank: whose.
        first: number of the step at which this number of ranks took the epoch over.
        done: steps since `first` that were taken.
        steps: steps since `first`, with those.
        counts: rows of every rank since `first`.
    """

    seed: int
    epoch: int
    rank: int
    first: int
    done: int
    steps: int
    counts: Sequence[int]

    @property
    def rows(self) -> int:
        """Rows of this rank since `first`."""
        return self.counts[self.rank]

    @property
    def start(self) -> int:
        """How many of them the steps that were taken had."""
        return self.rows if self.done >= self.steps else pieces(self.rows, self.steps, self.done)[0]

    @property
    def most(self) -> int:
        """Rows of a step on this rank at most."""
        return -(-self.rows // self.steps) if self.steps else 0

    def left(self, rows: np.ndarray | None = None) -> Iterator[Step]:
        """The steps that are left.

        Args:
            rows: int64, the rank's rows in their order since `first`; None numbers them by that.
        """
        for number in range(self.done, self.steps):
            start, stop = pieces(self.rows, self.steps, number)
            each = (pieces(count, self.steps, number) for count in self.counts)
            positives = sum(end - begin for begin, end in each)
            picked = np.arange(start, stop) if rows is None else rows[start:stop]
            place = self.first + number
            yield Step(
                self.seed, self.epoch, self.rank, place, start, picked, positives, self.first
            )


class RowsLeft:
    """Which rows of an epoch no step has used.

    Args:
        rows_by_shard: rows of each shard; shard s belongs to rank ``s mod ranks``.
        steps: of the whole epoch.
        seed: of the order.
    """

    def __init__(self, rows_by_shard: Sequence[int], steps: int, seed: int) -> None:
        self.rows_by_shard, self.steps, self.seed = list(rows_by_shard), steps, seed

    def after(self, epoch: int, done: Position) -> list[np.ndarray]:
        """For each shard, the numbers of its rows that are left, ascending, int64."""
        left = [np.arange(rows, dtype=np.int64) for rows in self.rows_by_shard]
        for stretch in done:
            for rank in range(stretch.ranks):
                self._take(left, epoch, stretch, rank)
        return left

    def _take(self, left: list[np.ndarray], epoch: int, stretch: Stretch, rank: int) -> None:
        """Drop what `rank` used in a stretch."""
        shards = range(rank, len(left), stretch.ranks)
        counts = [len(left[shard]) for shard in shards]
        rows = sum(counts)
        used, _ = pieces(rows, self.steps - stretch.first, stretch.stop - stretch.first)
        unused = np.ones(rows, bool)
        unused[order(rows, self.seed, epoch, rank, stretch.first)[:used]] = False
        start = 0
        for shard, count in zip(shards, counts, strict=True):
            left[shard] = left[shard][unused[start : start + count]]
            start += count

    def of_rank(self, left: Sequence[np.ndarray], rank: int, ranks: int) -> np.ndarray:
        """Of what is `left`, the rows of one rank, numbered within its own shards; ascending."""
        rows, start = [], 0
        for shard in range(rank, len(left), ranks):
            rows.append(left[shard] + start)
            start += self.rows_by_shard[shard]
        return np.concatenate(rows) if rows else np.zeros(0, np.int64)
