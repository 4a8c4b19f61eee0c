"""Recent popularity: how often each item was taken in the hours or days before a request.

In: the interactions' times and items, and the times of requests. Out: for a request at time t and a
window w, the number of interactions of each item in ``[t - w, t)``: strictly before t, so that
nothing from the moment of the request on has a say. Times are seconds of a clock
(`Dataset.require_clock`); the log is all that is counted, whoever took the item.

`RecentPopularity` answers many requests about a log that is known; `RecentCounts` counts while the
log grows, for a service. Both need NumPy and SciPy alone.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_PIECE = 2**21  # rows read, and sorted, at once
_SAMPLE = 2**20  # rows whose times say where runs of time begin, at most twice as many
_CELL_BYTES = 16  # of the dense block: a count, whether it is 0, and its copy in the CSR


class RecentPopularity:
    """The interactions of a log, ready to be counted.

    They are brought into the order of time when that is first asked for. A long log then lies in
    files without a name, which the kernel takes back from memory when that is short.

    Args:
        time: seconds ``[rows]``, in any order; may be mapped.
        item: ``[rows]``, in ``[0, n_items)``; likewise.
        n_items: number of items.
        folder: where files may be made; None, or a system that cannot set room aside for them
            (macOS), keeps any log in memory.
    """

    def __init__(
        self,
        time: NDArray[Any],
        item: NDArray[np.int32],
        n_items: int,
        folder: Path | None = None,
    ) -> None:
        self.n_items, self.folder = n_items, folder
        self._columns, self._own = (time, np.asarray(item)), range(n_items)
        self._parts: dict[range, RecentPopularity] = {}

    @property
    def last(self) -> float:
        """Time of the last interaction; 0 without any."""
        return max((float(time.max()) for time, _ in self._pieces()), default=0.0)

    @property
    def items(self) -> NDArray[np.int32]:
        """The items of the interactions, in the order of time."""
        return self._log[1]

    def of_items(self, items: range) -> RecentPopularity:
        """The interactions of these items alone, which are then numbered from 0."""
        if len(items) == self.n_items:
            return self
        if items not in self._parts:
            part = RecentPopularity(*self._columns, len(items), self.folder)
            part._own = self._own[items.start : items.stop]
            self._parts[items] = part
        return self._parts[items]

    def latest(self, window: float) -> NDArray[np.int64]:
        """How often each item was taken in the window that ends with the last interaction.

        Args:
            window: length in seconds.

        Returns:
            ``[n_items]``: what a request just after that interaction counts.
        """
        start = np.nextafter(self.last, np.inf) - window
        counts = np.zeros(self.n_items, np.int64)
        for time, item in self._pieces():
            counts += np.bincount(item[time >= start], minlength=self.n_items)
        return counts

    def _pieces(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int32]]]:
        """Times and items of the rows that count, in the rows' order."""
        own = self._own
        for start in range(0, len(self._columns[1]), _PIECE):
            time, item = (column[start : start + _PIECE] for column in self._columns)
            mine = (item >= own.start) & (item < own.stop)
            if mine.any():
                yield np.asarray(time, np.float64)[mine], item[mine] - np.int32(own.start)

    @cached_property
    def _log(self) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """Times, ascending, and the items with them."""
        every = self._columns[0][:: max(1, len(self._columns[0]) // _SAMPLE)]
        rows = sum(len(item) for _, item in self._pieces())
        cuts = np.linspace(0, len(every), rows // _PIECE + 1)[1:-1].astype(int)
        cut, often = np.unique(np.sort(np.asarray(every, np.float64))[cuts], return_counts=True)
        # Runs of time begin there; rows of one time, where there are many, are a run of their own.
        bounds = np.union1d(cut, np.nextafter(cut[often > 1], np.inf))
        lengths = np.zeros(len(bounds) + 1, np.int64)
        for time, _ in self._pieces():
            run = np.searchsorted(bounds, time, side="right")
            lengths += np.bincount(run, minlength=len(lengths))
        free = np.cumsum(lengths) - lengths
        times, items = self._room(rows, np.float64), self._room(rows, np.int32)
        for time, item in self._pieces():
            run = np.searchsorted(bounds, time, side="right")
            order, each = np.argsort(run, kind="stable"), np.bincount(run, minlength=len(free))
            to = np.repeat(free - (np.cumsum(each) - each), each) + np.arange(len(run))
            times[to], items[to] = time[order], item[order]
            free += each
        for start, stop in zip(free - lengths, free, strict=True):
            run = times[start:stop]
            if not len(run) or run.min() == run.max():
                continue  # of one time, in the rows' order; sorting it would take 8 bytes a row
            order = np.argsort(run, kind="stable")
            for column in (times, items):
                column[start:stop] = column[start:stop][order]
        return times, items

    def _room(self, rows: int, kind: Any) -> NDArray[Any]:
        """An array of a log in time, of any values."""
        size = rows * np.dtype(kind).itemsize
        if self.folder is None or rows < _PIECE or not hasattr(os, "posix_fallocate"):  # macOS
            return np.empty(rows, kind)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # or the first write would end us
                return np.asarray(np.memmap(file, kind, "r+", shape=(rows,)))
        except OSError:  # read-only, or full
            return np.empty(rows, kind)

    def bounds(
        self, at: NDArray[Any], window: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of requests ``[n]``: where their windows start and end in `items`, each ``[n]``.

        Args:
            at: time of each request.
            window: length in seconds.

        Raises:
            ValueError: a window that is not above 0.
        """
        _require_lengths([window])
        times = np.asarray(at, np.float64)
        starts, ends = (np.searchsorted(self._log[0], each) for each in (times - window, times))
        return starts, ends

    def blocks(
        self, at: NDArray[Any], windows: Sequence[float], most_bytes: int = 64 << 20
    ) -> Iterator[tuple[NDArray[np.int64], list[sparse.csr_matrix]]]:
        """Count for all requests, block after block in the order of their times.

        A block's requests share one dense array of the items in their windows: what comes in and
        what falls out between two requests, added up along time.

        Args:
            at: time of each request ``[requests]``.
            windows: their lengths in seconds.
            most_bytes: memory that a block may take, beside the log; a block has at least one
                request.

        Yields:
            The block's requests, as places in `at` ``[n]``; and for each window the counts, CSR
            int32 ``[n, n_items]``, with the items that have one, ascending. A request whose time
            is NaN has none.

        Raises:
            ValueError: a window that is not above 0.
        """
        in_time = np.argsort(at, kind="stable")
        times = np.asarray(at, np.float64)[in_time]
        _require_lengths(windows)
        ends = np.searchsorted(self._log[0], times, side="left")
        starts = [np.searchsorted(self._log[0], times - w, side="left") for w in windows]
        most_cells = max(1, most_bytes // _CELL_BYTES)
        first, size = 0, len(times)
        while first < len(times):
            size = min(size, len(times) - first)
            while True:
                spans = [self._items_of(start[first], ends[first + size - 1]) for start in starts]
                cells = size * sum(map(len, spans))
                if cells <= most_cells or size == 1:
                    break
                size = max(1, min(size // 2, size * most_cells // cells))
            block = slice(first, first + size)
            counts = [
                self._counted(items, start[block], ends[block])
                for items, start in zip(spans, starts, strict=True)
            ]
            yield in_time[block], counts
            first, size = first + size, 2 * size

    def counts(self, at: NDArray[Any], window: float) -> sparse.csr_matrix:
        """The counts of all requests at once, in their order: CSR int32 ``[requests, n_items]``."""
        order, parts = [], []
        for places, (counted,) in self.blocks(at, [window]):
            order.append(places)
            parts.append(counted)
        if not parts:
            return sparse.csr_matrix((0, self.n_items), dtype=np.int32)
        back = np.argsort(np.concatenate(order), kind="stable")
        return sparse.vstack(parts, format="csr")[back]

    @cached_property
    def keys(self) -> NDArray[np.int64]:
        """``item * rows + place in time`` of every row, ascending."""
        rows = len(self.items)
        return np.sort(self.items.astype(np.int64) * rows + np.arange(rows))

    def _items_of(self, start: int, end: int) -> NDArray[np.int64]:
        """The items of some rows, ascending."""
        return np.flatnonzero(np.bincount(self.items[start:end], minlength=self.n_items))

    def _counted(
        self, items: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> sparse.csr_matrix:
        """The counts of requests whose windows are ``[starts[r], ends[r])``, both ascending.

        Args:
            items: all that lie in any of the windows, ascending.
            starts: places in time ``[n]``.
            ends: likewise.
        """
        n = len(starts)
        counts = np.zeros((n, len(items)), np.int32)

        def add(first: int, last: int, request: Any, change: int) -> None:
            """Rows from `first` to `last` change the count from their `request` on."""
            columns = np.searchsorted(items, self.items[first:last])
            np.add.at(counts, (request, columns), change)

        later = np.arange(1, n)
        add(starts[0], ends[0], 0, 1)
        add(ends[0], ends[-1], np.repeat(later, np.diff(ends)), 1)
        add(starts[0], starts[-1], np.repeat(later, np.diff(starts)), -1)
        np.cumsum(counts, axis=0, out=counts)
        there = counts != 0
        indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        columns = np.broadcast_to(items.astype(np.int32), counts.shape)[there]
        return sparse.csr_matrix((counts[there], columns, indptr), shape=(n, self.n_items))


@dataclass(frozen=True)
class RecentScores:
    """Recent popularity as a score: factor x log(1 + count).

    Attributes:
        popularity: of the log.
        window: in seconds.
        factor: of the logarithms.
    """

    popularity: RecentPopularity
    window: float
    factor: float

    def of(self, at: NDArray[np.float64]) -> sparse.csr_array:
        """Of requests at these times, float32 ``[requests, n_items]``."""
        counts = self.popularity.counts(at, self.window)
        scores = np.log1p(counts.data).astype(np.float32) * np.float32(self.factor)
        return sparse.csr_array((scores, counts.indices, counts.indptr), shape=counts.shape)

    def of_items(self, items: range) -> RecentScores:
        """The same scores of these items alone."""
        return replace(self, popularity=self.popularity.of_items(items))

    def at_the_end(self) -> NDArray[np.float32]:
        """Of a request just after the log's last interaction: float32 ``[n_items]``."""
        counts = self.popularity.latest(self.window)
        scores = np.zeros(len(counts), np.float32)
        there = counts > 0
        scores[there] = np.log1p(counts[there]).astype(np.float32) * np.float32(self.factor)
        return scores


@dataclass(frozen=True)
class LatestScores:
    """The same for all requests that come after a log, as one more element of every vector.

    A finished run and a bundle know what had been taken when their log ended; whoever asks later is
    answered by that.

    Attributes:
        scores: of every item, float32 ``[n_items]``; None where nothing recent is scored.
    """

    scores: NDArray[np.float32] | None

    @classmethod
    def of_evaluation(
        cls, info: Mapping[str, Any], time: NDArray[Any], item: NDArray[np.int32], n_items: int
    ) -> LatestScores:
        """Of what an evaluation's manifest says of it, and of D_full: see `RecentPopularity`."""
        if "recent" not in info:
            return cls(None)
        log = RecentPopularity(time, item, n_items)
        return cls(RecentScores(log, **info["recent"]).at_the_end())

    def of_items(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors ``[n, d]`` of the items, with it; items beyond the log's were never taken."""
        if self.scores is None:
            return vectors
        column = np.zeros((len(vectors), 1), np.float32)
        column[: len(self.scores), 0] = self.scores
        return np.concatenate([vectors, column], 1)

    def of_users(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors ``[n, d]`` of users, with it."""
        if self.scores is None:
            return vectors
        return np.concatenate([vectors, np.ones((len(vectors), 1), np.float32)], 1)


class RecentCounts:
    """Counts while the log grows: feed it interactions, ask it now.

    What it holds is as long as the longest window; one thread at a time may use it.

    Args:
        windows: lengths in seconds.
        n_items: number of items.

    Raises:
        ValueError: a window that is not above 0.
    """

    def __init__(self, windows: Sequence[float], n_items: int) -> None:
        _require_lengths(windows)
        self.windows, self.n_items = tuple(windows), n_items
        self._time, self._item = array("d"), array("i")  # ascending in time
        self._spans = [(0, 0) for _ in windows]  # the rows that are counted
        self._counts = [np.zeros(n_items, np.int32) for _ in windows]
        self._forgotten = -np.inf

    def feed(self, time: NDArray[Any] | float, item: NDArray[Any] | int) -> None:
        """Interactions, in any order; one that comes late is counted from the next question on.

        Args:
            time: seconds, one or several.
            item: of each, in ``[0, n_items)``.

        Raises:
            ValueError: an item that is not there, or a time that is none; nothing is fed.
        """
        times, items = np.atleast_1d(np.asarray(time, np.float64)), np.atleast_1d(item)
        if len(items) and not (items.min() >= 0 and items.max() < self.n_items):
            raise ValueError(f"items are numbered from 0 to {self.n_items - 1}")
        if len(times) != len(items) or not np.isfinite(times).all():
            raise ValueError("every interaction has a finite time")
        in_time = np.argsort(times, kind="stable")
        times, items = times[in_time], items[in_time]
        latest = self._time[-1] if self._time else -np.inf
        if len(times) and times[0] >= max(self._forgotten, latest):
            self._time.frombytes(times.tobytes())  # nothing of it is counted yet
            self._item.frombytes(items.astype(np.int32).tobytes())
            return
        for when, what in zip(times.tolist(), items.tolist(), strict=True):
            if when >= self._forgotten:
                self._insert(when, what)

    def _insert(self, time: float, item: int) -> None:
        place = bisect_right(self._time, time)
        self._time.insert(place, time)
        self._item.insert(place, item)
        for n, (start, end) in enumerate(self._spans):
            if place < end:  # rows that are counted move up
                inside = place >= start
                self._counts[n][item] += inside
                self._spans[n] = (start + (not inside), end + 1)

    def counts(self, now: float) -> list[tuple[NDArray[np.int64], NDArray[np.int32]]]:
        """For each window, the items taken in ``[now - window, now)``, ascending, and how often.

        Raises:
            ValueError: `now` is so early that a part of its window was forgotten: what is older
                than the longest window before the latest question.
        """
        if now - max(self.windows) < self._forgotten:
            raise ValueError(f"interactions before {self._forgotten} are forgotten")
        found = []
        for n, window in enumerate(self.windows):
            span = (bisect_left(self._time, now - window), bisect_left(self._time, now))
            self._move(n, span)
            items = np.flatnonzero(self._counts[n])
            found.append((items, self._counts[n][items]))
        self._forget(now - max(self.windows))
        return found

    def _move(self, n: int, span: tuple[int, int]) -> None:
        """Count the rows of `span`, by what differs from those counted so far."""
        counts, (old_start, old_end), (start, end) = self._counts[n], self._spans[n], span
        for old, new, sign in ((old_end, end, 1), (old_start, start, -1)):
            changed = np.array(self._item[min(old, new) : max(old, new)], np.intp)
            np.add.at(counts, changed, sign if new > old else -sign)
        self._spans[n] = span

    def _forget(self, before: float) -> None:
        """Drop rows that no later question counts, once they are half of all."""
        gone = bisect_left(self._time, before)
        if 2 * gone > len(self._time):
            del self._time[:gone], self._item[:gone]
            self._spans = [(start - gone, end - gone) for start, end in self._spans]
            self._forgotten = before


def _require_lengths(windows: Sequence[float]) -> None:
    if not all(window > 0 for window in windows):
        raise ValueError(f"a window is above 0 seconds, and {list(windows)} are given")
