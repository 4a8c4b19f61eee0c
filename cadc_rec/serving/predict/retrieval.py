"""The best items of a query vector: by all items, or by a FAISS index of them.

In: query vectors, and the rows that are no candidates. Out: the k best rows with their scores,
formed in float64 whatever found the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.user_items import UserItems
from cadc_rec.serving.predict.bitmaps import Bitmap
from cadc_rec.serving.predict.conditions import with_few
from cadc_rec.serving.predict.listed import Listed, listed_among, listed_below, of_query
from cadc_rec.serving.predict.top_k import (
    GATHERED,
    Best,
    Floats,
    ItemVectors,
    NotCandidates,
    Rows,
    VectorRows,
    filled,
    merged,
)

_SPARE = 32  # rows an index is asked for beyond those that may fall out
_MOST = 1024  # rows it is asked for at most; who took more is answered by all items
_NARROW = 10  # times fewer rows match than there are: these alone are looked at
_WIDE = 2  # times more rows HNSW explores than score as well as the last one wanted
_STEP = 32  # see `IndexSearch`


class Retrieval(Protocol):
    """Finds the best items."""

    def best(self, queries: Floats, k: int, out: NotCandidates, listed: Listed = None) -> Best:
        """The k best items of each query ``[n, d]``."""


class IndexSearch:
    """Approximate: a FAISS index proposes rows, their exact scores rank them.

    Rows that a user took still come out of the index, so it is asked for more. It is told which
    rows match a filter, and proposes these alone. HNSW is still led by the others, so it searches
    as widely as for all items that score as well as the last one wanted; IVF looks at as many lists
    as without a filter. Where a filter leaves so
    few that all of them are looked at in less time, and where too few are left of what the index
    proposed, the query is answered by all items that match. Where scores stand on top of the dot
    products, the items with the best of these are proposed too; with scores that a request adds,
    all items are looked at.

    Args:
        index: FAISS, inner product; its labels are rows.
        items: the vectors it was built of.
        step: vectors that are gathered in the time of a row that the index explores.
    """

    def __init__(self, index: Any, items: ItemVectors, step: float = _STEP) -> None:
        self.index, self.items, self.step = index, items, step

    def best(self, queries: Floats, k: int, out: NotCandidates, listed: Listed = None) -> Best:
        """The k best items of each query ``[n, d]``."""
        most = len(self.items)
        excluded = int(np.diff(out.taken.indptr).max(initial=0))
        few = self._few(len(queries), k + excluded)
        out = out.counted(few)
        left = most if out.only is None else min(most, out.only.most)
        if out.added is not None or not left or not len(queries):
            return self.items.best(queries, k, out, listed)
        if out.only is not None and left <= few:
            return self.items.best(queries, k, out, listed)
        ask = k + _SPARE + excluded
        wide = (k + excluded) * most // left  # so many items score as well as the last one wanted
        ask = min(most, ask, max(_MOST, k + _SPARE))
        _, candidates = self.index.search(
            np.ascontiguousarray(queries), ask, params=self._params(max(ask, wide), out.bitmap)
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

    def _few(self, queries: int, wanted: int) -> float:
        """Of how many items all are looked at in less time than the index finds the wanted ones.

        The fewer match the more the index explores, and all queries share what is gathered.
        """
        share = 1 / max(queries, 1) + 1 / GATHERED
        return float(np.sqrt(self.step * _WIDE * wanted * len(self.items) / share))

    def _params(self, wide: int, only: Bitmap | None) -> Any:
        """How the index is searched: which rows it may propose, and how many HNSW explores."""
        import faiss

        sel = None if only is None else faiss.IDSelectorBitmap(only.packed)
        if isinstance(self.index, faiss.IndexHNSW):
            explored = max(self.index.hnsw.efSearch, _WIDE * wide)
            return faiss.SearchParametersHNSW(efSearch=explored, sel=sel)
        if isinstance(self.index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(nprobe=self.index.nprobe, sel=sel)
        return None if sel is None else faiss.SearchParameters(sel=sel)


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


@dataclass(frozen=True)
class Altered:
    """Items whose vectors are others than those of a bundle, or that it does not have.

    Attributes:
        rows: int32, ascending; those of items that the bundle does not have lie behind its own.
        items: their vectors.
        n_items: how many rows there are in all.
    """

    rows: NDArray[np.int32]
    items: ItemVectors
    n_items: int


class AndAltered:
    """What finds the rows of a bundle, and with them altered ones, which are few and all looked at.

    Args:
        first: finds the best of the first rows.
        n_first: how many these are; others of the bundle are not looked at.
        altered: looked at in place of what `first` knows of them, and beside it.
    """

    def __init__(self, first: Retrieval, n_first: int, altered: Altered) -> None:
        self.first, self.n_first, self.altered = first, n_first, altered
        self._replaced = altered.rows[altered.rows < n_first].astype(np.int64)

    def best(self, queries: Floats, k: int, out: NotCandidates, listed: Listed = None) -> Best:
        """The k best items of each query ``[n, d]``."""
        mine = replace(out, taken=_below(out.taken, self.n_first))
        if len(self._replaced):
            mine = replace(mine, blocked=with_few(out.blocked, self._replaced))
        theirs = listed_below(listed, self.n_first)
        before = self.first.best(queries, min(k, self.n_first), mine, theirs)
        rows = self.altered.rows
        left = out.leaves(rows)
        if not left.any():
            return filled(before, k)
        # The vectors are not gathered: nearly always all are candidates.
        out = replace(out.among(rows), blocked=np.flatnonzero(~left))
        found = self.altered.items.best(
            queries, min(k, len(rows)), out, None if listed is None else listed_among(listed, rows)
        )
        behind = Best(np.where(found.rows >= 0, rows[found.rows], -1), found.scores)
        return merged([before, behind], k)


class AlteredVectors:
    """The vectors of a bundle, and those of altered rows in their place and behind them.

    Args:
        first: of the bundle ``[n, d]``.
        altered: what replaces them, and what follows.
    """

    def __init__(self, first: VectorRows, altered: Altered) -> None:
        self._first, self._altered = first, altered
        self.shape = (altered.n_items, first.shape[1])

    def __getitem__(self, rows: Any, /) -> Floats:
        """The vectors of some rows; those of a row that was removed are any."""
        wanted = np.asarray(rows)
        n = self._first.shape[0]
        found: Floats = self._first[np.where(wanted < n, wanted, 0)]
        mine = self._altered.rows
        if len(mine):
            places = np.searchsorted(mine, wanted).clip(max=len(mine) - 1)
            there = mine[places] == wanted
            found[there] = self._altered.items.vectors[places[there]]
        return found


class AlteredItems(AndAltered):
    """The same of `ItemVectors`, with their vectors.

    Args:
        first: of all items of a bundle.
        altered: in place of these, and beside them.
    """

    def __init__(self, first: ItemVectors, altered: Altered) -> None:
        super().__init__(first, len(first), altered)
        self.vectors: VectorRows = AlteredVectors(first.vectors, altered)

    def __len__(self) -> int:
        return self.altered.n_items


def _below(taken: UserItems, n: int) -> UserItems:
    """The items of each query that have rows below n."""
    indptr = taken.indptr - taken.indptr[0]
    items = taken.items[taken.indptr[0] : taken.indptr[-1]]
    there = items < n
    if there.all():
        return taken
    return UserItems(np.concatenate([[0], np.cumsum(there)])[indptr], items[there])


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
