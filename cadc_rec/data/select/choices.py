"""Selections that use what is known of a row: its user, its place in time, its score.

In: where each user's rows begin in D_full, and how many rows are wanted. Out: which rows of a
block, ascending; of all blocks exactly that many. What decides is a few numbers that the ranks find
together, so each rank can say which rows any block gives, and holds no more than a block's.

- recent: each user's latest rows, every user giving the same share;
- user-stratified: the same number of each user's rows, drawn uniformly;
- recency-weighted: drawn without replacement, a row's weight halving every `half_life` rows that
  its user has after it (Efraimidis and Spirakis 2006, by Gumbel keys);
- hard: the rows that the pre-trained vectors score lowest;
- gradient-norm: the rows whose loss has the longest gradient in the cheap model.

A random number belongs to a place of one sequence of the seed: the users' come first, then the
rows'; those of recency-weighted rows have the sequence to themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.randomness import Purpose, generator_at, positional_fractions
from cadc_rec.data.select.blocks import Block, Blocks, ByBlock, Choice
from cadc_rec.data.select.largest import largest, ordered
from cadc_rec.data.select.ranks import Ranks
from cadc_rec.data.select.shares import Shares

Ints = NDArray[np.int64]
Ids = NDArray[np.int32]
Vectors = Callable[[Ids, Ids], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""The vectors of users and of items, whose dot products are the scores of pairs."""
PairKeys = Callable[[Ids, Ids], NDArray[np.floating]]
"""A number of each pair of a user and an item."""
_SCORED = 2**18  # rows at once


class ByUser:
    """Where each user's rows are, and how many of them each gives.

    Args:
        indptr: ``[n_users + 1]``, may be mapped; a user's rows are in the order of time.
        wanted: rows in all.
        seed: of the draws.
        ranks: see `Shares`.
    """

    def __init__(self, indptr: Ints, wanted: int, seed: int, ranks: Ranks) -> None:
        self._indptr, self._key = indptr, (seed, Purpose.INFORMED_SELECTION)
        self._users = len(indptr) - 1
        self._shares = Shares(
            lambda a, b: np.diff(indptr[a : b + 1]),
            self._users,
            int(indptr[-1]),
            wanted,
            self._key,
            ranks,
        )
        self._drawn = range(0), np.empty(0, np.int64)

    def recent(self, block: Block) -> Ints:
        """Positions in the block of its users' latest rows."""
        users = users_of(self._indptr, block)
        begins = self._indptr[users.start + 1 : users.stop + 1] - self._shares.of(
            users.start, users.stop
        )
        here = np.repeat(begins, rows_here(self._indptr, users, block))
        return np.flatnonzero(np.arange(block.start, block.stop) >= here)

    def stratified(self, block: Block) -> Ints:
        """Positions in the block of as many rows of its users, uniformly drawn."""
        users = users_of(self._indptr, block)
        if self._drawn[0] != users:  # many blocks may be of one busy user
            self._drawn = users, self._draw(users)
        rows = self._drawn[1]
        first, last = np.searchsorted(rows, [block.start, block.stop])
        return rows[first:last] - block.start

    def _draw(self, users: range) -> Ints:
        """The rows of D_full that these users give."""
        indptr = self._indptr[users.start : users.stop + 1]
        rows, start = int(indptr[-1] - indptr[0]), int(indptr[0])
        keys = positional_fractions(self._key, self._users + start, rows)
        counts = np.diff(indptr)
        user = np.repeat(np.arange(len(users)), counts)
        shuffled = np.lexsort((keys, user))
        place = np.arange(rows) - (indptr[:-1] - start)[user]  # a user's, in a drawn order
        given = np.repeat(self._shares.of(users.start, users.stop), counts)
        return np.sort(shuffled[place < given]) + start


def recency_weighted(
    indptr: Ints, wanted: int, half_life: float, seed: int, blocks: Blocks, ranks: Ranks
) -> Choice:
    """Rows drawn with weight ``2 ** (-rows after it / half_life)``, without replacement."""
    key, decay = (seed, Purpose.INFORMED_SELECTION), np.log(2) / half_life

    def keys(block: Block) -> NDArray[np.float64]:
        users = users_of(indptr, block)
        ends = indptr[users.start + 1 : users.stop + 1]
        after = np.repeat(ends, rows_here(indptr, users, block))
        after -= np.arange(block.start + 1, block.stop + 1)
        return generator_at(key, block.start).gumbel(size=len(block)) - after * decay

    return _of_largest(keys, wanted, blocks, ranks)


def hard(
    rows_of: Callable[[Block], tuple[Ids, Ids]],
    vectors: Vectors,
    wanted: int,
    blocks: Blocks,
    ranks: Ranks,
) -> Choice:
    """The rows whose user and item vectors have the smallest dot products.

    Args:
        rows_of: users and items of a block's rows.
        vectors: of users and items.
        wanted: rows in all.
        blocks: of D_full.
        ranks: that score together.
    """

    def lowness(user: Ids, item: Ids) -> NDArray[np.float32]:
        return -np.einsum("nd,nd->n", *vectors(user, item))

    return highest(rows_of, lowness, wanted, blocks, ranks)


def highest(
    rows_of: Callable[[Block], tuple[Ids, Ids]],
    keys_of: PairKeys,
    wanted: int,
    blocks: Blocks,
    ranks: Ranks,
) -> Choice:
    """The rows whose users and items have the largest keys.

    Args:
        rows_of: users and items of a block's rows.
        keys_of: a key of each pair.
        wanted: rows in all.
        blocks: of D_full.
        ranks: that make the keys together.
    """

    def keys(block: Block) -> NDArray[np.float32]:
        user, item = rows_of(block)
        found = np.empty(len(block), np.float32)
        for start in range(0, len(block), _SCORED):
            some = slice(start, start + _SCORED)
            found[some] = keys_of(user[some], item[some])
        return found

    return _of_largest(keys, wanted, blocks, ranks)


def _of_largest(
    keys: Callable[[Block], NDArray[np.floating]], wanted: int, blocks: Blocks, ranks: Ranks
) -> Choice:
    """The `wanted` rows with the largest keys; of equal ones the earlier."""
    found = largest(lambda piece: ordered(keys(blocks[piece])), len(blocks), wanted, ranks)

    def rows(block: Block) -> Ints:
        return np.flatnonzero(found.taken(block.number, ordered(keys(block))))

    return ByBlock(rows, found.counts)


def users_of(indptr: Ints, block: Block) -> range:
    """The users who have rows in the block."""
    first = int(np.searchsorted(indptr, block.start, "right")) - 1
    return range(first, int(np.searchsorted(indptr, block.stop)))


def rows_here(indptr: Ints, users: range, block: Block) -> Ints:
    """How many rows of the block each of its users has."""
    bounds: Ints = np.clip(indptr[users.start : users.stop + 1], block.start, block.stop)
    return np.diff(bounds)
