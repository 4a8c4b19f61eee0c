"""Weighted negatives: by popularity, or uniform over the items that the user does not know.

In: what the items weigh, what each user knows, a stream's key. Out: items, one draw each, by their
position in the stream.

Weights are whole numbers with whole sums, so a draw is exact: x, uniform in ``[0, T)``, gives the
item in whose stretch of the line it falls. A user's known items are cut out of the line, not drawn
again: x is uniform over what is left of it, ``[0, T - W_u)``, and moves right by the known weight
before it. So one draw is enough, and a known item cannot come.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.compiled import compiled
from cadc_rec.data.load.batches import Step
from cadc_rec.data.randomness import Key, Purpose, positional_fractions, positional_integers
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError

_TOTAL = 2.0**50  # about the sum of popularity weights: rounds the rarest of 10**9 rows by 1e-6


class WeightedNegatives:
    """Items in proportion to whole weights, without what the user knows.

    Args:
        weights: int64 ``[n_items]``, at least 0; their sum is positive and below 2**53.
        known: cut out of each user's draws; None cuts nothing out.

    Raises:
        CadcError: a user knows every item that weighs anything.
    """

    def __init__(self, weights: NDArray[np.int64], known: UserItems | None = None) -> None:
        self.ends = np.concatenate([[0], np.cumsum(weights)])
        self.total = int(self.ends[-1])
        self.guide, self.shift = _guide(self.ends)
        self.known = known
        if known is not None:
            self.known = known.ascending()
            self.before, known_weight = _unknown_before(self.known, weights, self.ends)
            self.free = self.total - known_weight
            if (self.free <= 0).any():
                raise CadcError(
                    f"train.exclude_known leaves {int((self.free <= 0).sum()):,} users without a "
                    "negative: they know every item that can be drawn; set it to false."
                )

    def of_rows(self, step: Step, users: np.ndarray, k: int) -> NDArray[np.int32]:
        """Each row's own negatives ``[B, k]``."""
        key, start, count = step.key(Purpose.NEGATIVES), step.start * k, len(users) * k
        if self.known is None:
            return self.shared(key, start, count).astype(np.int32).reshape(-1, k)
        fractions = positional_fractions(key, start, count).reshape(-1, k)
        of_known = (self.known.indptr, self.known.items, self.before, self.free)
        drawn = np.empty(fractions.shape, np.int32)
        _draw_unknown(drawn, fractions, users, *of_known, self.ends, self.guide, self.shift)
        return drawn

    def shared(self, key: Key, start: int, count: int) -> NDArray[np.int64]:
        """Elements ``start .. start + count`` of the stream `key`, for all rows of a step."""
        drawn = positional_integers(key, start, count, self.total)
        _to_items(drawn, self.ends, self.guide, self.shift)
        return drawn


def popularity_weights(frequency: NDArray[np.int64], alpha: float) -> NDArray[np.int64]:
    """Whole weights in proportion to ``frequency ** alpha``; 0 for what never occurs.

    Args:
        frequency: ``[n_items]``, interactions in D_full.
        alpha: at least 0.
    """
    powers = np.where(frequency > 0, np.maximum(frequency, 1).astype(np.float64) ** alpha, 0.0)
    scaled = np.rint(powers * (_TOTAL / powers.sum())).astype(np.int64)
    return np.where(frequency > 0, np.maximum(scaled, 1), 0)


def compile_kernels() -> None:
    """Compile the draws now, so that no stage's time includes the seconds it takes."""
    nothing = UserItems(np.zeros(2, np.int64), np.zeros(0, np.int32))
    step = Step(0, 1, 0, 0, 0, np.zeros(1, np.int64), 1)
    drawn = WeightedNegatives(np.ones(2, np.int64), nothing)
    drawn.of_rows(step, np.zeros(1, np.int32), 1)
    drawn.shared((0, 1), 0, 1)


def _guide(ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """For each of about two buckets an item: the item that the bucket's first number falls in."""
    total, items = int(ends[-1]), len(ends) - 1
    shift = max(0, (total - 1).bit_length() - (2 * items).bit_length())
    starts = np.arange(((total - 1) >> shift) + 2, dtype=np.int64) << shift
    return np.minimum(np.searchsorted(ends, starts, "right") - 1, items - 1), shift


def _unknown_before(
    known: UserItems, weights: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What lies before each known item and is not known, ``[rows]``; what each user's weigh."""
    indptr, items = known.indptr, known.items
    twice = np.zeros(len(items), bool)  # a pair that occurs twice weighs once
    twice[1:] = items[1:] == items[:-1]
    twice[indptr[:-1][np.diff(indptr) > 0]] = False
    weight = np.where(twice, 0, weights[items])
    # Sums over all users may pass 2**63; their differences are right all the same.
    summed = np.concatenate([[0], np.cumsum(weight)])
    before = ends[items] - summed[:-1] + np.repeat(summed[indptr[:-1]], np.diff(indptr))
    before[twice] += weights[items[twice]]
    return before, summed[indptr[1:]] - summed[indptr[:-1]]


@compiled(nogil=True, inline="always")
def _item_at(x: int, ends: Any, guide: Any, shift: int) -> int:
    """The item in whose stretch ``[ends[i], ends[i + 1])`` the number `x` falls."""
    bucket = x >> shift
    low, high = guide[bucket], guide[bucket + 1]
    while low < high:
        middle = (low + high + 1) >> 1
        if ends[middle] <= x:
            low = middle
        else:
            high = middle - 1
    return low


@compiled(nogil=True)
def _to_items(drawn: Any, ends: Any, guide: Any, shift: int) -> None:
    """Replace numbers below the total by the items they fall on."""
    for k in range(len(drawn)):
        drawn[k] = _item_at(drawn[k], ends, guide, shift)


@compiled(nogil=True)
def _draw_unknown(
    drawn: Any,
    fractions: Any,
    users: Any,
    indptr: Any,
    known: Any,
    before: Any,
    free: Any,
    ends: Any,
    guide: Any,
    shift: int,
) -> None:
    """Fill `drawn` with items that the row's user does not know."""
    for row in range(len(users)):
        user = users[row]
        first, room = indptr[user], free[user]
        for k in range(fractions.shape[1]):
            x = min(np.int64(fractions[row, k] * room), room - 1)
            low, high = first, indptr[user + 1]
            while low < high:  # to the first known item with more than x before it
                middle = (low + high) >> 1
                if before[middle] <= x:
                    low = middle + 1
                else:
                    high = middle
            if low > first:
                x += ends[known[low - 1] + 1] - before[low - 1]
            drawn[row, k] = _item_at(x, ends, guide, shift)
