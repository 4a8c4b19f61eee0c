"""The best items of a query vector: by all items, or by a FAISS index of them.

In: query vectors, and the rows that are no candidates. Out: the k best rows with their scores,
formed in float64 whatever found the rows.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from scipy import sparse

from cadc_rec.serving.predict.top_k import Best, Floats, ItemVectors, Listed, NotCandidates, Rows

_SPARE = 32  # rows an index is asked for beyond those that may fall out
_MOST = 1024  # rows it is asked for at most; who took more is answered by all items
_NARROW = 0.1  # of the catalogue: a filter that leaves less is answered by all items


class Retrieval(Protocol):
    """Finds the best items."""

    def best(self, queries: Floats, k: int, out: NotCandidates, listed: Listed = None) -> Best:
        """The k best items of each query ``[n, d]``."""


class IndexSearch:
    """Approximate: a FAISS index proposes rows, their exact scores rank them.

    Rows that may not be recommended still come out of the index, so it is asked for more. Where
    too few are left, the query is answered by all items. Where scores stand on top of the dot
    products, the items with the best of these are proposed too.

    Args:
        index: FAISS, inner product; its labels are rows.
        items: the vectors it was built of.
    """

    def __init__(self, index: Any, items: ItemVectors) -> None:
        self.index = index
        self.items = items

    def best(self, queries: Floats, k: int, out: NotCandidates, listed: Listed = None) -> Best:
        """The k best items of each query ``[n, d]``."""
        if len(out.blocked) > (1 - _NARROW) * len(self.items) or not len(queries):
            return self.items.best(queries, k, out, listed)
        excluded = int(np.diff(out.taken.indptr).max())
        ask = min(len(self.items), k + _SPARE + excluded, max(_MOST, k + _SPARE))
        if len(out.blocked):
            left = 1 - len(out.blocked) / len(self.items)
            ask = min(len(self.items), int(ask / left), max(_MOST, k + _SPARE))
        _, candidates = self.index.search(
            np.ascontiguousarray(queries), ask, params=self._params(ask)
        )
        if listed is not None:  # the index knows nothing of these, so their best come beside
            candidates = _with_listed(candidates, listed, ask)
        found = self.items.best_among(candidates, queries, min(k, ask), out, listed)
        short = np.flatnonzero((found.rows < 0).any(1))
        for query in short:
            again = self.items.best(
                queries[query][None],
                k,
                out.some(np.array([query])),
                None if listed is None else listed[[query]],
            )
            found.rows[query], found.scores[query] = again.rows[0], again.scores[0]
        return found

    def _params(self, ask: int) -> Any:
        """HNSW explores at least as many rows as it is asked for."""
        import faiss

        if isinstance(self.index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=max(self.index.hnsw.efSearch, 2 * ask))
        return None


def _with_listed(candidates: Rows, listed: sparse.csr_array, most: int) -> Rows:
    """Candidates ``[n, c]`` and, of each query, the listed items with the best scores."""
    joined = np.full((len(candidates), candidates.shape[1] + most), -1, np.int64)
    for n, proposed in enumerate(candidates):
        part = slice(listed.indptr[n], listed.indptr[n + 1])
        rows, scores = listed.indices[part], listed.data[part]
        if len(rows) > most:
            rows = rows[np.argpartition(-scores, most)[:most]]
        every = np.union1d(proposed, rows)
        every = every[every >= 0]
        joined[n, : len(every)] = every
    return joined
