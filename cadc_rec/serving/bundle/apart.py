"""Rows of floats whose last columns are told apart from the rest.

In: the new rows, and the old ones, which may have more or fewer columns. Out: a code and how it is
to be read, and from these and the old rows the new ones. Popularity moves for all items every day;
in a column of its own it leaves the other numbers of an item as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.serving.bundle.rows import Bytes, Foresee, decode_rows, encode_rows

APART = (0, 4, 8)
"""Bytes of the last columns that may be: popularity, and recent popularity."""


def encode_apart(
    rows: Bytes, old: Bytes, apart: int, owned: NDArray[np.int64]
) -> tuple[bytes, dict[str, Any]]:
    """The code of rows by the old ones, and what `decode_apart` is to be told of it.

    Args:
        rows: ``[n, width]``.
        old: of any width; row i is compared with row i.
        apart: bytes of the last columns that are told apart, less than `width`.
        owned: numbers of rows that had another owner.
    """
    width = rows.shape[1]
    before, last = columns(old, width, apart)
    first = np.ascontiguousarray(rows[:, : width - apart])
    code = encode_rows(first, before, None, floats=True, owned=owned)
    if not apart:
        return code, {}
    of_last = encode_rows(
        np.ascontiguousarray(rows[:, width - apart :]), last, None, floats=True, owned=owned
    )
    return code + of_last, {"apart": apart, "code_apart": len(of_last)}


def decode_apart(
    code: bytes,
    told: Mapping[str, Any],
    rows: int,
    width: int,
    old: Bytes,
    foresee: Foresee | None = None,
) -> Bytes:
    """The new rows, ``[rows, width]``.

    Args:
        code: from `encode_apart`; or from `encode_rows`, of foreseen rows.
        told: likewise.
        rows: how many there are.
        width: bytes of each.
        old: the old rows.
        foresee: where the rows are foreseen.

    Raises:
        ValueError: the code is not one of such rows.
    """
    apart, of_last = int(told.get("apart", 0)), int(told.get("code_apart", 0))
    if apart not in APART or not 0 <= of_last <= len(code) or apart >= width:
        raise ValueError("columns that cannot be")
    end = len(code) - of_last
    before, last = columns(old, width, apart)
    found = decode_rows(code[:end], rows, width - apart, before, foresee, floats=True)
    if not apart:
        return found
    return np.concatenate([found, decode_rows(code[end:], rows, apart, last, None, True)], 1)


def columns(old: Bytes, width: int, apart: int = 0) -> tuple[Bytes, Bytes]:
    """The old rows' first columns, and those apart, as wide as the new ones; zeros for more."""
    first = old[:, : width - apart]
    first = np.pad(first, ((0, 0), (0, width - apart - first.shape[1])))
    if old.shape[1] != width:
        return first, np.zeros((len(old), apart), np.uint8)
    return first, np.ascontiguousarray(old[:, width - apart :])
