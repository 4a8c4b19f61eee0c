"""Scores that stand on top of dot products: those of lists, and recent popularity.

In: scores of some items, a list a query, and scores of which all queries have a multiple. Out: the
rows and scores of one query, which are formed when it is looked at: those of many at once would
take more memory than all vectors where recent popularity knows many items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cadc_rec.serving.predict.conditions import among

if TYPE_CHECKING:
    from scipy import sparse

Listed: TypeAlias = "sparse.csr_array | OnTop | None"
"""Scores on top of the dot products, float32 ``[queries, items]``, columns ascending; or none."""


@dataclass(frozen=True)
class More:
    """What stands on top of one query's dot products: rows, ascending, and their scores."""

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]

    def at(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """The scores of any rows; 0 where nothing is listed."""
        if not len(self.rows):
            return np.zeros(len(rows), np.float32)
        places = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        found: NDArray[np.float32] = np.where(
            self.rows[places] == rows, self.scores[places], np.float32(0)
        )
        return found

    def among(self, rows: NDArray[np.int32]) -> More:
        """Those of some rows (ascending), row n being the n-th of them."""
        there = among(self.rows, rows)
        places = np.searchsorted(rows, self.rows[there]).astype(np.int32)
        return More(places, self.scores[there])


_NOTHING = More(np.zeros(0, np.int32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class OnTop:
    """Scores of which each query has a multiple, beside those of its list.

    Attributes:
        recent: the scores.
        factors: of each query, float32 ``[n]``.
        lists: ``[n, items]``; None without.
    """

    recent: More
    factors: NDArray[np.float32]
    lists: sparse.csr_array | None = None

    def __getitem__(self, queries: Any) -> OnTop:
        """The same of some of the queries."""
        lists = None if self.lists is None else self.lists[queries]
        return replace(self, factors=self.factors[queries], lists=lists)

    def of(self, query: int) -> More:
        """One query's."""
        rows, scores = self.recent.rows, self.recent.scores * self.factors[query]
        mine = of_query(self.lists, query)
        if not len(mine.rows):
            return More(rows, scores)
        both = among(mine.rows, rows)
        scores[np.searchsorted(rows, mine.rows[both])] += mine.scores[both]
        places = np.searchsorted(rows, mine.rows[~both])
        return More(
            np.insert(rows, places, mine.rows[~both]),
            np.insert(scores, places, mine.scores[~both]),
        )

    def at(self, query: int, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Those of any rows for one query, as `of` has them."""
        found: NDArray[np.float32] = self.recent.at(rows) * self.factors[query]
        return found + of_query(self.lists, query).at(rows)


def of_query(listed: Listed, query: int) -> More:
    """One query's."""
    if listed is None:
        return _NOTHING
    if isinstance(listed, OnTop):
        return listed.of(query)
    part = slice(listed.indptr[query], listed.indptr[query + 1])
    return More(listed.indices[part], listed.data[part])


def scores_at(listed: Listed, query: int, rows: NDArray[Any]) -> NDArray[np.float32]:
    """The scores of any rows for one query; 0 where nothing is listed."""
    if isinstance(listed, OnTop):
        return listed.at(query, rows)
    return of_query(listed, query).at(rows)


def listed_among(listed: Listed, rows: NDArray[np.int32]) -> Listed:
    """The scores of some rows (ascending), which are the columns then."""
    if listed is None:
        return None
    if isinstance(listed, OnTop):
        recent, lists = listed.recent.among(rows), _lists_among(listed.lists, rows)
        return replace(listed, recent=recent, lists=lists)
    return _lists_among(listed, rows)


def listed_below(listed: Listed, n: int) -> Listed:
    """The scores of the items that have rows below n."""
    if listed is None:
        return None
    if isinstance(listed, OnTop):
        many = int(np.searchsorted(listed.recent.rows, n))
        recent = More(listed.recent.rows[:many], listed.recent.scores[:many])
        return replace(listed, recent=recent, lists=_lists_below(listed.lists, n))
    return _lists_below(listed, n)


def _lists_below(lists: sparse.csr_array | None, n: int) -> sparse.csr_array | None:
    if lists is None or lists.shape[1] <= n:
        return lists
    return _lists_among(lists, np.arange(n, dtype=np.int32))


def _lists_among(
    lists: sparse.csr_array | None, rows: NDArray[np.int32]
) -> sparse.csr_array | None:
    if lists is None:
        return None
    from scipy import sparse

    there = among(lists.indices, rows)
    starts = np.concatenate([[0], np.cumsum(there)])[lists.indptr]
    columns = np.searchsorted(rows, lists.indices[there]).astype(np.int32)
    shape = (lists.shape[0], len(rows))
    return sparse.csr_array((lists.data[there], columns, starts), shape=shape)
