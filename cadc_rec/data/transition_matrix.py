"""Which item followed which: a sparse item-to-item matrix from every training interaction.

An item at distance d after another, in one user's sequence, counts ``decay ** (d - 1)`` up to the
window's end; counts are summed over all users, then normalized and damped as
the settings say.

In: D_full. Out: a CSR matrix of the pairs that occur. The interactions are taken in the order of
their items, a block at a time: all pairs of a block are written out, sorted by counting (linear,
and in a cache) and summed before the next block's are. So beside the matrix only the places of the
interactions and one block stand in memory; nothing is compiled. Several processes each take a
share of the items that lead to others: rows of the matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.config.experiment import TransitionsConfig
from cadc_rec.data.columns import rows_of_items
from cadc_rec.data.settled import Rounded, to_float32


class Interactions(Protocol):
    """What is read of a `Dataset`: the training interactions."""

    @property
    def n_items(self) -> int:
        """Number of items."""

    @property
    def train_user(self) -> NDArray[np.int32]:
        """``[rows]``, ascending."""

    @property
    def train_item(self) -> NDArray[np.int32]:
        """``[rows]``; a user's in the order of time."""

    @property
    def user_indptr(self) -> NDArray[np.int64]:
        """``[n_users + 1]``."""


Ready = Callable[[NDArray[np.float64]], NDArray[Any]]
Total = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""The sum of an array over all processes."""
_BLOCK = 2**19  # pairs written out at once: their targets and weights are 6 MB


def transition_matrix(
    dataset: Interactions,
    config: TransitionsConfig,
    block: int = _BLOCK,
    items: range | None = None,
    total: Total = lambda values: values,
    rounded: Rounded = to_float32,
) -> sparse.csr_array:
    """Rows of the damped matrix, float32: how often a row's item led to a column's.

    Args:
        dataset: D_full, a user's rows in the order of time; held-out items have no part in it.
        config: window, decay and damping.
        block: pairs written out at once, about; the result does not depend on it.
        items: consecutive ones, whose rows are wanted; default: all.
        total: where other processes count the other rows, the sum over all; all must call.
        rounded: makes float32 numbers of the damped counts.

    Returns:
        ``[items, n_items]``.
    """
    items = range(dataset.n_items) if items is None else items

    def damped(counts: NDArray[np.float64]) -> NDArray[np.float32]:
        return rounded(np.log1p(counts) if config.damping == "log" else counts)

    if not config.normalization:  # then a block's counts are ready with it, and take half the room
        return _sum_of_blocks(dataset, config, block, items, damped)
    counts = _sum_of_blocks(dataset, config, block, items, lambda counts: counts)
    _normalize(counts, config.normalization, total)
    values = np.empty(counts.nnz, np.float32)
    for start in range(0, counts.nnz, _BLOCK):
        part = slice(start, start + _BLOCK)
        values[part] = damped(counts.data[part])
    return sparse.csr_array((values, counts.indices, counts.indptr), shape=counts.shape)


def _normalize(counts: sparse.csr_array, power: float, total: Total) -> None:
    """Divide each count by (row sum x column sum) ** power, then all by their mean; in place."""
    (pairs,) = total(np.array([counts.nnz], np.float64))
    if not pairs:
        return
    source, target = counts.sum(axis=1), total(counts.sum(axis=0))
    first = counts.indptr
    for rows, part in _pieces(first, _BLOCK):  # what is formed of a pair takes more than the pair
        lengths = np.diff(np.clip(first[rows.start : rows.stop + 1], part.start, part.stop))
        of_row = np.repeat(source[rows.start : rows.stop], lengths)
        counts.data[part] /= (of_row * target[counts.indices[part]]) ** power
    (whole,) = total(np.array([counts.data.sum()]))
    counts.data /= whole / pairs


def _sum_of_blocks(
    dataset: Interactions, config: TransitionsConfig, block: int, items: range, ready: Ready
) -> sparse.csr_array:
    """The counts ``[items, n_items]``, as `ready` makes them; columns ascend in a row."""
    n, window = dataset.n_items, config.window
    first, places = rows_of_items(dataset.train_item, items)
    steps = np.arange(1, window + 1)
    last = len(dataset.train_item) - 1
    # Every block costs a pass over all columns, so it has at least as many pairs.
    size = max(1, max(block, n) // window)
    weights = np.tile(config.decay ** (steps - 1.0), min(size, len(places)))
    lengths = np.zeros(len(items) + 1, np.int64)
    data, indices = _Growing(ready(np.zeros(0)).dtype), _Growing(np.dtype(np.int32))
    large = np.zeros(0)  # counts so far of an item whose interactions fill more than a block
    for sources, part in _pieces(first, size):
        mine = places[part]
        after = mine[:, None] + steps
        targets = dataset.train_item[np.minimum(after, last)]
        end = dataset.user_indptr[dataset.train_user[mine] + 1]
        targets[after >= end[:, None]] = n  # what another user took: a column to be cut off
        starts = np.clip(first[sources.start : sources.stop + 1], part.start, part.stop)
        summed = _summed(
            weights[: targets.size], targets.ravel(), (starts - part.start) * window, n
        )
        found, columns, rows = summed.data, summed.indices, np.diff(summed.indptr)
        begins, ends = first[sources.start], first[sources.stop]
        if begins < part.start or part.stop < ends:
            large = np.zeros(n) if begins == part.start else large
            large[columns] += found
            if part.stop < ends:
                continue
            (columns,) = np.nonzero(large)
            found, rows = large[columns], np.array([len(columns)])
        lengths[sources.start + 1 : sources.stop + 1] = rows
        data.add(ready(found))
        indices.add(columns.astype(np.int32, copy=False))
    pointers = np.cumsum(lengths)
    index = np.int32 if pointers[-1] < 2**31 else np.int64
    return sparse.csr_array(
        (data.whole(), indices.whole(), pointers.astype(index)), shape=(len(items), n)
    )


class _Growing:
    """An array that parts are added to at its end, in memory that grows with it.

    Parts that are joined in the end would take their memory twice.
    """

    def __init__(self, kind: np.dtype[Any]) -> None:
        self._room, self._size = np.empty(0, kind), 0

    def add(self, part: NDArray[Any]) -> None:
        """Put a part behind the others."""
        end = self._size + len(part)
        if end > len(self._room):  # Linux moves no large array for it
            self._room.resize(end + end // 8, refcheck=False)
        self._room[self._size : end] = part
        self._size = end

    def whole(self) -> NDArray[Any]:
        """All of them."""
        self._room.resize(self._size, refcheck=False)
        return self._room


def _pieces(first: NDArray[np.int64], size: int) -> Iterator[tuple[range, slice]]:
    """Cut the ordered places into whole items, of about `size` places, and larger items apart.

    Args:
        first: ``[items + 1]``, where each item's places begin.
        size: places of a piece at most.

    Yields:
        The items of a piece, and its places. A part of a larger item is a piece by itself.
    """
    start, last = 0, int(first[-1])
    while start < last:
        low = int(np.searchsorted(first, start, "right")) - 1
        stop = int(first[np.searchsorted(first, start + size, "right") - 1])
        if first[low] < start or stop <= start:  # in the middle of a larger item; its beginning
            stop = min(start + size, int(first[low + 1]))
        yield range(low, int(np.searchsorted(first, stop))), slice(start, stop)
        start = stop


def _summed(
    weights: NDArray[np.float64], targets: NDArray[np.int32], starts: NDArray[np.int64], n: int
) -> sparse.csr_array:
    """Rows in which a pair may stand often as rows in which it stands once; column n is cut off."""
    rows = len(starts) - 1
    pairs = sparse.csr_array((weights, targets, starts), shape=(rows, n + 1))
    by_target = pairs.tocsc()  # a counting sort; equal pairs now stand side by side
    end = int(by_target.indptr[n])
    by_target = sparse.csc_array(
        (by_target.data[:end], by_target.indices[:end], by_target.indptr[:-1]), shape=(rows, n)
    )
    by_target.sum_duplicates()
    return by_target.tocsr()
