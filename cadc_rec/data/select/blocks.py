"""D_full block by block, and which rows of a block a selection takes.

`uniform` draws an exact number of rows without replacement. D_full is taken in logical blocks of
2**20 rows: a sequential hypergeometric draw fixes how many rows each block gives, a choice without
replacement which ones. The result is uniform over all samples of that size, needs one block in
memory, and depends on the seed and the rows alone, not on files, shards or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec.data.prepare.chosen import INTERACTIONS
from cadc_rec.data.randomness import Purpose, bit_generator, hypergeometric
from cadc_rec.data.select.ranks import Ranks
from cadc_rec.data.select.strata import StratifiedChoice
from cadc_rec.data.streams import ROW_GROUP_ROWS, RowGroups

BLOCK_ROWS = ROW_GROUP_ROWS
HISTORY_ROWS = 2**16
"""Chosen rows whose histories are formed at once."""
_COUNTS, _ROWS = 0, 1  # kinds of draws: how many rows a block gives, and which


@dataclass
class Block:
    """A block of D_full, read when it is first looked at."""

    groups: RowGroups
    number: int
    start: int
    stop: int

    def __len__(self) -> int:
        """Rows."""
        return self.stop - self.start

    @cached_property
    def table(self) -> pa.Table:
        """All its columns."""
        return self.groups.read(self.start, self.stop, INTERACTIONS.names)

    def column(self, name: str) -> pa.Table:
        """One of them, in a table; the others need not be read."""
        if "table" in self.__dict__:
            return self.table
        return self.groups.read(self.start, self.stop, [name])


@dataclass(frozen=True)
class Blocks:
    """All `total` rows, in blocks of ``BLOCK_ROWS``."""

    groups: RowGroups
    total: int

    def __len__(self) -> int:
        """How many there are."""
        return -(-self.total // BLOCK_ROWS)

    def __getitem__(self, number: int) -> Block:
        """One of them."""
        start = number * BLOCK_ROWS
        return Block(self.groups, number, start, min(start + BLOCK_ROWS, self.total))

    def __iter__(self) -> Iterator[Block]:
        """One after the other."""
        return map(self.__getitem__, range(len(self)))


class Choice(Protocol):
    """Which rows are taken."""

    def count(self, block: Block) -> int | None:
        """How many of the next block's, where that is known before they are looked at."""

    def rows(self, block: Block) -> NDArray[np.int64]:
        """Their ascending positions in the block."""


@dataclass(frozen=True)
class ByBlock:
    """Rows of a block that need no other block.

    Attributes:
        of: gives their ascending positions.
        counts: how many each block gives; None where nobody asks.
    """

    of: Callable[[Block], NDArray[np.int64]]
    counts: Sequence[int] | NDArray[np.int64] | None

    def count(self, block: Block) -> int | None:
        """See `Choice`."""
        return None if self.counts is None else int(self.counts[block.number])

    def rows(self, block: Block) -> NDArray[np.int64]:
        """See `Choice`."""
        return self.of(block)


def counted(of: Callable[[Block], NDArray[np.int64]], all_blocks: Blocks, ranks: Ranks) -> ByBlock:
    """`of`, with the counts of all blocks if there are several ranks. Every rank must call."""
    if ranks.world_size == 1:
        return ByBlock(of, None)
    mine = ranks.share(len(all_blocks))
    counts = ranks.together(lambda: [len(of(all_blocks[number])) for number in mine])
    return ByBlock(of, [count for part in ranks.all_gather(counts) for count in part])


@dataclass(frozen=True)
class Given:
    """Rows of D_full that are known: ascending ones."""

    chosen: NDArray[np.int64]

    def count(self, block: Block) -> int:
        """See `Choice`."""
        first, last = np.searchsorted(self.chosen, [block.start, block.stop])
        return int(last - first)

    def rows(self, block: Block) -> NDArray[np.int64]:
        """See `Choice`."""
        first, last = np.searchsorted(self.chosen, [block.start, block.stop])
        return self.chosen[first:last] - block.start


@dataclass(frozen=True)
class OfStrata:
    """Rows of strata, which have to be looked at block after block."""

    choice: StratifiedChoice

    def count(self, _: Block) -> None:
        """See `Choice`."""

    def rows(self, block: Block) -> NDArray[np.int64]:
        """See `Choice`."""
        return self.choice(block.column(self.choice.strata.column))


def uniform(total: int, wanted: int, seed: int) -> ByBlock:
    """A uniform sample without replacement.

    Args:
        total: rows of D_full.
        wanted: rows to take.
        seed: of the draws.
    """
    counts = uniform_counts(total, wanted, seed)
    return ByBlock(
        lambda block: uniform_positions(len(block), counts[block.number], seed, block.number),
        counts,
    )


def uniform_counts(total: int, wanted: int, seed: int) -> list[int]:
    """How many rows each block of ``BLOCK_ROWS`` gives to `wanted` of `total` rows."""
    draw, counts = _generator(seed, _COUNTS), []
    for start in range(0, total, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, total - start)
        after = total - start - rows
        count = rows if wanted == rows + after else hypergeometric(draw, rows, after, wanted)
        counts.append(count)
        wanted -= count
    return counts


def uniform_positions(rows: int, count: int, seed: int, number: int) -> NDArray[np.int64]:
    """Ascending positions, int64, of `count` of the `rows` of block `number`."""
    if count == rows:
        return np.arange(rows, dtype=np.int64)
    draw = _generator(seed, _ROWS, number)
    return np.sort(draw.choice(rows, count, replace=False, shuffle=False))


def _generator(seed: int, *place: int) -> np.random.Generator:
    return np.random.Generator(bit_generator((seed, Purpose.SELECTION, *place)))
