"""Selections that give every stratum its share: each item, or each period of time.

In: D_full block by block, and how many rows each stratum has and gives. Out: which rows of a block.

As for a uniform sample, a sequential hypergeometric draw fixes how many of its rows a stratum gives
in a block, and a choice without replacement which ones. So every sample with these counts is
equally likely, one block is in memory, and the result depends on the seed and the rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec.data.load.batches import unique
from cadc_rec.data.randomness import Key, Purpose, bit_generator, hypergeometrics
from cadc_rec.data.select.shares import shares

Ints = NDArray[np.int64]
_SHARES, _COUNTS, _ROWS = 0, 1, 2  # of the draws: remainders, rows of a block, and which


@dataclass(frozen=True)
class Strata:
    """What the strata of D_full are.

    Attributes:
        column: of D_full, that tells a row's stratum.
        number: of strata.
        of: the strata of that column's values.
    """

    column: str
    number: int
    of: Callable[[NDArray[np.integer]], Ints]

    @classmethod
    def items(cls, n_items: int) -> Strata:
        """One for each item."""
        return cls("item", n_items, lambda item: item.astype(np.int64))

    @classmethod
    def periods(cls, first: int, last: int, number: int) -> Strata:
        """Periods of equal length from the first to the last timestamp.

        Args:
            first: smallest timestamp.
            last: largest timestamp.
            number: of periods.
        """
        length = np.uint64((last - first) // number + 1)  # in Python's integers: nothing overflows

        def of(timestamp: NDArray[np.integer]) -> Ints:
            # Modulo 2**64 the difference is right however far apart the two are.
            since = timestamp.astype(np.int64).view(np.uint64) - np.int64(first).view(np.uint64)
            return (since // length).astype(np.int64)

        return cls("timestamp", number, of)

    def counts(self, blocks: Iterable[pa.Table]) -> Ints:
        """Rows of each stratum."""
        found = np.zeros(self.number, np.int64)
        for block in blocks:
            found += np.bincount(self.of_rows(block), minlength=self.number)
        return found

    def of_rows(self, block: pa.Table) -> Ints:
        """Each row's stratum."""
        return self.of(block[self.column].to_numpy())


class StratifiedChoice:
    """Chooses rows of D_full's blocks, given in order.

    Args:
        strata: what a row belongs to.
        counts: rows of each stratum.
        wanted: rows in all; a stratum gives its share, see `shares`.
        seed: of the draw.
    """

    def __init__(self, strata: Strata, counts: Ints, wanted: int, seed: int) -> None:
        self.strata, self.seed, self.block = strata, seed, 0
        self.left = counts.copy()  # rows of each stratum in this block and after it
        self.wanted = shares(counts, wanted, self._key(_SHARES))
        self.draw = self._generator(_COUNTS)

    def __call__(self, block: pa.Table) -> Ints:
        """Ascending positions in the next block of the rows that are chosen."""
        stratum = self.strata.of_rows(block)
        here, place = unique(stratum, self.strata.number)
        rows = np.bincount(place, minlength=len(here))
        after = self.left[here] - rows
        # Where all that is left is wanted, the draw is exact as well: it gives every row.
        gives = hypergeometrics(self.draw, rows, after, self.wanted[here])
        self.left[here] = after
        self.wanted[here] -= gives
        keys = self._generator(_ROWS, self.block).random(len(stratum))
        self.block += 1
        # A stratum's rows together, in random order; halved, no key rounds up to the next stratum.
        order = np.argsort(place + keys / 2, kind="stable")
        first = np.cumsum(rows) - rows
        within = np.arange(len(order)) - np.repeat(first, rows)
        return np.sort(order[within < np.repeat(gives, rows)])

    def _generator(self, *place: int) -> np.random.Generator:
        return np.random.Generator(bit_generator(self._key(*place)))

    def _key(self, *place: int) -> Key:
        return self.seed, Purpose.STRATIFIED_SELECTION, *place
