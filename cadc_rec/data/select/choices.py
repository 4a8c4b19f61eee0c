"""Selections that use what is known of a row: its user, its place in time, its score.

In: D_full as arrays, and how many rows are wanted. Out: which rows, ascending, exactly that many.
Users are gone through in runs of about a million rows, so that a selection by user needs memory for
the users and the chosen rows, not for all rows.

- recent: each user's latest rows, every user giving the same share;
- user-stratified: the same number of each user's rows, drawn uniformly;
- recency-weighted: drawn without replacement, a row's weight halving every `half_life` rows that
  its user has after it (Efraimidis and Spirakis 2006, by Gumbel keys);
- hard: the rows that the pre-trained vectors score lowest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.randomness import Purpose, bit_generator

Ints = NDArray[np.int64]
_BLOCK = 2**18  # rows scored at once
_RUN = 2**20  # rows of the users gone through at once; a busy user's may be more


def generator(seed: int) -> np.random.Generator:
    """The random stream of these selections."""
    return np.random.Generator(bit_generator((seed, Purpose.INFORMED_SELECTION)))


def shares(counts: Ints, wanted: int, draw: np.random.Generator) -> Ints:
    """How many rows each user gives: its share of `wanted`, rounded so that the sum is exact.

    Every user's share is rounded down; what is missing goes to the largest remainders, equal ones
    in a drawn order (the method of largest remainders). A user with few rows may give none.

    Args:
        counts: rows of each user ``[n_users]``.
        wanted: rows in all, at most their sum.
        draw: orders equal remainders.
    """
    total = int(counts.sum())
    # Exact: all are integers, Python's where a product may have more than 63 bits.
    large = int(counts.max(initial=0)) * wanted >= 2**63
    product = (counts.astype(object) if large else counts) * wanted
    given, remainder = (part.astype(np.int64) for part in (product // total, product % total))
    missing = wanted - int(given.sum())
    order = np.lexsort((draw.random(len(counts)), -remainder))
    given[order[:missing]] += 1
    return given


def recent_rows(indptr: Ints, wanted: int, draw: np.random.Generator) -> Ints:
    """Each user's latest rows.

    Args:
        indptr: ``[n_users + 1]``; a user's rows are in the order of time.
        wanted: rows in all.
        draw: see `shares`.
    """
    counts = np.diff(indptr)
    given = shares(counts, wanted, draw)

    def of_run(first: int, last: int) -> Ints:
        inside = indptr[first : last + 1] - indptr[first]
        most = np.repeat(given[first:last], counts[first:last])
        return np.flatnonzero(rows_after(inside) < most) + indptr[first]

    return _joined(of_run(first, last) for first, last in _runs(indptr))


def stratified_rows(indptr: Ints, wanted: int, draw: np.random.Generator) -> Ints:
    """As many rows of each user as `recent_rows` takes, uniformly drawn."""
    counts = np.diff(indptr)
    given = shares(counts, wanted, draw)

    def of_run(first: int, last: int) -> Ints:
        inside = indptr[first : last + 1] - indptr[first]
        user = np.repeat(np.arange(last - first), counts[first:last])
        shuffled = np.lexsort((draw.random(len(user)), user))
        place = np.arange(len(user)) - inside[user]  # a user's rows, in a drawn order
        chosen = shuffled[place < np.repeat(given[first:last], counts[first:last])]
        return np.sort(chosen) + indptr[first]

    return _joined(of_run(first, last) for first, last in _runs(indptr))


def recency_weighted_rows(
    indptr: Ints, wanted: int, half_life: float, draw: np.random.Generator
) -> Ints:
    """Rows drawn with weight ``2 ** (-rows after it / half_life)``, without replacement.

    Every row's key is held until the last is drawn: 17 bytes of memory a row.
    """
    keys = np.empty(int(indptr[-1]))
    for first, last in _runs(indptr):
        inside = indptr[first : last + 1] - indptr[first]
        run = slice(indptr[first], indptr[last])
        keys[run] = draw.gumbel(size=int(inside[-1])) - rows_after(inside) * (np.log(2) / half_life)
    return _largest(keys, wanted)


def hard_rows(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    wanted: int,
) -> Ints:
    """The rows whose user and item vectors have the smallest dot products."""
    scores = np.empty(len(users), np.float32)
    for start in range(0, len(users), _BLOCK):
        block = slice(start, start + _BLOCK)
        scores[block] = np.einsum(
            "nd,nd->n", user_vectors[users[block]], item_vectors[items[block]]
        )
    return _largest(-scores, wanted)


def rows_after(indptr: Ints) -> Ints:
    """How many rows each row's user has after it ``[n]``."""
    return np.repeat(indptr[1:], np.diff(indptr)) - 1 - np.arange(indptr[-1])


def _runs(indptr: Ints) -> Iterator[tuple[int, int]]:
    """Runs of users ``first:last`` that have about `_RUN` rows together; none is empty of users."""
    ends = np.searchsorted(indptr, np.arange(_RUN, int(indptr[-1]) + _RUN, _RUN), "left")
    bounds = np.unique(np.concatenate([[0], np.minimum(ends, len(indptr) - 1)]))
    yield from pairwise(bounds.tolist())


def _joined(parts: Iterator[Ints]) -> Ints:
    return np.concatenate([np.empty(0, np.int64), *parts])


def _largest(keys: NDArray[np.floating], wanted: int) -> Ints:
    """Positions of the `wanted` largest keys, ascending; of equal ones the earlier."""
    if wanted >= len(keys):
        return np.arange(len(keys))
    least = np.partition(keys, len(keys) - wanted)[len(keys) - wanted]
    chosen = keys > least
    equal = np.flatnonzero(keys == least)
    chosen[equal[: wanted - int(np.count_nonzero(chosen))]] = True
    return np.flatnonzero(chosen)
