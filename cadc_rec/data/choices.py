"""Selections that use what is known of a row: its user, its place in time, its score.

In: D_full as arrays, and how many rows are wanted. Out: which rows, ascending, exactly that many.

- recent: each user's latest rows, every user giving the same share;
- user-stratified: the same number of each user's rows, drawn uniformly;
- recency-weighted: drawn without replacement, a row's weight halving every `half_life` rows that
  its user has after it (Efraimidis and Spirakis 2006, by Gumbel keys);
- hard: the rows that the pre-trained vectors score lowest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.randomness import Purpose, bit_generator

Ints = NDArray[np.int64]
_BLOCK = 2**18  # rows scored at once


def generator(seed: int) -> np.random.Generator:
    """What these selections draw from."""
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
    given, remainder = np.divmod(counts * wanted, total)  # exact: both are integers
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
    return np.flatnonzero(rows_after(indptr) < np.repeat(*_given(indptr, wanted, draw)))


def stratified_rows(indptr: Ints, wanted: int, draw: np.random.Generator) -> Ints:
    """As many rows of each user as `recent_rows` takes, uniformly drawn."""
    given, counts = _given(indptr, wanted, draw)
    user = np.repeat(np.arange(len(counts)), counts)
    shuffled = np.lexsort((draw.random(len(user)), user))
    place = np.arange(len(user)) - indptr[user]  # a user's rows, in a drawn order
    return np.sort(shuffled[place < np.repeat(given, counts)])


def recency_weighted_rows(
    indptr: Ints, wanted: int, half_life: float, draw: np.random.Generator
) -> Ints:
    """Rows drawn with weight ``2 ** (-rows after it / half_life)``, without replacement."""
    keys = draw.gumbel(size=int(indptr[-1])) - rows_after(indptr) * (np.log(2) / half_life)
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


def _given(indptr: Ints, wanted: int, draw: np.random.Generator) -> tuple[Ints, Ints]:
    counts = np.diff(indptr)
    return shares(counts, wanted, draw), counts


def _largest(keys: NDArray[np.floating], wanted: int) -> Ints:
    """Positions of the `wanted` largest keys, ascending; of equal ones the earlier."""
    return np.sort(np.argsort(-keys, kind="stable")[:wanted])
