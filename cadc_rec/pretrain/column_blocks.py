"""A pattern's entries by blocks of columns, so that what they read stays in a core's own cache.

An item's interactions are with users from all over the log. Once the users' table is larger than
the caches, each entry waits for memory. Blocks of columns are worked off one after the other
instead, and the rows of one fit.

In: a pattern as CSR, with its columns in any order. Out: the same entries ordered by block, then by
row, and a CSR for each block. Each thread orders a piece of the rows; a row's entries keep their
order within a block, so the number of threads changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cadc_rec.pretrain.kernels import Lanes

_LARGE_TABLE = 2**26  # bytes; a smaller one is in a cache that cores share, if not in their own
_WANTED = 2**21  # bytes of a block's rows, about: those that a core's own cache holds
_MOST = 2**25  # bytes; larger blocks gain too little
_ENTRIES = 16  # of a row and a block, on average; with fewer a row would be visited for too little
_WORTH_ORDERING = 2**21  # entries; with fewer, compiling what orders them takes longer


@dataclass(frozen=True)
class ColumnBlocks:
    """Entries ordered by block of columns.

    Attributes:
        pointers: ``[blocks, rows + 1]``; block b's entries of row r are
            ``pointers[b, r] .. pointers[b, r + 1]`` of `col`.
        col: columns counted from their block's first ``[n]``.
        width: columns of a block.
    """

    pointers: np.ndarray
    col: np.ndarray
    width: int


def columns_at_once(entries: int, rows: int, columns: int, row_bytes: int) -> int:
    """Columns of a block, a power of two; or all of them, where blocks would not pay.

    Args:
        entries: of the pattern.
        rows: of the pattern.
        columns: of the pattern, which are rows of the table that is read.
        row_bytes: of such a row.
    """
    if entries < _WORTH_ORDERING or columns * row_bytes <= _LARGE_TABLE:
        return columns
    most = entries // max(1, rows * _ENTRIES)  # blocks
    if most < 2:
        return columns
    wanted = max(_WANTED // row_bytes, -(-columns // most), 1)
    width: int = 1 << (wanted.bit_length() - 1)
    if -(-columns // width) > most:
        width *= 2
    return width if width * row_bytes <= _MOST else columns


def by_blocks(
    crow: np.ndarray, col: np.ndarray, columns: int, row_bytes: int, lanes: Lanes
) -> ColumnBlocks:
    """The pattern by blocks of columns; one block, without a copy, where more would not pay.

    Args:
        crow: row pointers ``[rows + 1]``, int32 or int64.
        col: columns ``[n]``.
        columns: as many as there are.
        row_bytes: of the row that a column stands for.
        lanes: threads.
    """
    width = columns_at_once(len(col), len(crow) - 1, columns, row_bytes)
    if width >= columns:
        return ColumnBlocks(crow[None], col, columns)
    return ordered_blocks(crow, col, columns, width, lanes)[0]


def ordered_blocks(
    crow: np.ndarray,
    col: np.ndarray,
    columns: int,
    width: int,
    lanes: Lanes,
    values: Sequence[np.ndarray] = (),
) -> tuple[ColumnBlocks, list[np.ndarray]]:
    """The pattern by blocks of columns, and `values` of its entries in that order.

    Args:
        crow: row pointers ``[rows + 1]``, int32 or int64.
        col: columns ``[n]``.
        columns: as many as there are.
        width: columns of a block, a power of two.
        lanes: threads.
        values: arrays ``[n]`` in the order of `col`.
    """
    from cadc_rec.pretrain.fused_loop import count_in_blocks, place_in_blocks  # imports numba

    shift = width.bit_length() - 1
    pieces = lanes.rows(crow)
    pointers = np.zeros((-(-columns // width), len(crow)), crow.dtype)
    lanes.map(lambda piece: count_in_blocks(*piece, crow, col, shift, pointers), pieces)
    first = 0
    for block in pointers:  # counts of rows become places, one block behind the other
        block[0] = first
        np.cumsum(block, out=block)
        first = int(block[-1])

    def ordered(given: np.ndarray) -> np.ndarray:
        placed = np.empty_like(given)
        lanes.map(
            lambda piece: place_in_blocks(*piece, crow, col, shift, pointers, given, placed), pieces
        )
        return placed

    inside = ordered(col)
    inside &= width - 1  # a column's place in its block is its last bits
    return ColumnBlocks(pointers, inside, width), [ordered(each) for each in values]
