"""What a rank holds of its own while it selects, beside libraries and a block of rows.

In: the kind of selection, sizes, a number of ranks. Out: bytes, at most.
"""

from __future__ import annotations

from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data.select.balanced import MOST_RUNS, RUN_ROWS
from cadc_rec.planning.sizes import Sizes

_KEY = 8
_ITEM = 64  # bytes of an item: how often it is there and taken, its last key and that one's row
_SORTED = 48  # of a row whose key is sorted among its item's
_ALIKE = 16  # of random keys that differ one in so many begins as the last chosen one's, at most


def selection_bytes(select: SelectConfig, sizes: Sizes, ranks: int) -> int:
    """Bytes of the rank that holds most.

    Args:
        select: what is selected.
        sizes: ids, and interactions.
        ranks: that select together.
    """
    rows = -(-sizes.interactions // ranks)
    match select.kind:
        case "over-sampling" | "under-sampling":
            run = min(rows, max(RUN_ROWS, -(-rows // MOST_RUNS)))
            return _ITEM * sizes.items + _SORTED * run
        case "recency-weighted":
            return _KEY * -(-rows // _ALIKE)
        case "hard":  # scores may all be alike
            return _KEY * rows
        case "recent" | "user-stratified":
            return _KEY * -(-sizes.users // ranks)
        case "item-stratified":
            return 3 * _KEY * sizes.items
        case _:
            return 0
