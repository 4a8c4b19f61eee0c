"""The compiled loops of `cadc_rec.serving.predict.best_few`.

Compiled by numba when this module is imported, so that no request waits for it. numba's cache on
disk would spare the seconds that compiling takes, and is a pickle.
"""

from __future__ import annotations

import numpy as np
from numba import types

from cadc_rec.compiled import compiled

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
def fill(scores, indptr, rows, columns, found):  # type: ignore[no-untyped-def] # see _SIGNATURE
    """See `cadc_rec.serving.predict.best_few.best_few`, which gives it its results to fill."""
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
