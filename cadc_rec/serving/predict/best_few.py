"""The best few columns of each row of scores.

torch's own `topk` reads a row several times. Here the best of each of a few chunks bound the worst
that can be among the best few, and only chunks that reach it are looked at one by one. What may not
be recommended is struck out on the way. Where only some columns may be, a bitmap of these is asked
about the few scores that are good enough.

The loops are compiled when they are first used, or by `compile_ahead`. A service starts before: as
long as that takes, NumPy gives the same answers, somewhat later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.serving.predict.bitmaps import Bitmap

MOST = 128
"""Places up to which this is faster than a sort: a find moves half of them."""

_fill: Callable[..., Any] | None = None
_fill_matching: Callable[..., Any] | None = None


def compile_ahead() -> None:
    """Compile the loops, which takes seconds."""
    global _fill, _fill_matching
    from cadc_rec.serving.predict.best_few_compiled import fill, fill_matching

    _fill, _fill_matching = fill, fill_matching


def best_few(
    scores: NDArray[np.float32],
    indptr: NDArray[np.int64],
    rows: NDArray[np.int32],
    keep: int,
    only: Bitmap | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns and scores of the `keep` best of each row.

    Args:
        scores: ``[n, m]``, C-contiguous; those of `rows` are overwritten by minus infinity.
        indptr: ``[n + 1]``, where the columns of each row of `scores` stand in `rows`.
        rows: columns that are struck out, each from 0 to m - 1.
        keep: from 1 to `MOST`.
        only: of the first m columns or more, those that may be kept; None: all.

    Returns:
        int64 and float32 ``[n, keep]``: columns ascend; of equal scores at the edge the lower
        columns are kept; a place without a candidate has column 0 and minus infinity.
    """
    if _fill is None or _fill_matching is None:
        if only is not None:
            np.copyto(scores, -np.inf, where=~only.mask()[: scores.shape[1]])
        return _by_sorting(scores, indptr, rows, keep)
    columns = np.zeros((len(scores), keep), np.int64)
    found = np.full((len(scores), keep), -np.inf, np.float32)
    if only is None:
        _fill(scores, indptr, rows, columns, found)
    else:
        _fill_matching(scores, indptr, rows, only.packed, columns, found)
    return columns, found


def _by_sorting(
    scores: NDArray[np.float32], indptr: NDArray[np.int64], rows: NDArray[np.int32], keep: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """See `best_few`."""
    width = scores.shape[1]
    columns = np.zeros((len(scores), keep), np.int64)
    found = np.full((len(scores), keep), -np.inf, np.float32)
    for n, line in enumerate(scores):
        line[rows[indptr[n] : indptr[n + 1]]] = -np.inf
        least = -np.inf
        if keep < width:
            least = np.partition(line, width - keep)[width - keep]
        chosen = np.flatnonzero(line > least)
        if least > -np.inf:
            equal = np.flatnonzero(line == least)
            chosen = np.sort(np.concatenate([chosen, equal[: keep - len(chosen)]]))
        # Places without a candidate have column 0, and so come first.
        start = keep - len(chosen)
        columns[n, start:], found[n, start:] = chosen, line[chosen]
    return columns, found
