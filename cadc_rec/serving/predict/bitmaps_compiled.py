"""The compiled loop of `cadc_rec.serving.predict.bitmaps`.

Compiled by numba when this module is imported; see `cadc_rec.serving.predict.best_few_compiled`.
"""

from __future__ import annotations

from numba import types

from cadc_rec.compiled import compiled

_ROWS = types.Array(types.int32, 1, "C", readonly=True)


@compiled(types.void(types.uint8[::1], _ROWS, types.boolean), nogil=True)
def change(packed, rows, flip):  # type: ignore[no-untyped-def] # see the decorator
    """Set the bits of rows, or flip them, each as often as it is named."""
    if flip:
        for place in range(rows.shape[0]):
            packed[rows[place] >> 3] ^= 1 << (rows[place] & 7)
    else:
        for place in range(rows.shape[0]):
            packed[rows[place] >> 3] |= 1 << (rows[place] & 7)
