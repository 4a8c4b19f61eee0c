"""Factorizations' loops over entries on CPU, compiled by numba when they are first called.

That of `pretrain.kernels.FusedGradient`, those of `pretrain.blocked_products`, and what orders
entries for both (`pretrain.column_blocks`). In: rows of a pattern, tables. Out: sums for each row,
formed in one order, so they do not depend on which thread has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cadc_rec.compiled import compiled
from cadc_rec.pretrain.kernels import LEAST_PROBABILITY

_CHUNK = 256  # entries whose logits are held at once; their rows then still are in the L2 cache
_LOG2_E = np.float32(1.4426950408889634)
_LARGEST_EXPONENT = np.float32(126.0)  # of a normal float32


@compiled(fastmath=True, nogil=True, inline="always")
def _products(row: Any, others: Any, col: Any, first: int, last: int, out: Any) -> None:
    """Dot products of `row` with the rows ``col[first:last]``, four at a time."""
    width = row.shape[0]
    k = first
    while k + 4 <= last:
        a, b, c, d = others[col[k]], others[col[k + 1]], others[col[k + 2]], others[col[k + 3]]
        of_a, of_b, of_c, of_d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(width):
            w = row[j]
            of_a += w * a[j]
            of_b += w * b[j]
            of_c += w * c[j]
            of_d += w * d[j]
        at = k - first
        out[at], out[at + 1], out[at + 2], out[at + 3] = of_a, of_b, of_c, of_d
        k += 4
    while k < last:
        a = others[col[k]]
        of_a = np.float32(0)
        for j in range(width):
            of_a += row[j] * a[j]
        out[k - first] = of_a
        k += 1


@compiled(fastmath=True, nogil=True, inline="always")
def _add_rows(into: Any, others: Any, col: Any, first: int, last: int, weight: Any) -> None:
    """Add the rows ``col[first:last]``, weighted, to `into`, four at a time."""
    width = into.shape[0]
    k = first
    while k + 4 <= last:
        a, b, c, d = others[col[k]], others[col[k + 1]], others[col[k + 2]], others[col[k + 3]]
        at = k - first
        w_a, w_b, w_c, w_d = weight[at], weight[at + 1], weight[at + 2], weight[at + 3]
        for j in range(width):
            into[j] += w_a * a[j] + w_b * b[j] + w_c * c[j] + w_d * d[j]
        k += 4
    while k < last:
        a = others[col[k]]
        for j in range(width):
            into[j] += weight[k - first] * a[j]
        k += 1


@compiled(fastmath=True, nogil=True, inline="always")
def _sigmoid(x: Any, bits: Any, power: Any, n: int) -> None:
    """``1 / (1 + exp(-x))`` of the first n elements, in place, to about 2e-7.

    exp(-x) = 2^t is taken apart into a whole power, written as a float's exponent (`power` is
    `bits` seen as float32), and the rest, by its Taylor series. No call, no branch: the compiler
    makes vector code of it, which it does not of a library's exp.
    """
    for k in range(n):
        t = -x[k] * _LOG2_E
        t = min(max(t, -_LARGEST_EXPONENT), _LARGEST_EXPONENT)
        whole = np.floor(t + np.float32(0.5))
        f = t - whole
        series = np.float32(1.5403530e-4)
        series = series * f + np.float32(1.3333558e-3)
        series = series * f + np.float32(9.6181291e-3)
        series = series * f + np.float32(5.5504109e-2)
        series = series * f + np.float32(2.4022651e-1)
        series = series * f + np.float32(6.9314718e-1)
        x[k] = series * f + np.float32(1.0)
        bits[k] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    for k in range(n):
        x[k] = np.float32(1.0) / (np.float32(1.0) + x[k] * power[k])


@compiled(fastmath=True, nogil=True, inline="always")
def _log_loss(probability: Any, n: int) -> Any:
    """Minus the sum of the logarithms, one logarithm for four of them."""
    least = np.float32(LEAST_PROBABILITY)
    loss = np.float32(0)
    product = np.float32(1)
    for k in range(n):
        product *= max(probability[k], least)
        if k % 4 == 3:
            loss -= np.log(product)
            product = np.float32(1)
    return loss - np.log(product)


@compiled(fastmath=True, nogil=True)
def add_gradient(
    start: int,
    stop: int,
    pointers: Any,
    col: Any,
    width: int,
    label: Any,
    mine: Any,
    others: Any,
    other_bias: Any,
    bias: Any,
    into: Any,
    sums: Any,
) -> None:
    """Add the gradient of the rows ``start:stop``, a block of columns after the other.

    Args:
        start: the first row.
        stop: after the last one.
        pointers: row pointers ``[blocks, rows + 1]``.
        col: columns, counted from their block's first ``[n]``.
        width: columns of a block.
        label: of all entries, float32.
        mine: float32 ``[rows, d]``.
        others: float32 ``[columns, d]``.
        other_bias: float32 ``[columns]``.
        bias: float32.
        into: ``[rows, d]``, receives ``sum (sigma(score) - label) * others[c]``.
        sums: ``[rows, 2]``, to which the sums of the entries' errors and losses are added.
    """
    value = np.empty(_CHUNK, np.float32)
    bits = np.empty(_CHUNK, np.int32)
    power = bits.view(np.float32)
    for block in range(pointers.shape[0]):
        crow = pointers[block]
        table = others[block * width : (block + 1) * width]
        table_bias = other_bias[block * width : (block + 1) * width]
        for row in range(start, stop):
            first = crow[row]
            if first == crow[row + 1]:
                continue
            error, loss = np.float32(0), np.float32(0)
            while first < crow[row + 1]:
                last = min(first + _CHUNK, crow[row + 1])
                n = last - first
                _products(mine[row], table, col, first, last, value)
                for k in range(n):
                    value[k] += table_bias[col[first + k]] + bias
                _sigmoid(value, bits, power, n)
                if label > 0:
                    loss += _log_loss(value, n)
                for k in range(n):
                    value[k] -= label
                    error += value[k]
                _add_rows(into[row], table, col, first, last, value)
                first = last
            sums[row, 0] += error
            sums[row, 1] += loss


@compiled(fastmath=True, nogil=True)
def add_weighted(
    start: int, stop: int, pointers: Any, col: Any, width: int, weight: Any, others: Any, into: Any
) -> None:
    """Add ``sum weight[k] * others[c]`` to the rows ``start:stop`` of `into`.

    Args:
        start: the first row.
        stop: after the last one.
        pointers: see `add_gradient`; so are `col` and `width`.
        col: of each entry.
        width: of a block.
        weight: of each entry, float32 ``[n]``.
        others: float32 ``[columns, d]``.
        into: float32 ``[rows, d]``.
    """
    for block in range(pointers.shape[0]):
        crow = pointers[block]
        table = others[block * width : (block + 1) * width]
        for row in range(start, stop):
            first, last = crow[row], crow[row + 1]
            if first < last:
                _add_rows(into[row], table, col, first, last, weight[first:last])


@compiled(fastmath=True, nogil=True)
def add_squares(
    start: int,
    stop: int,
    pointers: Any,
    col: Any,
    width: int,
    weight: Any,
    mine: Any,
    others: Any,
    into: Any,
) -> None:
    """Add ``sum weight[k] * (mine[r] . others[c]) * others[c]`` to the rows ``start:stop``.

    Args:
        start: the first row.
        stop: after the last one.
        pointers: see `add_gradient`; so are `col` and `width`.
        col: of each entry.
        width: of a block.
        weight: of each entry, float32 ``[n]``.
        mine: float32 ``[rows, d]``.
        others: float32 ``[columns, d]``.
        into: float32 ``[rows, d]``.
    """
    value = np.empty(_CHUNK, np.float32)
    for block in range(pointers.shape[0]):
        crow = pointers[block]
        table = others[block * width : (block + 1) * width]
        for row in range(start, stop):
            first = crow[row]
            while first < crow[row + 1]:
                last = min(first + _CHUNK, crow[row + 1])
                _products(mine[row], table, col, first, last, value)
                for k in range(last - first):
                    value[k] *= weight[first + k]
                _add_rows(into[row], table, col, first, last, value)
                first = last


@compiled(nogil=True)
def count_in_blocks(start: int, stop: int, crow: Any, col: Any, shift: int, counts: Any) -> None:
    """Count the entries of rows ``start:stop`` in each block, into ``counts[block, row + 1]``.

    Args:
        start: the first row.
        stop: after the last one.
        crow: row pointers ``[rows + 1]``.
        col: columns ``[n]``.
        shift: a block has ``2 ** shift`` columns.
        counts: ``[blocks, rows + 1]``, to which is added.
    """
    for row in range(start, stop):
        for k in range(crow[row], crow[row + 1]):
            counts[col[k] >> shift, row + 1] += 1


@compiled(nogil=True)
def place_in_blocks(
    start: int,
    stop: int,
    crow: Any,
    col: Any,
    shift: int,
    pointers: Any,
    values: Any,
    placed: Any,
) -> None:
    """Put the `values` of rows ``start:stop`` where ``pointers[block, row]`` begins.

    Args:
        start: the first row.
        stop: after the last one.
        crow: row pointers ``[rows + 1]``.
        col: columns ``[n]``.
        shift: a block has ``2 ** shift`` columns.
        pointers: ``[blocks, rows + 1]``, places in `placed`.
        values: ``[n]``.
        placed: ``[n]``, receives them.
    """
    blocks = pointers.shape[0]
    at = np.empty(blocks, np.int64)
    for row in range(start, stop):
        for block in range(blocks):
            at[block] = pointers[block, row]
        for k in range(crow[row], crow[row + 1]):
            block = col[k] >> shift
            placed[at[block]] = values[k]
            at[block] += 1
