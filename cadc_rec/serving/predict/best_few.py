"""The best few columns of each row of scores, by compiled loops.

Compiled by numba when this module is imported, so that no request waits for it. torch's own `topk`
reads a row several times. Here the best of each of a few chunks bound the worst that can be among
the best few, and only chunks that reach it are looked at one by one. What may not be recommended is
struck out on the way. numba's cache on disk would spare the second that compiling takes, and is a
pickle.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from cadc_rec.compiled import compiled

MOST = 128
"""Places up to which this is faster than a sort: a find moves half of them."""


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
    return columns, found


_GIVEN = [types.Array(kind, 1, "C", readonly=True) for kind in (types.int64, types.int32)]
_SIGNATURE = types.void(types.float32[:, ::1], *_GIVEN, types.int64[:, ::1], types.float32[:, ::1])
_CHUNKS = 4  # for each place; then about as many chunks as places hold one of the best
_LEAST = 16  # columns of a chunk, below which looking at its best first is no gain


# Scores are finite or minus infinity: without NaN the maximum of a chunk is a vector instruction.
@compiled(types.float32(types.float32[::1]), nogil=True, fastmath={"nnan", "nsz", "reassoc"})
def _highest(part):  # type: ignore[no-untyped-def] # see the decorator
    highest = np.float32(-np.inf)
    for column in range(part.shape[0]):
        highest = max(highest, part[column])
    return highest


@compiled(nogil=True, inline="always")
def _put(kept, places, score, column):  # type: ignore[no-untyped-def] # compiled into its callers
    """Put a score that is better than the last one in its place; the last one falls out."""
    place = kept.shape[0] - 1
    while place > 0 and score > kept[place - 1]:
        kept[place], places[place] = kept[place - 1], places[place - 1]
        place -= 1
    kept[place], places[place] = score, column


@compiled(_SIGNATURE, nogil=True)
def _fill(scores, indptr, rows, columns, found):  # type: ignore[no-untyped-def] # see _SIGNATURE
    keep, width = found.shape[1], scores.shape[1]
    last, chunks = keep - 1, _CHUNKS * keep
    size = -(-width // chunks)
    if size < _LEAST:
        chunks, size = 1, width
    best = np.empty(chunks, np.float32)
    bounds, chosen = np.empty(keep, np.float32), np.empty(keep, np.int64)
    for n in range(scores.shape[0]):
        line, kept, places = scores[n], found[n], columns[n]
        for entry in range(indptr[n], indptr[n + 1]):
            line[rows[entry]] = -np.inf
        # As many scores as there are places are no worse than the last bound.
        bounds[:] = -np.inf
        for chunk in range(chunks):
            best[chunk] = _highest(line[chunk * size : (chunk + 1) * size])
            if chunks > 1 and best[chunk] > bounds[last]:
                _put(bounds, chosen, best[chunk], chunk)
        least = bounds[last]
        for chunk in range(chunks):
            if best[chunk] >= least:
                part = line[chunk * size : (chunk + 1) * size]
                for offset in range(part.shape[0]):
                    score = part[offset]
                    if score >= least and score > kept[last]:
                        _put(kept, places, score, chunk * size + offset)
        for end in range(1, keep):  # by column
            score, column, place = kept[end], places[end], end
            while place > 0 and column < places[place - 1]:
                kept[place], places[place] = kept[place - 1], places[place - 1]
                place -= 1
            kept[place], places[place] = score, column
