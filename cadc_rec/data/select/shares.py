"""How many rows each user (or other group of rows) gives: the same share of its own, exactly.

In: how many rows each has, and how many are wanted of all. Out: how many each gives. Ranks find
together what decides, and none holds the numbers of all users.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.randomness import Key, positional_fractions
from cadc_rec.data.select.largest import Keys, largest, scaled
from cadc_rec.data.select.ranks import Alone, Ranks

Ints = NDArray[np.int64]
_USERS = 2**14  # of a piece of them
_FRACTION = 2**53  # random fractions are multiples of its inverse


class Shares:
    """How many rows each user gives: its share of `wanted`, rounded so that the sum is exact.

    Every user's share is rounded down; what is missing goes to the largest remainders, equal ones
    in a drawn order (the method of largest remainders). A user with few rows may give none.

    Args:
        counts: the rows of users ``first .. last``, given both.
        users: how many there are.
        total: rows of all.
        wanted: rows in all, at most `total`.
        key: the sequence that orders equal remainders, a number a user.
        ranks: that find the shares together.
    """

    def __init__(
        self,
        counts: Callable[[int, int], Ints],
        users: int,
        total: int,
        wanted: int,
        key: Key,
        ranks: Ranks,
    ) -> None:
        self._counts, self._users, self._total, self._wanted = counts, users, total, wanted
        self._key, pieces = key, -(-users // _USERS)

        def given() -> int:
            return sum(int(self._rounded(piece)[0].sum()) for piece in ranks.share(pieces))

        missing = wanted - sum(ranks.all_gather(ranks.together(given)))
        self._remainder = largest(lambda piece: self._rounded(piece)[1], pieces, missing, ranks)
        equal = self._remainder.equal
        self._draw = largest(
            lambda piece: self._draws(piece, self._rounded(piece)[1]), pieces, equal, ranks
        )

    def of(self, first: int, last: int) -> Ints:
        """Those of the users ``first .. last``."""
        pieces = range(first // _USERS, -(-last // _USERS))
        found = [np.empty(0, np.int64), *(self._of_piece(piece) for piece in pieces)]
        start = pieces.start * _USERS
        return np.concatenate(found)[first - start : last - start]

    def _of_piece(self, piece: int) -> Ints:
        given, remainder = self._rounded(piece)
        given += remainder > self._remainder.key
        equal = np.flatnonzero(remainder == self._remainder.key)
        given[equal[self._draw.taken(piece, self._draws(piece, remainder))]] += 1
        return given

    def _rounded(self, piece: int) -> tuple[Ints, Keys]:
        """Shares rounded down, and keys of what remains."""
        counts = self._counts(piece * _USERS, min((piece + 1) * _USERS, self._users))
        # Exact: all are integers, Python's where a product may have more than 63 bits.
        large = int(counts.max(initial=0)) * self._wanted >= 2**63
        product = (counts.astype(object) if large else counts) * self._wanted
        given, remainder = (
            part.astype(np.int64) for part in (product // self._total, product % self._total)
        )
        return given, scaled(remainder, self._total)

    def _draws(self, piece: int, remainder: Keys) -> Keys:
        """Keys of the users whose remainder is the least that counts."""
        equal = remainder == self._remainder.key
        if not equal.any():
            return np.empty(0, np.uint64)
        drawn = positional_fractions(self._key, piece * _USERS, len(remainder))[equal]
        return scaled(_FRACTION - 1 - (drawn * _FRACTION).astype(np.int64), _FRACTION)


def shares(counts: Ints, wanted: int, key: Key) -> Ints:
    """The `Shares` of users (or other groups of rows) of which all counts are at hand ``[n]``."""
    total = int(counts.sum())
    found = Shares(lambda a, b: counts[a:b], len(counts), total, wanted, key, Alone())
    return found.of(0, len(counts))
