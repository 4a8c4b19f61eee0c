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

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.randomness import Purpose, bit_generator

Ints = NDArray[np.int64]
_BLOCK = 2**20  # rows whose random keys are drawn at once


def over_sampling_counts(frequency: Ints, wanted: int, draw: np.random.Generator) -> Ints:
    """Rows each item gives: ``wanted / items that occur``, the remainder to items drawn at random.

    Args:
        frequency: ``[n_items]``, interactions in D_full.
        wanted: rows in all.
        draw: says who gets one more.
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
        draw: says who gets one more.
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
    replacement for what is left. About 24 bytes of memory a row of D_full.

    Args:
        item: int32 ``[rows]``, D_full's items in its order.
        counts: ``[n_items]``, 0 where an item has no row.
        seed: of the draw.
    """
    keys = np.concatenate(list(_random_keys(len(item), seed)))
    by_item = np.lexsort((keys, item))  # an item's rows together, in random order
    frequency = np.bincount(item, minlength=len(counts)).astype(np.int64)
    first = np.cumsum(frequency) - frequency
    sorted_item = item[by_item]
    place = np.arange(len(item)) - first[sorted_item]
    copies, left = np.divmod(counts, np.maximum(frequency, 1))
    times = copies[sorted_item] + (place < left[sorted_item])
    return np.sort(np.repeat(by_item, times)).astype(np.int64)


def generator(seed: int) -> np.random.Generator:
    """The random stream that deals remainders out."""
    return np.random.Generator(bit_generator((seed, Purpose.BALANCED_SELECTION, 0)))


def _random_keys(rows: int, seed: int) -> Iterator[NDArray[np.float64]]:
    for block, start in enumerate(range(0, rows, _BLOCK)):
        draw = np.random.Generator(bit_generator((seed, Purpose.BALANCED_SELECTION, 1, block)))
        yield draw.random(min(_BLOCK, rows - start))
