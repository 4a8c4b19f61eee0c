"""What counting transitions holds of a process's memory.

In: settings, the items and, where they are known, each one's interactions. Out: bytes of the
process that holds most. Items are dealt out by their number, and popular ones may lie together.
"""

from __future__ import annotations

import numpy as np

from cadc_rec.config.vectors import TransitionsConfig
from cadc_rec.planning.sizes import Sizes
from cadc_rec.pretrain.least_squares import PIECE

_ORDERED = 4 + 4  # of a pair: the other item and a number
_COUNTED = 4 + 8  # the same while the numbers are sums
_GROWN = 9 / 8  # room for pairs grows by an eighth
_SENT = 44  # of a pair on its way to the process that has its other item
_LEVELS = 8  # items whose interactions differ by less than this part of a doubling count alike


def transition_bytes(config: TransitionsConfig, sizes: Sizes, world: int) -> int:
    """Bytes that the fullest of `world` processes holds, libraries left out."""
    every = sizes.of_items
    if every is None:  # then all are as popular as each other
        every = np.full(sizes.items, sizes.interactions / max(1, sizes.items))
    of_row = 4 if sizes.interactions < 2**31 else 8
    of_pair = _COUNTED if config.normalization else _ORDERED
    all_levels, most = levels(every), 0
    # Of items that are all as popular as each other the last rank has as many as any.
    for rank in range(world) if sizes.of_items is not None else [world - 1]:
        mine = every[len(every) * rank // world : len(every) * (rank + 1) // world]
        pairs = expected_pairs(mine, all_levels, config.window)
        counting = int(of_row * mine.sum() + _GROWN * of_pair * pairs)
        both_orders = 2 * _ORDERED * pairs + _SENT * min(PIECE, pairs) * (world > 1)
        most = max(most, counting, both_orders if config.form == "factors" else 0)
    return most


def expected_pairs(mine: np.ndarray, every: tuple[np.ndarray, np.ndarray], window: int) -> int:
    """Different pairs of one of some items and one that follows it within the window.

    As many as if what follows an item were drawn by popularity; if tastes differ, pairs repeat
    more, and there are fewer of them.

    Args:
        mine: interactions of the items that are followed.
        every: `levels` of all items.
        window: places that count.
    """
    (rows, of_rows), (columns, of_columns) = levels(mine), every
    total = columns @ of_columns
    if not total:
        return 0
    drawn = window * rows[:, None] * columns / total
    return int(of_rows @ -np.expm1(-drawn) @ of_columns)


def levels(interactions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Popularities that differ, and how many items have each, about."""
    there = interactions[interactions > 0]
    level = np.round(_LEVELS * np.log2(there)).astype(np.int64)
    _, which, items = np.unique(level, return_inverse=True, return_counts=True)
    return np.bincount(which, there) / items, items
