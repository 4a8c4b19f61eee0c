"""Which id has which row, where a side has a fixed number of rows and ids come and go.

In: the ids of a day's interactions, and when each was seen. Out: the same map a day later. A known
id keeps its row. A newcomer gets one once it was seen often enough (admission): a free row while
there are any, then that of an id that was not seen that day (eviction). A row that changes its
owner gets the next generation, by which every file that has rows can tell whose they were.

The ids of a day are hashed, and the map is read past them once: a day takes the same memory and
time however many days came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.ids.waiting import ExactCounts, Sketch, Waiting, open_waiting, places_of
from cadc_rec.data.streams import one_array, write_parquet
from cadc_rec.errors import CadcError

FOLDER = "ids"
Eviction = Literal["lru", "lfu", "ttl"]


@dataclass(frozen=True)
class Limits:
    """How many rows a side has, and who gets them.

    Attributes:
        rows: at most.
        admission: how often an id is seen before it gets a row.
        eviction: who gives up a row that a newcomer needs: who was not seen for longest (``lru``),
            who was seen least often, if less often than the newcomer (``lfu``), or who was not seen
            for `ttl` (``ttl``).
        ttl: in the unit of the times; read by ``ttl`` alone.
        sketch: counters a line of the sketch that counts who has no row; 0 counts exactly.
    """

    rows: int
    admission: int = 1
    eviction: Eviction = "lru"
    ttl: int = 0
    sketch: int = 0


@dataclass(frozen=True)
class Moves:
    """What a day did to the map.

    Attributes:
        reused: rows that have another owner now, ascending.
        appended: rows at the end that nobody had before.
        newcomers: the ids that got a row: those of `appended`, then those of `reused`.
        waiting: different ids of the day that have no row.
    """

    reused: NDArray[np.int64]
    appended: int
    newcomers: pa.Array
    waiting: int


class LivingIds:
    """The map of one side.

    Attributes:
        ids: original ids by row, ``[n]``; n grows up to the limit and no further.
        generation: how many owners a row had before this one, int32 ``[n]``.
        seen: how often its owner was seen, int64 ``[n]``.
        last: when its owner was seen last, int64 ``[n]``.
        waiting: counts of the ids without a row.
    """

    def __init__(
        self,
        ids: pa.Array,
        generation: NDArray[np.int32],
        seen: NDArray[np.int64],
        last: NDArray[np.int64],
        waiting: Waiting,
    ) -> None:
        self.ids, self.generation, self.seen, self.last = ids, generation, seen, last
        self.waiting = waiting

    @staticmethod
    def of(
        ids: pa.Array, seen: NDArray[np.int64], last: NDArray[np.int64], limits: Limits
    ) -> LivingIds:
        """A map whose rows have their first owners.

        Args:
            ids: by row.
            seen: how often each was seen.
            last: when each was seen last.
            limits: of the side.
        """
        waiting: Waiting = (
            Sketch.empty(limits.sketch)
            if limits.sketch
            else ExactCounts.empty(limits.rows, ids.type)
        )
        return LivingIds(ids, np.zeros(len(ids), np.int32), seen.copy(), last.copy(), waiting)

    def rows_of(self, ids: pa.Array) -> NDArray[np.int64]:
        """The row of each of `ids`, which may repeat; -1 without one."""
        encoded = ids.cast(self.ids.type).dictionary_encode()
        rows = places_of(encoded.dictionary, self.ids)
        return rows[encoded.indices.to_numpy(zero_copy_only=False)]

    def take_in(self, came: pa.Array, times: NDArray[np.int64], limits: Limits) -> Moves:
        """Move to the next day.

        Whoever is seen this day keeps its row this day. Newcomers that were seen more often come
        first, then those seen later, then those of the smaller id: the order of `came` is of no
        account. Rows that are given out are filled by ascending ids, free rows first.

        Args:
            came: an id for each interaction of the day.
            times: when each was, ``[len(came)]``.
            limits: of the side.
        """
        encoded = came.cast(self.ids.type).dictionary_encode()
        ids, place = encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False)
        counts = np.bincount(place, minlength=len(ids)).astype(np.int64)
        newest = np.full(len(ids), np.iinfo(np.int64).min)
        np.maximum.at(newest, place, times)
        row = places_of(ids, self.ids)
        known = row >= 0
        here = row[known]
        self.seen[here] += counts[known]
        self.last[here] = np.maximum(self.last[here], newest[known])
        new = ids.filter(pa.array(~known))
        newest = newest[~known]
        total = self.waiting.add(new, counts[~known], newest)
        asking = _in_order(new, total, newest, limits.admission)
        free = min(max(limits.rows - len(self.ids), 0), len(asking))
        expired = int(max(times.max(initial=0), self.last.max(initial=0))) - limits.ttl
        victims = self._victims(here, total[asking[free:]], expired, limits)
        admitted = asking[: free + len(victims)]
        moves = self._admit(new, admitted, total, newest, free, np.sort(victims))
        self.waiting.remove(moves.newcomers)
        return moves

    def _victims(
        self, here: NDArray[np.int64], total: NDArray[np.int64], expired: int, limits: Limits
    ) -> NDArray[np.int64]:
        """Rows for newcomers that were seen `total` times, descending; perhaps not for all."""
        if not len(total):
            return np.zeros(0, np.int64)
        eligible = np.ones(len(self.ids), bool)
        eligible[here] = False
        if limits.eviction == "ttl":
            eligible &= self.last <= expired
        rows = np.flatnonzero(eligible)
        if limits.eviction != "lfu":
            return _lowest(rows, self.last, self.seen, len(total))
        found = _lowest(rows, self.seen, self.last, len(total))
        # One rises and the other falls: from the first pair that does not fit, none does.
        return found[self.seen[found] < total[: len(found)]]

    def _admit(
        self,
        new: pa.Array,
        admitted: NDArray[np.int64],
        total: NDArray[np.int64],
        newest: NDArray[np.int64],
        free: int,
        reused: NDArray[np.int64],
    ) -> Moves:
        """Give `admitted` of `new` their rows: `free` ones at the end, and `reused`."""
        by_id = pc.array_sort_indices(new.take(pa.array(admitted))).to_numpy()
        admitted = admitted[by_id]
        newcomers = new.take(pa.array(admitted))
        n = len(self.ids)
        if len(admitted):
            index = np.arange(n + free)
            index[n:] = n + np.arange(free)
            index[reused] = n + free + np.arange(len(reused))
            every = pa.chunked_array([self.ids, newcomers])
            self.ids = one_array(every.take(pa.array(index)))
        self.generation = np.concatenate([self.generation, np.zeros(free, np.int32)])
        self.generation[reused] += 1
        rows = np.concatenate([n + np.arange(free), reused])
        for name, values in (("seen", total), ("last", newest)):
            grown = np.concatenate([getattr(self, name), np.zeros(free, np.int64)])
            grown[rows] = values[admitted]
            setattr(self, name, grown)
        return Moves(reused, free, newcomers, len(new) - len(admitted))

    def forget(self, rows: NDArray[np.int64], waiting: pa.Array) -> None:
        """Let rows be the first that newcomers take, as if nobody had been seen in them.

        Args:
            rows: of whoever is forgotten; who stands there instead is the dataset's matter.
            waiting: ids that are not counted any more, where counts have ids.
        """
        self.seen[rows], self.last[rows] = 0, np.iinfo(np.int64).min
        self.waiting.remove(waiting.cast(self.ids.type))

    @property
    def nbytes(self) -> int:
        """Memory that the map and the counts take."""
        arrays = self.generation.nbytes + self.seen.nbytes + self.last.nbytes
        return int(self.ids.nbytes) + arrays + self.waiting.nbytes

    def save(self, dataset: Path, side: str) -> None:
        """Write all but the ids themselves, which stand in the dataset's own table of the side."""
        folder = dataset / FOLDER
        folder.mkdir(exist_ok=True)
        columns = {"generation": self.generation, "seen": self.seen, "last": self.last}
        write_parquet(_rows_file(folder, side), pa.table(columns))
        self.waiting.save(folder, side)

    @staticmethod
    def open(dataset: Path, side: str, ids: pa.Array, limits: Limits) -> LivingIds | None:
        """What `save` wrote; None where it wrote nothing.

        Args:
            dataset: a prepared dataset's folder.
            side: ``user`` or ``item``.
            ids: by row.
            limits: of the side.

        Raises:
            CadcError: the file has another number of rows than there are ids.
        """
        file = _rows_file(dataset / FOLDER, side)
        if not file.is_file():
            return None
        table = pq.read_table(file)
        if len(table) != len(ids):
            raise CadcError(
                f"{file}: has {len(table):,} rows, and there are {len(ids):,} {side}s; prepare the "
                "dataset again."
            )
        generation, seen, last = (
            table[name].to_numpy().copy() for name in ("generation", "seen", "last")
        )
        waiting = open_waiting(dataset / FOLDER, side, limits.rows)
        return LivingIds(ids, generation, seen, last, waiting)


def generations(dataset: Path, side: str, n: int) -> NDArray[np.int32]:
    """How many owners each row had before its own, ``[n]``; 0 where rows are never reused.

    Args:
        dataset: a prepared dataset's folder.
        side: ``user`` or ``item``.
        n: rows of the side.
    """
    file = _rows_file(dataset / FOLDER, side)
    if not file.is_file():
        return np.zeros(n, np.int32)
    found: NDArray[np.int32] = pq.read_table(file, columns=["generation"])["generation"].to_numpy()
    return found


def _rows_file(folder: Path, side: str) -> Path:
    return folder / f"{side}_rows.parquet"


def _in_order(
    ids: pa.Array, total: NDArray[np.int64], newest: NDArray[np.int64], least: int
) -> NDArray[np.int64]:
    """Places of the ids that were seen at least `least` times, in the order of `take_in`."""
    enough = np.flatnonzero(total >= least)
    rank = np.empty(len(enough), np.int64)
    rank[pc.array_sort_indices(ids.take(pa.array(enough))).to_numpy()] = np.arange(len(enough))
    return enough[np.lexsort((rank, -newest[enough], -total[enough]))]


def _lowest(
    rows: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """At most `count` of `rows`: those of the lowest `first`, then `second`, then number."""
    if count < len(rows):  # sorts no more than it must
        values = first[rows]
        rows = rows[values <= np.partition(values, count - 1)[count - 1]]
    return rows[np.lexsort((rows, second[rows], first[rows]))[:count]]
