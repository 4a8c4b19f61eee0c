"""The loops that lay a step's pairs out, compiled by numba: counting sorts in place of NumPy's.

In and out: what `pair_batches.arrange_pairs` takes and gives, to the bit. Compiling takes a second
or two, so they are for those who have enough pairs (`worth_compiling`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.compiled import compiled
from cadc_rec.data.load.batches import Arrays, Batch, PairPattern, is_dense
from cadc_rec.data.randomness import (
    MOST_BY_HALVES,
    Key,
    positional_halves,
    positional_integers,
)

_DIGIT = 11  # bits sorted by at once: 2,048 counters stay in the nearest cache


def compile_kernels() -> None:
    """Compile the loops now, so that no stage's time includes the seconds it takes."""
    ids = np.ones(1, np.int32)
    for n_items in (2, 2**30):  # counted, and sorted
        arrange_pairs_compiled(ids, ids, ids.reshape(1, 1), n_items, 1)
    uniform_negatives((0, 0), 0, 1, 1)


def arrange_pairs_compiled(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    negatives: NDArray[np.int32],
    n_items: int,
    positives: int,
    everything: np.ndarray | None = None,
) -> Arrays:
    """See `pair_batches.arrange_pairs`."""
    rows, width = len(users), negatives.shape[1] + 1
    pairs, row_of = np.empty(rows * width, np.int32), np.empty(rows, np.int32)
    different, crow = np.empty(rows, np.int64), np.empty(rows + 1, np.int32)
    counted = everything is not None or is_dense(n_items, len(pairs))
    counts = np.zeros(n_items if counted else 0, np.int32)
    order = _stable_order(users)
    found = _gather(users, items, negatives, order, pairs, row_of, different, crow, counts)
    item_col, to_item_order = np.empty(len(pairs), np.int32), np.empty(len(pairs), np.int64)
    if counted:
        step_items = everything
        if step_items is None:
            step_items = np.flatnonzero(counts)
            place = np.cumsum(counts > 0, dtype=np.int32) - np.int32(1)
            pairs, counts = place[pairs], counts[step_items]
        item_crow = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        _transpose(pairs, row_of, width, item_crow[:-1].copy(), to_item_order, item_col)
    else:
        order = _stable_order(pairs)
        all_items, all_crow = np.empty(len(pairs), np.int64), np.empty(len(pairs) + 1, np.int32)
        n = _number(pairs, order, row_of, width, all_items, all_crow, to_item_order, item_col)
        step_items, item_crow = all_items[:n], all_crow[: n + 1]
    return Batch(
        users=different[:found],
        items=step_items,
        positives=positives,
        whole=everything is not None,
        pattern=PairPattern(crow[: found + 1], pairs, item_crow, item_col, to_item_order),
    )


def _stable_order(keys: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where each of the sorted keys stood; keys are at least 0, equal ones keep their order."""
    order, other = np.arange(len(keys), dtype=np.int32), np.empty(len(keys), np.int32)
    for shift in range(0, int(keys.max(initial=0)).bit_length(), _DIGIT):
        _pass(keys, order, other, np.zeros(2**_DIGIT + 1, np.int32), shift)
        order, other = other, order
    return order


def uniform_negatives(key: Key, start: int, count: int, n_items: int) -> NDArray[np.int32]:
    """`randomness.positional_integers` as int32."""
    if n_items > MOST_BY_HALVES:
        return positional_integers(key, start, count, n_items).astype(np.int32)
    drawn = np.empty(count, np.int32)
    _scale(positional_halves(key, start, count), n_items, drawn)
    return drawn


# Arrays come from outside and are only indexed: what allocates takes several times as long to
# compile.
@compiled(nogil=True)
def _scale(halves: Any, below: int, into: Any) -> None:
    """Uniform 32-bit numbers to uniform ones below a bound, by multiplying and shifting."""
    for k in range(len(halves)):
        into[k] = (np.uint64(halves[k]) * np.uint64(below)) >> np.uint64(32)


@compiled(nogil=True)
def _pass(keys: Any, order: Any, into: Any, places: Any, shift: int) -> None:
    """Sort `order` by one digit of its keys."""
    mask = len(places) - 2
    for k in range(len(keys)):
        places[((keys[k] >> shift) & mask) + 1] += 1
    for digit in range(mask + 1):
        places[digit + 1] += places[digit]
    for k in range(len(keys)):
        digit = (keys[order[k]] >> shift) & mask
        into[places[digit]] = order[k]
        places[digit] += 1


@compiled(nogil=True)
def _gather(
    users: Any,
    items: Any,
    negatives: Any,
    order: Any,
    pairs: Any,
    row_of: Any,
    different: Any,
    crow: Any,
    counts: Any,
) -> int:
    """Pairs in the order of users, which row each positive's are in, users, row pointers.

    `counts` receives how often each item is among the pairs, unless it is empty.
    """
    width = negatives.shape[1] + 1
    counting = len(counts) > 0
    found = 0
    for k in range(len(order)):
        at = order[k]
        if found == 0 or different[found - 1] != users[at]:
            different[found] = users[at]
            crow[found] = k * width
            found += 1
        row_of[k] = found - 1
        pairs[k * width] = items[at]
        for j in range(width - 1):
            pairs[k * width + 1 + j] = negatives[at, j]
        if counting:
            for j in range(width):
                counts[pairs[k * width + j]] += 1
    crow[found] = len(order) * width
    return found


@compiled(nogil=True)
def _transpose(
    pairs: Any, row_of: Any, width: int, free: Any, to_item_order: Any, item_col: Any
) -> None:
    """Deal pairs out to their items; `free` is the next free place of each."""
    for row in range(len(row_of)):
        for k in range(row * width, (row + 1) * width):
            at = free[pairs[k]]
            free[pairs[k]] = at + 1
            to_item_order[at] = k
            item_col[at] = row_of[row]


@compiled(nogil=True)
def _number(
    pairs: Any,
    order: Any,
    row_of: Any,
    width: int,
    step_items: Any,
    item_crow: Any,
    to_item_order: Any,
    item_col: Any,
) -> int:
    """Number the items in the order of pairs that is sorted by them; `pairs` become numbers."""
    found = 0
    for k in range(len(order)):
        at = order[k]
        if found == 0 or step_items[found - 1] != pairs[at]:
            step_items[found] = pairs[at]
            item_crow[found] = k
            found += 1
        pairs[at] = found - 1
        to_item_order[k] = at
        item_col[k] = row_of[at // width]
    item_crow[found] = len(order)
    return found
