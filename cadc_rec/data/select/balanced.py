"""Samples balanced over items: the long-tail techniques of the paper's Table 1.

In: how many interactions of D_full each item has, and how many rows are wanted. Out: how many rows
each item gives, and then which. Both techniques follow "A Model of Two Tales" (Zhang et al. 2021),
which draws items more evenly than their frequencies; here the number of rows is exactly the asked
one, so that every method trains on equally many.

- over-sampling: every item gives equally many rows; an item with fewer has its rows repeated.
- under-sampling: no item gives more than a cap; the cap is such that the rows come out right.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.randomness import Purpose, bit_generator

Ints = NDArray[np.int64]
_BLOCK = 2**20  # rows whose random keys are drawn at once
_RUN = 2**24  # rows of the items sorted at once; a frequent item's may be more


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


def choose_rows(item: NDArray[np.int32], counts: Ints, seed: int) -> Ints:
    """Positions of the chosen rows, ascending; a repeated row stands several times.

    Item i gives ``counts[i]`` rows: whole copies of all its rows, then a uniform choice without
    replacement for what is left. Items are gone through in runs, so that 12 bytes of memory are
    taken by a row of D_full and 8 by a chosen one.

    Args:
        item: int32 ``[rows]``, D_full's items in its order.
        counts: ``[n_items]``, 0 where an item has no row.
        seed: of the draw.
    """
    keys = np.empty(len(item))
    for start, drawn in _random_keys(len(item), seed):
        keys[start : start + len(drawn)] = drawn
    frequency = np.bincount(item, minlength=len(counts)).astype(np.int64)
    copies, left = np.divmod(counts, np.maximum(frequency, 1))
    chosen = [np.empty(0, np.int64)]
    for low, high in _runs(frequency):
        rows = np.flatnonzero((item >= low) & (item < high))
        rows = rows[np.lexsort((keys[rows], item[rows]))]  # an item's together, in random order
        of = item[rows] - low
        first = np.cumsum(frequency[low:high]) - frequency[low:high]
        place = np.arange(len(rows)) - first[of]
        times = copies[low:high][of] + (place < left[low:high][of])
        chosen.append(np.repeat(rows, times))
    return np.sort(np.concatenate(chosen))


def generator(seed: int) -> np.random.Generator:
    """The random stream that chooses which items give one more row."""
    return np.random.Generator(bit_generator((seed, Purpose.BALANCED_SELECTION, 0)))


def _runs(frequency: Ints) -> Iterator[tuple[int, int]]:
    """Runs of items ``low:high`` that have about `_RUN` rows together."""
    ends = np.cumsum(frequency)
    rows = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(_RUN, rows + _RUN, _RUN), "left") + 1
    bounds = np.unique(np.concatenate([[0], np.minimum(cuts, len(ends))]))
    yield from pairwise(bounds.tolist())


def _random_keys(rows: int, seed: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for block, start in enumerate(range(0, rows, _BLOCK)):
        draw = np.random.Generator(bit_generator((seed, Purpose.BALANCED_SELECTION, 1, block)))
        yield start, draw.random(min(_BLOCK, rows - start))
