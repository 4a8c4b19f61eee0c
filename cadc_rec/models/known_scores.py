"""Scores that are known before training and are no dot products, at a few items or at all.

They are those of transition lists and of recent popularity. In: histories and times, such as those
of a rank's examples. Out: of some of them, float32 ``[n, m]`` at m items, formed anew in each step
of training: kept, they would take as much memory as a row of the catalogue for every example.

The lists have counted the example itself, too. Taking its own counts out of the score of its own
item was tried on a long and on a short log, with no gain on either; so they are left in.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.compiled import compiled
from cadc_rec.data.recent_popularity import RecentPopularity
from cadc_rec.data.transition_lists import TransitionLists
from cadc_rec.models.forward import Scores

_FILLED = 16  # one target in so many items: then it costs less to clear all than one by one
_LEAST = 1e-4  # of the latest item's weight; places further back than that are left out


class KnownScores(Protocol):
    """Scores of many examples, before any factor.

    Attributes:
        rows: number of examples.
    """

    rows: int

    def of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Of the examples `rows`, ``[n]``, at different `items`, ``[m]``: float32 ``[n, m]``.

        Both are int64, on CPU; where scores are formed on a GPU (`known_on_device`), anywhere.
        """

    def with_own(
        self, rows: torch.Tensor, items: torch.Tensor, negatives: torch.Tensor, own: torch.Tensor
    ) -> Scores:
        """The same at some of the items, and at each example's own one.

        Args:
            rows: int64 ``[n]``.
            items: int64 ``[m]``, different ones.
            negatives: int64 ``[k]``, places in `items`.
            own: int64 ``[n]``, the place of each example's own.
        """


class ListedExamples:
    """What the lists say of candidates after each of many histories, before any factor.

    Args:
        lists: every item's targets.
        decay: what each place further back multiplies the weight of an item by.
        history: int32 ``[rows, L]``, the latest item first.
    """

    def __init__(self, lists: TransitionLists, decay: float, history: NDArray[np.int32]) -> None:
        self.lists, self.history, self.rows = lists, history, len(history)
        weights = decay ** np.arange(history.shape[1])
        self.weights = weights[weights >= _LEAST].astype(np.float32)

    def of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """See `KnownScores`."""
        return self.with_own(rows, items, *_every(rows, items)).candidates

    def with_own(
        self, rows: torch.Tensor, items: torch.Tensor, negatives: torch.Tensor, own: torch.Tensor
    ) -> Scores:
        """See `KnownScores`."""
        into, of_own = _room(rows, negatives)
        history = np.ascontiguousarray(self.history[rows.cpu().numpy(), : len(self.weights)])
        lists, asked = self.lists, (items[negatives].cpu().numpy(), items[own].cpu().numpy())
        of_lists = lists.indptr, lists.items, lists.weights, lists.n_items
        _add(history, self.weights, *of_lists, *asked, into, of_own)
        return Scores(torch.from_numpy(into), torch.from_numpy(of_own))


class RecentExamples:
    """log(1 + n), n counting how often an item was taken in a window before each of many examples.

    Args:
        log: the interactions that are counted.
        window: in seconds.
        times: of the examples, ``[rows]``; what was taken at or after it does not count.
    """

    def __init__(self, log: RecentPopularity, window: float, times: NDArray[np.float64]) -> None:
        self.log, self._items, self.rows = log, log.items, len(times)
        self.starts, self.ends = log.bounds(times, window)
        self._places = np.full(log.n_items, -1, np.int32)

    def of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """See `KnownScores`."""
        return self.with_own(rows, items, *_every(rows, items)).candidates

    def with_own(
        self, rows: torch.Tensor, items: torch.Tensor, negatives: torch.Tensor, own: torch.Tensor
    ) -> Scores:
        """See `KnownScores`."""
        into, of_own = _room(rows, negatives)
        asked, candidates = rows.cpu().numpy(), items.cpu().numpy()
        # Both bounds: after the log's last row windows end alike, and begin later and later.
        order = np.lexsort((self.starts[asked], self.ends[asked]))
        asked = asked[order]
        self._places[candidates] = np.arange(len(candidates), dtype=np.int32)
        window = self.starts[asked], self.ends[asked], order
        chosen = len(candidates), negatives.cpu().numpy(), own.cpu().numpy()
        _count(*window, self._items, self._places, *chosen, into, of_own)
        self._places[candidates] = -1
        for counted in (into, of_own):
            np.log1p(counted, out=counted)
        return Scores(torch.from_numpy(into), torch.from_numpy(of_own))


def _every(rows: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of all items, and no examples' own ones that anybody asks for."""
    return torch.arange(len(items)), torch.zeros_like(rows)


def _room(
    rows: torch.Tensor, negatives: torch.Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.empty((len(rows), len(negatives)), np.float32), np.empty(len(rows), np.float32)


def compile_known(lists: bool, recent: bool) -> None:
    """Compile the loops now, so that no stage's time includes the seconds it takes."""
    one = torch.zeros(1, dtype=torch.int64)
    if recent:
        log = RecentPopularity(np.zeros(1), np.zeros(1, np.int32), 1)
        RecentExamples(log, 1.0, np.zeros(1)).of(one, one)
    if not lists:
        return
    empty = TransitionLists(np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    ListedExamples(empty, 1.0, np.zeros((1, 1), np.int32)).of(one, one)


@compiled(nogil=True)
def _add(
    history: Any,
    decays: Any,
    indptr: Any,
    targets: Any,
    weights: Any,
    n_items: Any,
    negatives: Any,
    own: Any,
    into: Any,
    of_own: Any,
) -> None:
    """Add up the weighted lists of each row's history, and take the sums at the items asked for.

    Of all targets, for asking of each whether it is among those items costs more than adding it.
    """
    sums = np.zeros(n_items, np.float32)
    for row in range(len(history)):
        total, touched = np.float32(0), 0
        for j in range(history.shape[1]):
            item = history[row, j]
            if item >= 0:
                total += decays[j]
                touched += indptr[item + 1] - indptr[item]
        for j in range(history.shape[1]):
            item = history[row, j]
            if item < 0:
                continue
            share = decays[j] / total
            for k in range(indptr[item], indptr[item + 1]):
                sums[targets[k]] += share * weights[k]
        for j in range(len(negatives)):
            into[row, j] = sums[negatives[j]]
        of_own[row] = sums[own[row]]
        if touched > n_items // _FILLED:
            sums[:] = 0
            continue
        for j in range(history.shape[1]):
            item = history[row, j]
            if item >= 0:
                for k in range(indptr[item], indptr[item + 1]):
                    sums[targets[k]] = 0


@compiled(nogil=True)
def _count(
    starts: Any,
    ends: Any,
    into_row: Any,
    items: Any,
    places: Any,
    count: Any,
    negatives: Any,
    own: Any,
    into: Any,
    of_own: Any,
) -> None:
    """Count a step's items in ``[starts[r], ends[r])`` of `items`, both ascending.

    The window slides from one row to the next, so that each interaction comes and goes once.
    """
    counts = np.zeros(count, np.float32)
    first = last = starts[0] if len(starts) else 0
    for row in range(len(starts)):
        while last < ends[row]:
            place = places[items[last]]
            if place >= 0:
                counts[place] += 1
            last += 1
        while first < starts[row]:
            place = places[items[first]]
            if place >= 0:
                counts[place] -= 1
            first += 1
        for j in range(len(negatives)):
            into[into_row[row], j] = counts[negatives[j]]
        of_own[into_row[row]] = counts[own[into_row[row]]]
