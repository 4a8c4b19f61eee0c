"""What a rank holds of its own while it selects, beside libraries and a block of rows.

In: the kind of selection, sizes, a number of ranks. Out: bytes, at most.
"""

from __future__ import annotations

from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data.select.balanced import MOST_RUNS, RUN_ROWS
from cadc_rec.data.select.blocks import BLOCK_ROWS, HISTORY_ROWS
from cadc_rec.data.select.centres import part_rows
from cadc_rec.data.select.sizes import wanted_rows
from cadc_rec.data.streams import SHARD_GROUP_ROWS
from cadc_rec.planning.sizes import Sizes

_KEY = 8
_ITEM = 64  # bytes of an item: how often it is there and taken, its last key and that one's row
_SORTED = 48  # of a row whose key is sorted among its item's
_VECTORS = 2 * 4  # of a number of a vector: once in its table's type, once beside a constant
_DISTANCES = 64  # of a row among which centres are chosen: its ids, their places, its distances
_CHOSEN = 3 * 8  # of a row of a block: its place in a drawn order, its ids and those chosen
_FORMED = 4 + 1 + 4  # of an item of a history: its id, whether there is one, and the ids there are
_WAITING = 3 * 4  # of one in rows that wait for a whole row group, and while that is written
_ALIKE = 16  # of random keys that differ one in so many begins as the last chosen one's, at most


def selection_bytes(
    select: SelectConfig, sizes: Sizes, ranks: int, width: int, history: int = 0
) -> int:
    """Bytes of the rank that holds most.

    Args:
        select: what is selected.
        sizes: ids, and interactions.
        ranks: that select together.
        width: of the pre-trained vectors.
        history: items before a row that are written beside it, at most.
    """
    return _choosing(select, sizes, ranks, width) + _histories(select, sizes, ranks, history)


def _histories(select: SelectConfig, sizes: Sizes, ranks: int, length: int) -> int:
    rows = -(-wanted_rows(select, sizes.interactions) // ranks)
    formed, waiting = min(rows, HISTORY_ROWS), min(rows, SHARD_GROUP_ROWS)
    return length * (_FORMED * formed + _WAITING * waiting)


def _choosing(select: SelectConfig, sizes: Sizes, ranks: int, width: int) -> int:
    rows = -(-sizes.interactions // ranks)
    match select.kind:
        case "over-sampling" | "under-sampling":
            run = min(rows, max(RUN_ROWS, -(-rows // MOST_RUNS)))
            return _ITEM * sizes.items + _SORTED * run
        case "recency-weighted":
            return _KEY * -(-rows // _ALIKE)
        case "hard" | "gradient-norm":  # scores may all be alike
            return _KEY * rows
        case "k-centres":
            block = min(BLOCK_ROWS, sizes.interactions)
            wanted = wanted_rows(select, sizes.interactions)
            part = part_rows(select.centres, sizes.interactions, wanted, block)
            ids = min(sizes.users, part) + min(sizes.items, part)
            # Two more numbers are constants that make the dot product the score.
            return _VECTORS * (width + 2) * ids + _DISTANCES * part + _CHOSEN * block
        case "recent" | "user-stratified":
            return _KEY * -(-sizes.users // ranks)
        case "item-stratified":
            return 3 * _KEY * sizes.items
        case _:
            return 0
