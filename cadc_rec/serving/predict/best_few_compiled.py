"""The compiled loops of `cadc_rec.serving.predict.best_few`.

Compiled by numba when this module is imported, so that no request waits for it. numba's cache on
disk would spare the seconds that compiling takes, and is a pickle.
"""

from __future__ import annotations

import numpy as np
from numba import types

from cadc_rec.compiled import compiled

_GIVEN = [types.Array(kind, 1, "C", readonly=True) for kind in (types.int64, types.int32)]
_SCORES, _RESULTS = types.float32[:, ::1], (types.int64[:, ::1], types.float32[:, ::1])
_SIGNATURE = types.void(_SCORES, *_GIVEN, *_RESULTS)
_BITS = types.Array(types.uint8, 1, "C", readonly=True)
_MATCHING = types.void(_SCORES, *_GIVEN, _BITS, *_RESULTS)
_CHUNKS = 4  # for each place; then about as many chunks as places hold one of the best
_LEAST = 16  # columns of a chunk, below which looking at its best first is no gain
_SAMPLE = 8192  # columns whose best that match bound the worst that can be among the best few
_PART = 256  # columns that are looked at together, then one by one if one is good enough


# LLVM makes no vector instructions of the maximum of floats, as numba writes it, and does of whole
# numbers. Floats from zero on are ordered as their bits; the others, the other way round.
@compiled(types.int32(types.int32[::1]), nogil=True)
def _highest(bits):  # type: ignore[no-untyped-def] # see the decorator
    """The bits of the highest of scores, none of which is NaN."""
    highest = np.int32(-(2**31))
    for column in range(bits.shape[0]):
        highest = max(highest, bits[column])
    if highest < 0:
        highest = np.int32(-1)
        for column in range(bits.shape[0]):
            highest = min(highest, bits[column])
    return highest


@compiled(nogil=True, inline="always")
def _put(kept, places, score, column):  # type: ignore[no-untyped-def] # compiled into its callers
    """Put a score that is better than the last one in its place; the last one falls out."""
    place = kept.shape[0] - 1
    while place > 0 and score > kept[place - 1]:
        kept[place], places[place] = kept[place - 1], places[place - 1]
        place -= 1
    kept[place], places[place] = score, column


@compiled(nogil=True, inline="always")
def _by_column(kept, places):  # type: ignore[no-untyped-def] # compiled into its callers
    """Sort what is kept by column."""
    for end in range(1, kept.shape[0]):
        score, column, place = kept[end], places[end], end
        while place > 0 and column < places[place - 1]:
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
    bits, highest = scores.view(np.int32), np.empty(chunks, np.int32)
    best = highest.view(np.float32)
    bounds, chosen = np.empty(keep, np.float32), np.empty(keep, np.int64)
    for n in range(scores.shape[0]):
        line, kept, places = scores[n], found[n], columns[n]
        for entry in range(indptr[n], indptr[n + 1]):
            line[rows[entry]] = -np.inf
        # As many scores as there are places are no worse than the last bound.
        bounds[:] = -np.inf
        for chunk in range(chunks):
            highest[chunk] = _highest(bits[n, chunk * size : (chunk + 1) * size])
            if chunks > 1 and best[chunk] > bounds[last]:
                _put(bounds, chosen, best[chunk], chunk)
        least = bounds[last]
        below = np.nextafter(least, np.float32(-np.inf))
        for chunk in range(chunks):
            if best[chunk] > below:
                part = line[chunk * size : (chunk + 1) * size]
                for offset in range(part.shape[0]):
                    score = part[offset]
                    if score > below:
                        _put(kept, places, score, chunk * size + offset)
                        below = max(below, kept[last])
        _by_column(kept, places)


@compiled(_MATCHING, nogil=True)
def fill_matching(scores, indptr, rows, bits, columns, found):  # type: ignore[no-untyped-def] # _MATCHING
    """The same of the columns whose bits are set."""
    keep, width = found.shape[1], scores.shape[1]
    last, step = keep - 1, scores.shape[1] // _SAMPLE
    bits_of_scores, highest = scores.view(np.int32), np.empty(1, np.int32)
    best = highest.view(np.float32)
    bounds, chosen = np.empty(keep, np.float32), np.empty(keep, np.int64)
    for n in range(scores.shape[0]):
        line, kept, places = scores[n], found[n], columns[n]
        for entry in range(indptr[n], indptr[n + 1]):
            line[rows[entry]] = -np.inf
        bounds[:] = -np.inf
        if step > 1:
            for column in range(0, width, step):
                score = line[column]
                if score > bounds[last] and bits[column >> 3] >> (column & 7) & 1:
                    _put(bounds, chosen, score, column)
        least = bounds[last]
        for start in range(0, width, _PART):
            part = line[start : start + _PART]
            highest[0] = _highest(bits_of_scores[n, start : start + _PART])
            if best[0] >= least and best[0] > kept[last]:
                for offset in range(part.shape[0]):
                    score, column = part[offset], start + offset
                    good = score >= least and score > kept[last]
                    if good and bits[column >> 3] >> (column & 7) & 1:
                        _put(kept, places, score, column)
        _by_column(kept, places)
