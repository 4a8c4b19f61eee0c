"""The k best of all items, as exact as ranking is.

In: query vectors, all item vectors, the rows that are no candidates, and, where a model has them,
sparse scores on top of the dot products. Out: the k best rows and their scores, formed in float64
from float32 numbers as `cadc_rec.evaluation.ranking` forms them; of equal scores the lower row
comes first.

All scores are formed in float32 first. A few more than k are kept and formed again in float64; only
where float32's rounding could have put another row among the k best are all formed again.

A few queries go through NumPy one by one, which wakes no threads. Many go through torch in blocks,
side by side on as many threads as torch may use; or through NumPy, until `load_ahead` has loaded
torch, which takes seconds. The answers are the same. Where few rows are candidates, their vectors
are gathered and ranked alone. Where many are, all are scored, and a bitmap tells which of the best
are candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.rounding import rounding_bound
from cadc_rec.serving.predict import best_few as loops
from cadc_rec.serving.predict import bitmaps
from cadc_rec.serving.predict.best_few import MOST, best_few
from cadc_rec.serving.predict.bitmaps import Bitmap, Mask
from cadc_rec.serving.predict.conditions import Condition, Every, among
from cadc_rec.serving.predict.listed import Listed, More, listed_among, of_query, scores_at
from cadc_rec.threads import on_threads

_SPARE = 6  # rows kept beyond k: the scores of nearly all users stand apart by then
_ONE_BY_ONE = 4  # queries; from here on one product of all is faster, woken threads included
_BLOCK_ELEMENTS = 500_000  # scores a thread holds: 2 MB of float32 stay near the core
_WORTH_WAKING = 250_000  # scores for a thread; fewer are formed while it wakes

GATHERED = 12
"""A vector that is gathered takes as long as so many that are read in order."""

_torch: Any = None

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.int64]


class VectorRows(Protocol):
    """Vectors of items, which may lie in several places."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, d)``."""

    def __getitem__(self, rows: Any, /) -> Floats:
        """The vectors of some rows, of any shape; -1 may be any."""


def load_ahead() -> None:
    """Load torch and compile the loops: from then on answers are faster."""
    global _torch
    import torch

    loops.compile_ahead()
    bitmaps.compile_ahead()
    _torch = torch


@dataclass(frozen=True)
class NotCandidates:
    """Item rows that may not be recommended, and what a request adds to the scores of others.

    Attributes:
        taken: those of each query, in any order.
        blocked: those of all queries, int64, ascending.
        only: what the others must match; None: nothing.
        added: float64, one number an item, on top of every query's scores; None adds nothing.
    """

    taken: UserItems
    blocked: Rows
    only: Condition | None = None
    added: Doubles | None = None

    def some(self, queries: Rows) -> NotCandidates:
        """The same of some of the queries."""
        if len(queries) == len(self.taken):
            return self
        lists = [self.taken.of(query) for query in queries.tolist()]
        return replace(self, taken=UserItems.of_lists(lists))

    def narrowed(self, only: Condition) -> NotCandidates:
        """The same where candidates must match one more condition."""
        return replace(self, only=only if self.only is None else Every([self.only, only]))

    def leaves(self, rows: NDArray[Any]) -> Mask:
        """Whether rows ``[m]`` are candidates of queries that took nothing."""
        left = ~among(rows, self.blocked)
        if self.only is not None:
            left &= self.only.holds(rows)
        return left

    def among(self, rows: NDArray[np.int32]) -> NotCandidates:
        """The same where only `rows` (ascending, all candidates) are there: row n is the n-th."""
        indptr, items = self.taken.indptr, self.taken.items
        items = items[indptr[0] : indptr[-1]]
        there = among(items, rows)
        starts = np.concatenate([[0], np.cumsum(there)])[indptr - indptr[0]]
        places = np.searchsorted(rows, items[there]).astype(np.int32)
        added = None if self.added is None else self.added[rows]
        return NotCandidates(UserItems(starts, places), self.blocked[:0], None, added)

    def counted(self, few: float) -> NotCandidates:
        """The same, with a bitmap of `only` if more rows than `few` may match it.

        A bitmap tells how many do. A condition only bounds it, and may list few in less time.
        """
        if self.only is None or self.only.most <= few:
            return self
        return replace(self, only=self.only.bitmap())

    def of_first(self, n: int) -> NotCandidates:
        """The same of the first n rows."""
        out = self
        if len(self.blocked) and self.blocked.max() >= n:
            out = replace(out, blocked=self.blocked[self.blocked < n])
        if out.added is not None:
            out = replace(out, added=out.added[:n])
        return out

    @property
    def bitmap(self) -> Bitmap | None:
        """The rows that match `only`; None: all."""
        return None if self.only is None else self.only.bitmap()


@dataclass(frozen=True)
class Best:
    """The best candidates of each query, the best first.

    Attributes:
        rows: int64 ``[n, k]``, -1 after a query's last candidate.
        scores: float64 ``[n, k]``, minus infinity there.
    """

    rows: Rows
    scores: Doubles


class ItemVectors:
    """All item vectors, to find the best of.

    Args:
        vectors: float32 ``[n_items, d]``, finite.
    """

    def __init__(self, vectors: Floats) -> None:
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
        self._longest = float(np.sqrt(squares.max(initial=0.0)))

    def __len__(self) -> int:
        return len(self.vectors)

    def best(self, queries: Floats, k: int, out: NotCandidates, listed: Listed = None) -> Best:
        """The k best items of each query ``[n, d]``; k is at most the number of items."""
        few = len(self) * len(queries) / (len(queries) + GATHERED)  # all queries share them
        out = out.counted(few)
        if out.only is not None and out.only.most <= few:
            return self.best_of(out.only.rows(), queries, k, out, listed)
        out = out.of_first(len(self))
        if len(queries) < _ONE_BY_ONE:
            found = [
                self._best_of_one(query, k, out, n, of_query(listed, n))
                for n, query in enumerate(queries)
            ]
            return _joined(found, k)
        return self._best_of_many(queries, k, out, listed)

    def _best_of_many(self, queries: Floats, k: int, out: NotCandidates, listed: Listed) -> Best:
        """The same, block by block, on as many threads as torch may use."""
        n, width = len(queries), len(self)
        threads = 1 if _torch is None else _torch.get_num_threads()
        threads = max(1, min(threads, n, n * width // _WORTH_WAKING))
        block = min(max(1, _BLOCK_ELEMENTS // width), -(-n // threads))
        found = Best(np.empty((n, k), np.int64), np.empty((n, k)))
        parts = iter([slice(start, min(start + block, n)) for start in range(0, n, block)])

        def answer() -> None:
            scores = np.empty((block, width), np.float32)
            for part in parts:  # each is taken by the next thread that is free
                best = self._best_of_block(queries, part, k, out, listed, scores)
                found.rows[part], found.scores[part] = best.rows, best.scores

        if threads == 1:
            answer()
        else:
            on_threads(answer, threads, _torch)
        return found

    def best_of(
        self,
        rows: NDArray[np.int32],
        queries: Floats,
        k: int,
        out: NotCandidates,
        listed: Listed = None,
    ) -> Best:
        """The same among `rows` (ascending, each once), whose vectors are gathered."""
        rows = rows[rows < len(self)]
        if len(out.blocked):
            rows = rows[~among(rows, out.blocked)]
        if not len(rows):
            return filled(
                Best(np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0))), k
            )
        few = ItemVectors(self.vectors[rows])
        theirs = None if listed is None else listed_among(listed, rows)
        found = few.best(queries, min(k, len(rows)), out.among(rows), theirs)
        there = found.rows >= 0
        return filled(Best(np.where(there, rows[found.rows], -1), found.scores), k)

    def best_among(
        self,
        candidates: Rows,
        queries: Floats,
        k: int,
        out: NotCandidates,
        listed: Listed = None,
    ) -> Best:
        """The same among rows ``[n, c]`` of each query; -1 is no row, and no row is repeated."""
        rows = np.sort(candidates, axis=1)
        scores = self._exact(rows, queries)
        if listed is not None:
            for n in range(len(rows)):
                scores[n] += scores_at(listed, n, rows[n])
        if out.added is not None:
            scores += out.added[rows]
        scores[rows < 0] = -np.inf
        if len(out.blocked) or out.only is not None:
            scores[~out.leaves(rows.ravel()).reshape(rows.shape)] = -np.inf
        for n in range(len(rows)):
            scores[n, np.isin(rows[n], out.taken.of(n))] = -np.inf
        return _sorted(rows, scores, k)

    def _best_of_one(
        self, query: Floats, k: int, out: NotCandidates, place: int, more: More
    ) -> Best:
        scores = self.vectors @ query
        if len(more.rows):
            scores[more.rows] += more.scores
        if out.added is not None:
            scores += out.added
        scores[out.blocked] = -np.inf
        keep = min(k + _SPARE, len(self))
        kept = _kept(scores[None], out.taken.slice(place, place + 1), keep, out.bitmap)
        rows, near = kept[0][0], kept[1][0]
        exact = self.vectors[rows].astype(np.float64) @ query.astype(np.float64)
        if len(more.rows):
            exact += more.at(rows)
        if out.added is not None:
            exact += out.added[rows]
        exact[near == -np.inf] = -np.inf
        best = _sorted(rows[None], exact[None], k)
        if keep < len(self):
            doubt = float(self._doubts(query[None], [more], out.added)[0])
            if best.scores[0, -1] <= near.min() + doubt:
                best = self._best_of_close(query, scores, best.scores[0, -1] - doubt, k, more, out)
        return best

    def _best_of_block(
        self,
        queries: Floats,
        part: slice,
        k: int,
        out: NotCandidates,
        listed: Listed,
        scores: Floats,
    ) -> Best:
        """The best of some of the queries; their scores are written into `scores`."""
        mine = queries[part]
        theirs = range(part.start, part.stop)
        mores = [] if listed is None else [of_query(listed, n) for n in theirs]
        scores = _product(mine, self.vectors, scores[: len(mine)])
        for line, more in zip(scores, mores, strict=bool(mores)):
            if len(more.rows):
                line[more.rows] += more.scores
        if out.added is not None:
            scores += out.added
        scores[:, out.blocked] = -np.inf
        keep = min(k + _SPARE, len(self))
        rows, near = _kept(scores, out.taken.slice(part.start, part.stop), keep, out.bitmap)
        exact = self._exact(rows, mine)
        for line, its, more in zip(exact, rows, mores, strict=bool(mores)):
            if len(more.rows):
                line += more.at(its)
        if out.added is not None:
            exact += out.added[rows]
        exact[near == -np.inf] = -np.inf
        best = _sorted(rows, exact, k)
        if keep < len(self):
            doubts = self._doubts(mine, mores, out.added)
            unsure = best.scores[:, -1] <= near.min(1) + doubts
            for n in np.flatnonzero(unsure & (best.scores[:, -1] > -np.inf)):
                least = best.scores[n, -1] - doubts[n]
                more = of_query(listed, theirs[n])
                again = self._best_of_close(mine[n], scores[n], least, k, more, out)
                best.rows[n], best.scores[n] = again.rows[0], again.scores[0]
        return best

    def _best_of_close(
        self, query: Floats, scores: Floats, least: float, k: int, more: More, out: NotCandidates
    ) -> Best:
        """Every item that float32's rounding leaves among the k best, formed in float64."""
        rows = np.flatnonzero((scores >= least) & (scores > -np.inf))
        if out.only is not None:
            rows = rows[out.only.holds(rows)]
        exact = self.vectors[rows].astype(np.float64) @ query.astype(np.float64) + more.at(rows)
        if out.added is not None:
            exact += out.added[rows]
        return _sorted(rows[None], exact[None], k)

    def _exact(self, rows: Rows, queries: Floats) -> Doubles:
        """Scores of rows ``[n, c]`` in float64."""
        items = self.vectors[rows].astype(np.float64)
        return np.matmul(items, queries.astype(np.float64)[:, :, None])[:, :, 0]

    def _doubts(
        self, queries: Floats, mores: Sequence[More], added: Doubles | None = None
    ) -> Doubles:
        """How far from its float64 value float32 may put a score of each query, ``[n]``.

        Twice the bound: the comparison with it rounds as well.
        """
        length = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64))
        reach: Doubles = length * self._longest
        width = queries.shape[1]
        if any(len(more.rows) for more in mores):  # one more element of the sum
            width += 1
            reach += [float(np.abs(more.scores).max(initial=0.0)) for more in mores]
        if added is not None:
            width += 1
            reach += float(np.abs(added).max(initial=0.0))
        bound: Doubles = 2 * rounding_bound(width, reach)
        return bound


def _kept(scores: Floats, taken: UserItems, keep: int, only: Bitmap | None) -> tuple[Rows, Floats]:
    """Rows and scores ``[n, keep]`` of the best of ``[n, m]``, less those taken; rows ascend."""
    struck = taken.items[taken.indptr[0] : taken.indptr[-1]]
    if len(struck):  # what lies outside would be written into other scores, or behind them all
        assert 0 <= struck.min() <= struck.max() < scores.shape[1]
    if keep <= MOST:
        return best_few(scores, taken.indptr, taken.items, keep, only)
    if only is not None:
        np.copyto(scores, -np.inf, where=~only.mask()[: scores.shape[1]])
    scores.reshape(-1)[taken.flat(scores.shape[1])] = -np.inf
    if _torch is None:
        chosen = np.argpartition(scores, scores.shape[1] - keep, axis=1)[:, -keep:]
    else:
        chosen = _torch.from_numpy(scores).topk(keep, sorted=False).indices.numpy()
    rows: Rows = np.sort(chosen, axis=1)
    return rows, np.take_along_axis(scores, rows, 1)


def _product(queries: Floats, items: Floats, scores: Floats) -> Floats:
    """Scores ``[n, m]``, written into an array for them."""
    if _torch is None:
        np.matmul(queries, items.T, out=scores)
    else:
        given, of = _torch.from_numpy(queries), _torch.from_numpy(items)
        _torch.mm(given, of.t(), out=_torch.from_numpy(scores))
    return scores


def _sorted(rows: Rows, scores: Doubles, k: int) -> Best:
    """The k best of candidates ``[n, c]`` whose rows ascend, so that ties go to the lower row."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    queries = np.arange(len(rows))[:, None]  # NumPy's take_along_axis takes longer to begin
    best, found = scores[queries, order], rows[queries, order]
    found[best == -np.inf] = -1
    return Best(found, best)


def merged(parts: Sequence[Best], k: int) -> Best:
    """The k best of several answers to the same queries, none of which shares a row."""
    rows = np.concatenate([part.rows for part in parts], 1)
    scores = np.concatenate([part.scores for part in parts], 1)
    by_row = np.argsort(rows, axis=1, kind="stable")
    queries = np.arange(len(rows))[:, None]
    return filled(_sorted(rows[queries, by_row], scores[queries, by_row], k), k)


def _joined(parts: list[Best], k: int) -> Best:
    """One `Best` of several, each filled up to k."""
    if not parts:
        return Best(np.zeros((0, k), np.int64), np.zeros((0, k)))
    if len(parts) == 1:
        return filled(parts[0], k)
    whole = [filled(part, k) for part in parts]
    rows, scores = ([getattr(part, name) for part in whole] for name in ("rows", "scores"))
    return Best(np.concatenate(rows), np.concatenate(scores))


def filled(best: Best, k: int) -> Best:
    """The same with k places for each query."""
    short = k - best.rows.shape[1]
    if not short:
        return best
    width = ((0, 0), (0, short))
    return Best(
        np.pad(best.rows, width, constant_values=-1),
        np.pad(best.scores, width, constant_values=-np.inf),
    )
