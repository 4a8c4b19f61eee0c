"""Which items may be recommended to a user, and the best of them.

In: what a request names: a filter, candidates, items to leave out. Out: the best items that are
left, by a user's vector or by popularity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.conditions import Condition, Every, Named, with_few
from cadc_rec.serving.predict.ids import IdMap
from cadc_rec.serving.predict.listed import Listed
from cadc_rec.serving.predict.retrieval import Retrieval
from cadc_rec.serving.predict.top_k import Best, Floats, NotCandidates, filled

Ids = Sequence[Any] | NDArray[Any]
"""Original ids of items ``[m]``, of all users; or ``[n, m]``, a list for each user."""

_BLOCK = 4096  # of the most popular items, looked at together


@dataclass(frozen=True)
class Choice:
    """Which items may be recommended, as rows.

    Attributes:
        only: what the items of all users must match; None: nothing.
        own: the only items of each user; None: all.
        blocked: rows that nobody is recommended, int64.
        withheld: rows that each user is not recommended; None without.
    """

    only: Condition | None
    own: Sequence[NDArray[np.int64]] | None
    blocked: NDArray[np.int64]
    withheld: Sequence[NDArray[np.int64]] | None

    @classmethod
    def of(
        cls,
        users: int,
        items: IdMap,
        only: Condition | None,
        candidates: Ids | None,
        block: Ids | None,
    ) -> Choice:
        """What a request for so many users names, and what its filter asks of items.

        Raises:
            CadcError: ids are of the wrong type, or there are lists of ids for
                another number of users.
        """
        n, own, withheld = len(items), None, None
        conditions = [] if only is None else [only]
        if candidates is not None:
            if (lists := _of_each(candidates, users, "candidates")) is not None:
                own = [_rows(items, each) for each in lists]
            else:
                conditions.append(Named.of(items.rows(candidates), n))
        blocked = np.zeros(0, np.int64)
        if block is not None:
            if (lists := _of_each(block, users, "block")) is not None:
                withheld = [_rows(items, each) for each in lists]
            else:
                blocked = _rows(items, block)
        return cls(Every(conditions) if conditions else None, own, blocked, withheld)

    @property
    def asks(self) -> bool:
        """Whether the request says which items it wants: then also those that nobody took yet."""
        return self.only is not None or self.own is not None

    def out(self, taken: UserItems, blocked: NDArray[np.int64], most: int) -> NotCandidates:
        """What may not be recommended.

        Args:
            taken: items that each user took.
            blocked: rows that no request gets.
            most: rows from here on are not ranked, whatever is said of them.
        """
        if self.withheld is not None:
            parts = [
                np.concatenate([taken.of(user), more[more < most].astype(np.int32)])
                for user, more in enumerate(self.withheld)
            ]
            taken = UserItems.of_lists(parts)
        if len(self.blocked):
            blocked = with_few(blocked, np.unique(self.blocked))
        return NotCandidates(taken, blocked, self.only)


@dataclass(frozen=True)
class Popularity:
    """Finds the items most often taken.

    Attributes:
        order: item rows of the bundle, the most often taken first; of equal ones the lower row
            first, so that those nobody took come last.
        counts: how often each of them was taken.
        ranked: so many of the first rows are looked at.
        added: rows behind the bundle's, all of which are: of items that came while it is served.
    """

    order: NDArray[np.int64]
    counts: NDArray[np.int64]
    ranked: int
    added: int = 0

    @property
    def n_items(self) -> int:
        """How many rows there are, looked at or not."""
        return len(self.counts) + self.added

    def best(self, k: int, out: NotCandidates) -> Best:
        """The k first, for one user without a vector."""
        out = out.counted(_BLOCK)
        taken, found = out.taken.of(0), np.zeros(0, np.int64)
        for rows in self._in_order(out, max(_BLOCK, k + len(taken))):
            rows = rows[out.leaves(rows) & ~np.isin(rows, taken)]
            found = np.concatenate([found, rows])
            if len(found) >= k:
                break
        found = found[:k]
        return filled(Best(found[None], self._counted(found)[None].astype(np.float64)), k)

    def _in_order(self, out: NotCandidates, size: int) -> Iterator[NDArray[np.int64]]:
        """Rows to look at, block by block."""
        n = len(self.counts)
        if out.only is not None and out.only.most < _BLOCK:
            few = out.only.rows().astype(np.int64)
            few = few[(few < self.ranked) | (few >= n)]
            yield few[np.argsort(-self._counted(few), kind="stable")]
            return
        start = 0
        while start < self.ranked:  # what nobody took is counted 0 and has the last rows
            yield self.order[start : min(start + size, self.ranked)]
            start, size = start + size, 4 * size
        yield np.arange(n, n + self.added)

    def _counted(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if not self.added:
            return self.counts[rows]
        n = len(self.counts)
        return np.where(rows < n, self.counts[np.minimum(rows, n - 1)], 0)


@dataclass(frozen=True)
class Search:
    """Finds the best items of a request's users, by their vectors or by popularity.

    Attributes:
        queries: vectors ``[n, d]``.
        sources: what each answer is based on, ``[n]``.
        retrieval: finds the best by vectors.
        listed: scores on top of the dot products.
        popular: finds them for who has no vector.
        most: the longest list that there can be.
        own: the only items of each user; None: all.
    """

    queries: Floats
    sources: NDArray[np.int8]
    retrieval: Retrieval
    listed: Listed
    popular: Popularity
    most: int
    own: Sequence[NDArray[np.int64]] | None = None

    def best(self, k: int, out: NotCandidates) -> Best:
        """The k best items of each user."""
        k = min(k, self.most)
        if self.own is None and len(self.sources) and self.by_vector.all():
            return self.retrieval.best(self.queries, k, out, self.listed)
        best = Best(np.full((len(self.sources), k), -1), np.full((len(self.sources), k), -np.inf))
        together = np.flatnonzero(self.by_vector) if self.own is None else np.zeros(0, np.int64)
        if len(together):
            more = None if self.listed is None else self.listed[together]
            found = self.retrieval.best(self.queries[together], k, out.some(together), more)
            best.rows[together], best.scores[together] = found.rows, found.scores
        for place in np.setdiff1d(np.arange(len(self.sources)), together):
            found = self.of_one(int(place), k, out.some(place[None]))
            best.rows[place], best.scores[place] = found.rows[0], found.scores[0]
        return best

    def of_one(self, place: int, k: int, out: NotCandidates) -> Best:
        """The same of one user; `out` has that user alone."""
        k = min(k, self.most)
        if self.own is not None:
            out = out.narrowed(Named.of(self.own[place], self.popular.n_items))
        if not self.by_vector[place]:
            return self.popular.best(k, out)
        more = None if self.listed is None else self.listed[[place]]
        return self.retrieval.best(self.queries[place][None], k, out, more)

    @property
    def by_vector(self) -> NDArray[np.bool_]:
        """Whether each answer is based on a vector."""
        found: NDArray[np.bool_] = self.sources != Source.POPULARITY
        return found


def _of_each(ids: Ids, users: int, what: str) -> Sequence[Any] | NDArray[Any] | None:
    """Lists of ids, one for each user; None where there is one list for all.

    Raises:
        CadcError: there are lists for another number of users.
    """
    if isinstance(ids, str) or not isinstance(ids, Sequence | np.ndarray):
        raise CadcError(f"{what}: give a list of item ids, not {ids!r:.80}.")
    nested = ids.ndim > 1 if isinstance(ids, np.ndarray) else any(map(_is_list, ids))
    if not nested:
        return None
    if len(ids) != users or not all(map(_is_list, ids)):
        raise CadcError(f"{what}: give one list of item ids for each of the {users} users.")
    return ids


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)


def _rows(items: IdMap, ids: Ids) -> NDArray[np.int64]:
    rows = items.rows(ids)
    return rows[rows >= 0]
