"""Samples balanced over items: the long-tail techniques of the paper's Table 1.

In: how many interactions of D_full each item has, and how many rows are wanted. Out: how many rows
each item gives, and then which. Both techniques follow "A Model of Two Tales" (Zhang et al. 2021),
which draws items more evenly than their frequencies; here the number of rows is exactly the asked
one, so that every method trains on equally many.

- over-sampling: every item gives equally many rows; an item with fewer has its rows repeated.
- under-sampling: no item gives more than a cap; the cap is such that the rows come out right.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec.data.randomness import Purpose, bit_generator, positional_fractions
from cadc_rec.data.select.ranks import Ranks

Ints = NDArray[np.int64]
_BLOCK = 2**20  # rows whose random keys are drawn at once
RUN_ROWS = 2**24
"""Rows of the items whose keys are sorted at once; a frequent item's may be more."""
MOST_RUNS = 4
"""Runs of a rank's items: all rows are read for each."""


class Rows(Protocol):
    """A run of D_full's rows, such as a `cadc_rec.data.select.blocks.Block`."""

    @property
    def start(self) -> int:
        """The first one's place in D_full."""

    @property
    def stop(self) -> int:
        """The place after the last one."""

    def column(self, name: str) -> pa.Table:
        """One of their columns, in a table."""


def over_sampling_counts(frequency: Ints, wanted: int, draw: np.random.Generator) -> Ints:
    """Rows each item gives: ``wanted / items that occur``, the remainder to items drawn at random.

    Args:
        frequency: ``[n_items]``, interactions in D_full.
        wanted: rows in all.
        draw: chooses the items that give one more.
    """
    occurs = np.flatnonzero(frequency)
    counts = np.zeros_like(frequency)
    counts[occurs] = wanted // len(occurs)
    counts[draw.choice(occurs, wanted % len(occurs), replace=False)] += 1
    return counts


def under_sampling_counts(frequency: Ints, wanted: int, draw: np.random.Generator) -> Ints:
    """Rows each item gives: ``min(frequency, cap)``, one more for random items above the cap.

    Args:
        frequency: ``[n_items]``, interactions in D_full.
        wanted: rows in all, at most the sum of `frequency`.
        draw: chooses the items that give one more.
    """
    low, high = 0, int(frequency.max(initial=0))  # the largest cap that asks for too few, or enough
    while low < high:
        cap = (low + high + 1) // 2
        if int(np.minimum(frequency, cap).sum()) <= wanted:
            low = cap
        else:
            high = cap - 1
    counts = np.minimum(frequency, low)
    above = np.flatnonzero(frequency > low)
    counts[draw.choice(above, wanted - int(counts.sum()), replace=False)] += 1
    return counts


class Balanced:
    """Which rows of a block are taken, and how often, so that each item gives its number of rows.

    Item i gives ``counts[i]`` rows: whole copies of all its rows, then a uniform choice without
    replacement for what is left: its rows with the smallest random keys, of equal ones the earlier.
    Every rank holds 64 bytes an item. The last key that is taken is found for runs of items, each
    rank going over all rows for its own: 48 bytes for each row of a run, which is 2**24 rows or a
    quarter of those of the rank's items; a frequent item may have more.

    Args:
        blocks: of D_full.
        frequency: int64 ``[n_items]``, its rows of each item.
        counts: ``[n_items]``, 0 where an item has no row.
        seed: of the draw.
        ranks: that find it together; every one must call.
    """

    def __init__(
        self, blocks: Iterable[Rows], frequency: Ints, counts: Ints, seed: int, ranks: Ranks
    ) -> None:
        self._seed = seed
        self._copies, left = np.divmod(counts, np.maximum(frequency, 1))
        cut = np.where(left > 0, frequency, 0)  # rows of the items that give a part of them
        self._key, self._row = np.full(len(cut), -1.0), np.zeros(len(cut), np.int64)
        ends = np.cumsum(cut)
        rows = int(ends[-1]) if len(ends) else 0

        def last_keys() -> list[tuple[Ints, NDArray[np.float64], Ints]]:
            mine = ranks.share(rows)
            most = max(RUN_ROWS, -(-len(mine) // MOST_RUNS))
            cuts = [*range(mine.start, mine.stop, most), mine.stop]
            runs = pairwise(np.searchsorted(ends, cuts, "right").tolist())
            return [self._last_keys(blocks, low, high, left) for low, high in runs if low < high]

        for part in ranks.all_gather(ranks.together(last_keys)):
            for items, key, row in part:
                self._key[items], self._row[items] = key, row

    def __call__(self, block: Rows) -> Ints:
        """Ascending positions in the block; a repeated row stands several times."""
        item = block.column("item")["item"].to_numpy()
        keys = _random_keys(self._seed, block.start, block.stop)
        last, row = self._key[item], np.arange(block.start, block.stop)
        more = (keys < last) | ((keys == last) & (row <= self._row[item]))
        return np.repeat(np.arange(len(item)), self._copies[item] + more)

    def _last_keys(
        self, blocks: Iterable[Rows], low: int, high: int, left: Ints
    ) -> tuple[Ints, NDArray[np.float64], Ints]:
        """Those of items ``low:high`` that give a part of their rows, with the last such row."""
        wanted = left[low:high] > 0
        found = []
        for block in blocks:
            item = block.column("item")["item"].to_numpy()
            here = np.flatnonzero((item >= low) & (item < high))
            here = here[wanted[item[here] - low]]
            if len(here):
                keys = _random_keys(self._seed, block.start, block.stop)
                found.append((item[here], keys[here], here + block.start))
        item, keys, rows = (np.concatenate([part[column] for part in found]) for column in range(3))
        del found
        order = np.lexsort((keys, item))  # an item's together, in random order
        item = item[order]
        first = np.flatnonzero(np.diff(item, prepend=-1))
        items = item[first].astype(np.int64)
        last = order[first + left[items] - 1]
        return items, keys[last], rows[last]


def generator(seed: int) -> np.random.Generator:
    """The random stream that chooses which items give one more row."""
    return np.random.Generator(bit_generator((seed, Purpose.BALANCED_SELECTION, 0)))


def _random_keys(seed: int, start: int, stop: int) -> NDArray[np.float64]:
    """Those of the rows ``start .. stop`` of D_full, which has a sequence for each `_BLOCK`."""
    parts = [np.empty(0)]
    for number in range(start // _BLOCK, -(-stop // _BLOCK)):
        low, high = max(start, number * _BLOCK), min(stop, (number + 1) * _BLOCK)
        key = (seed, Purpose.BALANCED_SELECTION, 1, number)
        parts.append(positional_fractions(key, low - number * _BLOCK, high - low))
    return np.concatenate(parts)
