"""The best few of each row of scores: one pass, compiled by numba.

torch's own `topk` reads a row several times; with ten to a hundred places to fill, nearly every
score is below the worst of those kept, and one comparison is all it costs. What may not be
recommended is struck out on the way. Compiled when imported: a request waits for nothing. (numba's
cache on disk would spare that second, and is a pickle.)
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

MOST = 128
"""Places up to which this is faster than a sort; each find moves half of them."""


def best_few(
    scores: NDArray[np.float32], indptr: NDArray[np.int64], rows: NDArray[np.int32], keep: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns and scores of the `keep` best of each row.

    Args:
        scores: ``[n, m]``, C-contiguous; those of `rows` are overwritten by minus infinity.
        indptr: ``[n + 1]``, where the columns of each row of `scores` stand in `rows`.
        rows: columns that are struck out, each from 0 to m - 1.
        keep: from 1 to `MOST`.

    Returns:
        int64 and float32 ``[n, keep]``: columns ascend; of equal scores at the edge the lower
        columns are kept; a place without a candidate has column 0 and minus infinity.
    """
    columns = np.zeros((len(scores), keep), np.int64)
    found = np.full((len(scores), keep), -np.inf, np.float32)
    _fill(scores, indptr, rows, columns, found)
    order = np.argsort(columns, axis=1)
    return np.take_along_axis(columns, order, 1), np.take_along_axis(found, order, 1)


_GIVEN = [types.Array(kind, 1, "C", readonly=True) for kind in (types.int64, types.int32)]
_SIGNATURE = types.void(types.float32[:, ::1], *_GIVEN, types.int64[:, ::1], types.float32[:, ::1])


@njit(_SIGNATURE, nogil=True)
def _fill(scores, indptr, rows, columns, found):  # type: ignore[no-untyped-def] # see _SIGNATURE
    last = found.shape[1] - 1
    for n in range(scores.shape[0]):
        line, kept, places = scores[n], found[n], columns[n]
        for entry in range(indptr[n], indptr[n + 1]):
            line[rows[entry]] = -np.inf
        for column in range(line.shape[0]):
            score = line[column]
            if score > kept[last]:
                place = last
                while place > 0 and score > kept[place - 1]:
                    kept[place], places[place] = kept[place - 1], places[place - 1]
                    place -= 1
                kept[place], places[place] = score, column
