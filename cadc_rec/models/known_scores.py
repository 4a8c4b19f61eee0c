"""Scores that are known before training and are no dot products, at a few items or at all.

They are those of transition lists and of recent popularity. In: histories and times, such as those
of a rank's examples. Out: of some of them, float32 ``[n, m]`` at m items, formed anew in each step
of training: kept, they would take as much memory as a row of the catalogue for every example.

The lists have counted the example itself, too. Taking its own counts out of the score of its own
item was tried on a long and on a short log, with no gain on either; so they are left in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.compiled import compiled
from cadc_rec.data.recent_popularity import RecentPopularity
from cadc_rec.data.transition_lists import TransitionLists
from cadc_rec.models.forward import Scores

_ENTRIES = 2**24  # of lists or of scores looked at once on a device: half a GiB of what they need
_LEAST = 1e-4  # of the latest item's weight; places further back than that are left out


class KnownScores(Protocol):
    """Scores of many examples, before any factor.

    Attributes:
        rows: number of examples.
    """

    rows: int

    def of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Of the examples `rows`, ``[n]``, at different `items`, ``[m]``: float32 ``[n, m]``.

        Both are int64.
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
        self._places = np.full(lists.n_items, -1, np.int32)

    def on(self, device: torch.device, limit_bytes: int) -> KnownScores:
        """The same, formed on `device`, if what that takes there is within the limit."""
        lists = self.lists
        held = (lists.indptr, lists.items, lists.weights, self.history[:, : len(self.weights)])
        fits = sum(array.nbytes for array in held) <= limit_bytes
        return ListedOnDevice(self, device) if fits and device.type != "cpu" else self

    def of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """See `KnownScores`."""
        return self.with_own(rows, items, *_every(rows, items)).candidates

    def with_own(
        self, rows: torch.Tensor, items: torch.Tensor, negatives: torch.Tensor, own: torch.Tensor
    ) -> Scores:
        """See `KnownScores`."""
        into, of_own = _room(rows, negatives)
        lists, candidates = self.lists, items.cpu().numpy()
        self._places[candidates] = np.arange(len(candidates), dtype=np.int32)
        history = np.ascontiguousarray(self.history[rows.cpu().numpy(), : len(self.weights)])
        of_lists = lists.indptr, lists.items, lists.weights
        chosen = len(candidates), negatives.cpu().numpy(), own.cpu().numpy()
        _add(history, self.weights, *of_lists, self._places, *chosen, into, of_own)
        self._places[candidates] = -1
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

    def on(self, device: torch.device, limit_bytes: int) -> KnownScores:
        """The same, formed on `device`, if what that takes there is within the limit."""
        fits = 8 * len(self._items) + self.starts.nbytes + self.ends.nbytes <= limit_bytes
        return RecentOnDevice(self, device) if fits and device.type != "cpu" else self

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


class ListedOnDevice:
    """`ListedExamples` by torch's operations: the same sums in one order, and no read-back.

    Args:
        examples: lists and histories, which are copied to the device.
        device: where scores are formed.
    """

    def __init__(self, examples: ListedExamples, device: torch.device) -> None:
        lists, self.rows, self.device = examples.lists, examples.rows, device
        self.n_items, self.longest = lists.n_items, int(np.diff(lists.indptr).max(initial=0))
        self.decays: list[float] = examples.weights.tolist()
        history = np.ascontiguousarray(examples.history[:, : len(self.decays)])
        arrays = history, lists.indptr, lists.items, lists.weights
        self._history, self._indptr, self._targets, self._weights = (
            torch.tensor(array, device=device) for array in arrays
        )

    def of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """See `KnownScores`."""
        history, items = self._history[rows.to(self.device)], items.to(self.device)
        found = torch.zeros(len(history), len(items), device=self.device)
        if not self.longest:
            return found
        places = torch.full((self.n_items,), -1, device=self.device)
        places[items] = torch.arange(len(items), device=self.device)
        at_once = max(1, _ENTRIES // self.longest)
        for some, into in zip(history.split(at_once), found.split(at_once), strict=True):
            self._add(some, places, into)
        return found

    def with_own(
        self, rows: torch.Tensor, items: torch.Tensor, negatives: torch.Tensor, own: torch.Tensor
    ) -> Scores:
        """See `KnownScores`."""
        history, mine = self._history[rows.to(self.device)], items[own].to(self.device)
        of_own = torch.zeros(len(history), device=self.device)
        if self.longest:
            at_once = max(1, _ENTRIES // self.longest)
            parts = (each.split(at_once) for each in (history, mine, of_own))
            for some, wanted, into in zip(*parts, strict=True):
                for share, target in self._entries(some):
                    into += torch.where(target == wanted[:, None], share, 0.0).sum(1)
        return Scores(self.of(rows, items[negatives]), of_own)

    def _add(self, history: torch.Tensor, places: torch.Tensor, into: torch.Tensor) -> None:
        """Add up the lists of histories ``[n, L]``, a place of the history after the other.

        A list names an item once, so no two additions at a time meet in one element of `into`, but
        those of nothing, and the order of additions is always the same.
        """
        first = torch.arange(len(into), device=self.device)[:, None] * into.shape[1]
        flat = into.view(-1)
        for share, target in self._entries(history):
            column = torch.where(target >= 0, places[target.clamp_min(0)], -1)
            added = torch.where(column >= 0, share, 0.0)
            flat.index_add_(0, (first + column.clamp_min(0)).view(-1), added.view(-1))

    def _entries(self, history: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each place of histories ``[n, L]``: its lists' shares, and their targets.

        Both ``[n, longest]``; a target is -1 where the list has ended or there is none.
        """
        known = history >= 0
        total = torch.zeros(len(history), device=self.device)
        for place in range(history.shape[1]):
            total += self.decays[place] * known[:, place]
        along = torch.arange(self.longest, device=self.device)
        for place in range(history.shape[1]):
            item = history[:, place].long().clamp_min(0)
            entry = self._indptr[item][:, None] + along
            inside = (entry < self._indptr[item + 1][:, None]) & known[:, place, None]
            entry = entry.clamp_max(len(self._targets) - 1)
            share = (self.decays[place] / total)[:, None] * self._weights[entry]
            yield share, torch.where(inside, self._targets[entry].long(), -1)


class RecentOnDevice:
    """`RecentExamples` by torch's operations: two searches in the log for each count.

    Args:
        examples: the log, and where windows lie in it; copied to the device, 8 bytes a row each.
        device: where scores are formed.
    """

    def __init__(self, examples: RecentExamples, device: torch.device) -> None:
        self.rows, self.device = examples.rows, device
        self._log_rows = len(examples.log.items)
        arrays = examples.log.keys, examples.starts, examples.ends
        self._keys, self._starts, self._ends = (
            torch.tensor(array, device=device) for array in arrays
        )

    def of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """See `KnownScores`."""
        rows, items = rows.to(self.device), items.to(self.device)
        base, pieces = items * self._log_rows, []
        for some in rows.split(max(1, _ENTRIES // max(1, len(items)))):
            first, last = (
                torch.searchsorted(self._keys, base + bounds[some][:, None])
                for bounds in (self._starts, self._ends)
            )
            pieces.append((last - first).float().log1p_())
        return torch.cat(pieces)

    def with_own(
        self, rows: torch.Tensor, items: torch.Tensor, negatives: torch.Tensor, own: torch.Tensor
    ) -> Scores:
        """See `KnownScores`."""
        asked, base = rows.to(self.device), items[own].to(self.device) * self._log_rows
        first, last = (
            torch.searchsorted(self._keys, base + bounds[asked])
            for bounds in (self._starts, self._ends)
        )
        return Scores(self.of(rows, items[negatives]), (last - first).float().log1p_())


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
    places: Any,
    count: Any,
    negatives: Any,
    own: Any,
    into: Any,
    of_own: Any,
) -> None:
    """Add up the weighted lists of each row's history where their targets are among the items."""
    sums = np.empty(count, np.float32)
    for row in range(len(history)):
        sums[:] = 0
        total = np.float32(0)
        for j in range(history.shape[1]):
            if history[row, j] >= 0:
                total += decays[j]
        for j in range(history.shape[1]):
            item = history[row, j]
            if item < 0:
                continue
            share = decays[j] / total
            for k in range(indptr[item], indptr[item + 1]):
                place = places[targets[k]]
                if place >= 0:
                    sums[place] += share * weights[k]
        for j in range(len(negatives)):
            into[row, j] = sums[negatives[j]]
        of_own[row] = sums[own[row]]


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
