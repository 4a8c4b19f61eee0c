"""How often ids without a row were seen: exactly, or by a sketch of a fixed size.

In: ids and how often each was seen. Out: how often each was seen so far. Both forget, for a log
that never closes names ever more ids: the exact count keeps those seen latest, the sketch halves
all its counters now and then (TinyLFU, Einziger et al. 2017, section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.streams import one_array, write_parquet

DEPTH = 4  # counters of an id; the smallest is believed
_HALVED_AT = 10  # additions for each counter of a line, before all are halved
_PRIME = np.uint64(0x100000001B3)
_PIECE = 2**18  # texts that are hashed at once


class Waiting(Protocol):
    """Counts ids that have no row."""

    def add(
        self, ids: pa.Array, counts: NDArray[np.int64], newest: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Count different `ids`, seen `counts` times, last at `newest`; their counts so far."""

    def remove(self, ids: pa.Array) -> None:
        """These have a row now."""

    def save(self, folder: Path, side: str) -> None:
        """Write the counts, as `open_waiting` reads them."""

    @property
    def nbytes(self) -> int:
        """Memory that the counts take."""


@dataclass
class ExactCounts:
    """Every id with its count; of more than `most`, those are kept that were seen latest."""

    most: int
    ids: pa.Array
    counts: NDArray[np.int64]
    newest: NDArray[np.int64]

    @staticmethod
    def empty(most: int, kind: pa.DataType) -> ExactCounts:
        """No id yet."""
        return ExactCounts(most, pa.nulls(0, kind), np.zeros(0, np.int64), np.zeros(0, np.int64))

    def add(
        self, ids: pa.Array, counts: NDArray[np.int64], newest: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """See `Waiting`."""
        ids = ids.cast(self.ids.type)
        at = places_of(ids, self.ids)
        known = at >= 0
        self.counts[at[known]] += counts[known]
        self.newest[at[known]] = np.maximum(self.newest[at[known]], newest[known])
        total = counts.astype(np.int64)  # a copy
        total[known] = self.counts[at[known]]
        self.ids = pa.concat_arrays([self.ids, ids.filter(pa.array(~known))])
        self.counts = np.concatenate([self.counts, counts[~known]])
        self.newest = np.concatenate([self.newest, newest[~known]])
        return total

    def remove(self, ids: pa.Array) -> None:
        """See `Waiting`; also forgets whoever is too many."""
        gone = places_of(ids.cast(self.ids.type), self.ids)
        kept = np.ones(len(self.ids), bool)
        kept[gone[gone >= 0]] = False
        if kept.sum() > self.most:
            table = pa.table({"id": self.ids, "n": self.counts, "newest": self.newest})
            table = table.append_column("at", pa.array(np.arange(len(table)))).filter(kept)
            by = [("newest", "descending"), ("n", "descending"), ("id", "ascending")]
            kept = np.zeros(len(self.ids), bool)
            kept[table.sort_by(by)["at"][: self.most].to_numpy()] = True
        self.ids = self.ids.filter(pa.array(kept))
        self.counts, self.newest = self.counts[kept], self.newest[kept]

    def save(self, folder: Path, side: str) -> None:
        """See `Waiting`."""
        columns = {"id": self.ids, "seen": self.counts, "last": self.newest}
        write_parquet(_exact_file(folder, side), pa.table(columns))

    @property
    def nbytes(self) -> int:
        """See `Waiting`."""
        return int(self.ids.nbytes + self.counts.nbytes + self.newest.nbytes)


@dataclass
class Sketch:
    """A count-min sketch (Cormode and Muthukrishnan 2005): never below the count of an id.

    That holds until counters are halved, which is once they hold ten additions each: an id that was
    seen long ago counts half then, and a quarter the next time.
    """

    counters: NDArray[np.uint32]
    """``[DEPTH, width]``"""

    @staticmethod
    def empty(width: int) -> Sketch:
        """No id yet; `width` counters a line."""
        return Sketch(np.zeros((DEPTH, width), np.uint32))

    def add(
        self, ids: pa.Array, counts: NDArray[np.int64], newest: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """See `Waiting`; what is returned is an estimate, too high where ids share counters."""
        del newest
        width = self.counters.shape[1]
        hashed = hashes(ids)
        places = [
            (_mixed(hashed + np.uint64(line)) % width).astype(np.int64) for line in range(DEPTH)
        ]
        for line, place in enumerate(places):
            np.add.at(self.counters[line], place, counts.astype(np.uint32))
        found = np.stack([self.counters[line, place] for line, place in enumerate(places)])
        if int(self.counters[0].sum(dtype=np.int64)) >= _HALVED_AT * width:
            self.counters >>= np.uint32(1)
        return found.min(0).astype(np.int64)

    def remove(self, ids: pa.Array) -> None:
        """See `Waiting`. Counters are shared: an id that comes back later is let in the sooner."""

    def save(self, folder: Path, side: str) -> None:
        """See `Waiting`."""
        np.save(_sketch_file(folder, side), self.counters, allow_pickle=False)

    @property
    def nbytes(self) -> int:
        """See `Waiting`."""
        return int(self.counters.nbytes)


def open_waiting(folder: Path, side: str, most: int) -> Waiting:
    """What `Waiting.save` wrote; of exact counts, `most` are kept."""
    if _sketch_file(folder, side).is_file():
        return Sketch(np.load(_sketch_file(folder, side), allow_pickle=False))
    table = pq.read_table(_exact_file(folder, side))
    seen, last = (table[name].to_numpy().copy() for name in ("seen", "last"))
    return ExactCounts(most, one_array(table["id"]), seen, last)


def _exact_file(folder: Path, side: str) -> Path:
    return folder / f"{side}_waiting.parquet"


def _sketch_file(folder: Path, side: str) -> Path:
    return folder / f"{side}_sketch.npy"


def hashes(ids: pa.Array) -> NDArray[np.uint64]:
    """A 64-bit number of each id, the same on every machine: of integers they are it themselves."""
    if pa.types.is_integer(ids.type):
        whole: NDArray[np.uint64] = (
            ids.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
        )
        return whole
    pieces = [np.empty(0, np.uint64)]
    pieces += [_of_text(ids.slice(start, _PIECE)) for start in range(0, len(ids), _PIECE)]
    return np.concatenate(pieces)


def _of_text(ids: pa.Array) -> NDArray[np.uint64]:
    """A polynomial in each text's bytes, modulo 2**64."""
    ids = ids.cast(pa.large_binary())
    offsets = np.frombuffer(ids.buffers()[1], np.int64)[ids.offset : ids.offset + len(ids) + 1]
    held = ids.buffers()[2]
    every = np.frombuffer(held, np.uint8) if held is not None else np.empty(0, np.uint8)
    text = every[offsets[0] : offsets[-1]].astype(np.uint64)
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    powers = np.ones(int(lengths.max(initial=0)) + 1, np.uint64)
    np.multiply.accumulate(np.full(len(powers) - 1, _PRIME), out=powers[1:])
    place = np.arange(len(text)) - np.repeat(starts, lengths)
    sums = np.concatenate(
        [np.zeros(1, np.uint64), np.cumsum((text + np.uint64(1)) * powers[place])]
    )
    return _mixed(sums[starts + lengths] - sums[starts] + lengths.astype(np.uint64))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The end of SplitMix64 (Steele et al. 2014), after a step of its counter for each value."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def places_of(ids: pa.Array, among: pa.Array) -> NDArray[np.int64]:
    """The place of each of different `ids`; -1 where it is not there.

    The smaller side is hashed: a day's ids are few beside those that are known.
    """
    found = pc.index_in(among, value_set=ids)
    at = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
    places = np.full(len(ids), -1, np.int64)
    places[found.take(pa.array(at)).to_numpy(zero_copy_only=False)] = at
    return places
