"""The best items of a query vector: by all items, or by a FAISS index of them.

In: query vectors, and the rows that are no candidates. Out: the k best rows with their scores,
formed in float64 whatever found the rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from cadc_rec.data.user_items import UserItems
from cadc_rec.serving.predict.listed import Listed, listed_below, of_query
from cadc_rec.serving.predict.top_k import (
    Best,
    Floats,
    ItemVectors,
    NotCandidates,
    Rows,
    merged,
)

_SPARE = 32  # rows an index is asked for beyond those that may fall out
_MOST = 1024  # rows it is asked for at most; who took more is answered by all items
_NARROW = 10  # times fewer rows match than there are: these alone are looked at


class Retrieval(Protocol):
    """Finds the best items."""

    def best(self, queries: Floats, k: int, out: NotCandidates, listed: Listed = None) -> Best:
        """The k best items of each query ``[n, d]``."""


class IndexSearch:
    """Approximate: a FAISS index proposes rows, their exact scores rank them.

    Rows that may not be recommended still come out of the index, so it is asked for more: what it
    proposes are the best of all items, so those of them that match are the best that match. Where
    a filter leaves so few that it would have to be asked for too many, and where too few are left
    of what it proposed, the query is answered by all items that match. Where scores stand on top of
    the dot products, the items with the best of these are proposed too; with scores that a request
    adds, all items are looked at.

    Args:
        index: FAISS, inner product; its labels are rows.
        items: the vectors it was built of.
    """

    def __init__(self, index: Any, items: ItemVectors) -> None:
        self.index = index
        self.items = items

    def best(self, queries: Floats, k: int, out: NotCandidates, listed: Listed = None) -> Best:
        """The k best items of each query ``[n, d]``."""
        most = len(self.items)
        out = out.counted(most / _NARROW)
        left = most - len(out.blocked) if out.only is None else min(most, out.only.most)
        excluded = int(np.diff(out.taken.indptr).max(initial=0))
        ask = (k + _SPARE + excluded) * most // max(left, 1)
        if out.added is not None or left * _NARROW < most or not len(queries):
            return self.items.best(queries, k, out, listed)
        ask = min(most, ask, max(_MOST, k + _SPARE))
        _, candidates = self.index.search(
            np.ascontiguousarray(queries), ask, params=self._params(ask)
        )
        if listed is not None:  # the index knows nothing of these, so their best come beside
            candidates = _with_listed(candidates, listed, ask)
        found = self.items.best_among(candidates, queries, min(k, ask), out, listed)
        short = np.flatnonzero((found.rows < 0).any(1))
        for query in short:
            more = None if listed is None else listed[[query]]
            again = self.items.best(queries[query][None], k, out.some(np.array([query])), more)
            found.rows[query], found.scores[query] = again.rows[0], again.scores[0]
        return found

    def _params(self, ask: int) -> Any:
        """HNSW explores at least as many rows as it is asked for."""
        import faiss

        if isinstance(self.index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=max(self.index.hnsw.efSearch, 2 * ask))
        return None


class AndOthers:
    """What finds the first rows, and with them the rows behind, which are few and all looked at.

    Args:
        first: finds the best of the first rows.
        n_first: how many these are.
        items: all rows.
    """

    def __init__(self, first: Retrieval, n_first: int, items: ItemVectors) -> None:
        self.first, self.n_first, self.items = first, n_first, items

    def best(self, queries: Floats, k: int, out: NotCandidates, listed: Listed = None) -> Best:
        """The k best items of each query ``[n, d]``."""
        if out.only is not None and out.only.most * _NARROW < len(self.items):
            return self.items.best(queries, k, out, listed)
        others = np.arange(self.n_first, len(self.items), dtype=np.int32)
        if out.only is not None:
            others = others[out.only.holds(others)]
        behind = self.items.best_of(others, queries, min(k, max(1, len(others))), out, listed)
        mine = replace(out, taken=_below(out.taken, self.n_first))
        theirs = listed_below(listed, self.n_first)
        before = self.first.best(queries, min(k, self.n_first), mine, theirs)
        return merged([before, behind], k)


def _below(taken: UserItems, n: int) -> UserItems:
    """The items of each query that have rows below n."""
    there = taken.items < n
    if there.all():
        return taken
    return UserItems(np.concatenate([[0], np.cumsum(there)])[taken.indptr], taken.items[there])


def _with_listed(candidates: Rows, listed: Listed, most: int) -> Rows:
    """Candidates ``[n, c]`` and, of each query, the listed items with the best scores."""
    joined = np.full((len(candidates), candidates.shape[1] + most), -1, np.int64)
    for n, proposed in enumerate(candidates):
        more = of_query(listed, n)
        rows, scores = more.rows, more.scores
        if len(rows) > most:
            rows = rows[np.argpartition(-scores, most)[:most]]
        every = np.union1d(proposed, rows)
        every = every[every >= 0]
        joined[n, : len(every)] = every
    return joined
