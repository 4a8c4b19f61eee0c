"""Items of each user, as CSR: what a user took, and what may not be recommended or drawn.

One type for whatever knows items by user: candidates of a softmax, the ranking of held-out items,
the predictor. It needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Taken(Protocol):
    """Knows items by user."""

    def some(self, users: NDArray[np.int64]) -> UserItems:
        """Those of these users, in this order, who are then 0 and on."""


@dataclass(frozen=True)
class UserItems:
    """User u has ``items[indptr[u]:indptr[u + 1]]``.

    Attributes:
        indptr: int64 ``[n_users + 1]``; the first need not be 0.
        items: int32 ``[n]``, item rows.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]

    @classmethod
    def of_lists(cls, lists: Sequence[NDArray[np.int32]]) -> UserItems:
        """User n has the n-th of these arrays."""
        lengths = [len(each) for each in lists]
        indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return cls(indptr, np.concatenate(lists) if lists else np.zeros(0, np.int32))

    def __len__(self) -> int:
        """Number of users."""
        return len(self.indptr) - 1

    def of(self, user: int) -> NDArray[np.int32]:
        """The items of one user."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def slice(self, start: int, stop: int) -> UserItems:
        """Users ``start .. stop``, who are then 0 and on; a view."""
        return UserItems(self.indptr[start : stop + 1], self.items)

    def some(self, users: NDArray[np.int64]) -> UserItems:
        """These users, in this order, who are then 0 and on; a copy."""
        start, count = self.indptr[users], self.indptr[users + 1] - self.indptr[users]
        indptr = np.concatenate([[0], np.cumsum(count)])
        place = np.repeat(start - indptr[:-1], count)
        place += np.arange(len(place))
        return UserItems(indptr, self.items[place])

    def joined(self, users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The items of several users, end to end, and which of `users` each is of, int64."""
        start, count = self.indptr[users], self.indptr[users + 1] - self.indptr[users]
        row = np.repeat(np.arange(len(users)), count)
        before = np.cumsum(count) - count
        place = np.arange(len(row)) + np.repeat(start - before, count)
        return row, self.items[place]

    def flat(self, n_items: int) -> NDArray[np.int64]:
        """Each entry's place in an array ``[n_users, n_items]`` that is read row by row."""
        rows = np.repeat(np.arange(len(self)), np.diff(self.indptr))
        return rows * n_items + self.items[self.indptr[0] : self.indptr[-1]]

    def and_one_each(self, extra: np.ndarray) -> UserItems:
        """With one more item for each user, after the others; -1 adds none."""
        users = np.repeat(np.arange(len(self)), np.diff(self.indptr))
        have = np.flatnonzero(extra >= 0)
        all_users = np.concatenate([users, have])
        order = np.argsort(all_users, kind="stable")
        mine = self.items[self.indptr[0] : self.indptr[-1]]
        items = np.concatenate([mine, extra[have]])[order]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(all_users, minlength=len(self)))])
        return UserItems(indptr, items)

    def ascending(self) -> UserItems:
        """The same with each user's items in ascending order; the first pointer is 0."""
        from scipy import sparse  # a second of imports that a predictor need not wait for

        items = self.items.copy()
        marked = (np.zeros(len(items), np.int8), items, self.indptr)
        by_user = sparse.csr_matrix(marked, shape=(len(self), int(items.max(initial=0)) + 1))
        by_user.sort_indices()
        return UserItems(self.indptr, by_user.indices.astype(np.int32, copy=False))


@dataclass(frozen=True)
class AndOneEach:
    """`UserItems.and_one_each`, formed for the users that are asked for: nothing whole is copied.

    Attributes:
        items: of all users; may be mapped.
        extra: one more item of each user, -1 for none.
    """

    items: UserItems
    extra: np.ndarray

    def some(self, users: NDArray[np.int64]) -> UserItems:
        """See `Taken`."""
        return self.items.some(users).and_one_each(self.extra[users])
