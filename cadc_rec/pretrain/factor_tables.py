"""Where the rows of a factorization's table lie, and how a half-step gets at those held fixed.

Two kinds. A `ReplicatedTable` is whole on every rank: the ranks exchange what they solved after
each half-step, and a half-step reads it as it is. A `PartitionedTable` is dealt to the ranks by
rows, and no rank ever holds all of it: a half-step goes through its own rows block by block and
fetches the rows of the other side that the block's interactions and negatives refer to. Both give
the same rows.

Replicated tables are gathered once after each half-step, each row sent once: that is the least
where a rank's interactions refer to most rows. Partitioned ones fetch a row once for each block
that refers to it, so they are for tables that do not fit (`partitions`).

In: a share of rows. Out: `Block`s, the pieces that a half-step's kernels work on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.config.experiment import ShardingConfig
from cadc_rec.data.randomness import Key, normal_blocks
from cadc_rec.distributed.memory import process_memory
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.rows import fetch_rows
from cadc_rec.pretrain.kernels import DrawnPattern, Pattern

_DENSE = 8  # ids are marked in an array of all rows, where those are at most this many times more


@dataclass(frozen=True)
class Block:
    """A piece of a half-step.

    Attributes:
        rows: those to move, within the rank's share.
        patterns: the positives and the negatives of those rows; columns index `others`.
        others: rows of the fixed side ``[m, dim]``, a copy that may be written to.
    """

    rows: slice
    patterns: tuple[Pattern, Pattern | DrawnPattern]
    others: torch.Tensor


class FactorTable(ABC):
    """One side's rows over the ranks.

    Attributes:
        n: rows of the whole table.
        rows: this rank's share of them.
        local: the share's rows ``[len(rows), dim]``, live.
    """

    n: int
    rows: range
    local: torch.Tensor

    def mine(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of these rows, ascending, are in the share, counted from its first."""
        low, high = np.searchsorted(rows, [self.rows.start, self.rows.stop])
        return rows[low:high] - self.rows.start

    def initialize(self, key: Key, std: float) -> None:
        """Normal factors, zero biases; the same on any number of ranks and under either kind."""
        for part, values in normal_blocks(key, self.rows, self.local.shape[1], std):
            self.local[part] = torch.from_numpy(values)
        self.local[:, -1] = 0.0
        self.publish()

    @abstractmethod
    def publish(self) -> None:
        """Let the other ranks see this rank's rows. All must call."""

    @abstractmethod
    def blocks(self, positives: Pattern, negatives: Pattern | DrawnPattern) -> Iterator[Block]:
        """The pieces of a half-step of the OTHER side, this one held fixed. All must call."""

    @abstractmethod
    def pieces(self, entries: Pattern) -> Iterator[tuple[slice, Pattern, torch.Tensor]]:
        """Pieces of rows of the OTHER side, and this side's rows that they need. All must call.

        Yields:
            Rows within the rank's share of the other side; their entries, whose columns index
            what comes next; rows of this table ``[m, dim]``, not to be written to.
        """

    @abstractmethod
    def rows_at(self, ids: torch.Tensor) -> torch.Tensor:
        """Some rows ``[m, dim]``, a copy; ids are int64 ``[m]``. All must call."""

    @abstractmethod
    def gram(self) -> torch.Tensor:
        """``table' table`` over all rows, float64 ``[dim, dim]``. All must call."""


class ReplicatedTable(FactorTable):
    """A table that every rank holds whole.

    Args:
        weight: ``[n, dim]``, updated in place.
        processes: the ranks that share its rows.
    """

    def __init__(self, weight: torch.Tensor, processes: Processes) -> None:
        self.weight, self.processes, self.n = weight, processes, len(weight)
        self.rows = processes.share(self.n)
        self.local = weight[self.rows.start : self.rows.stop]  # shares the table's memory

    def publish(self) -> None:
        """Gather every rank's rows."""
        if self.processes.world_size > 1:
            self.weight.copy_(self.processes.all_gather_rows(self.local, self.n))

    def blocks(self, positives: Pattern, negatives: Pattern | DrawnPattern) -> Iterator[Block]:
        """All rows at once."""
        yield Block(slice(None), (positives, negatives), self.weight.clone())

    def pieces(self, entries: Pattern) -> Iterator[tuple[slice, Pattern, torch.Tensor]]:
        """All rows at once."""
        yield slice(None), entries, self.weight

    def rows_at(self, ids: torch.Tensor) -> torch.Tensor:
        """See `FactorTable`."""
        return self.weight[ids]

    def gram(self) -> torch.Tensor:
        """See `FactorTable`."""
        exact = self.weight.double()
        return exact.t() @ exact


class PartitionedTable(FactorTable):
    """A table of which each rank holds its own rows only.

    Args:
        n: rows of the whole table.
        dim: their width.
        processes: the ranks.
        block: rows fetched at once at most, the same on every rank; a row that refers to more
            is a block by itself.
    """

    def __init__(self, n: int, dim: int, processes: Processes, block: int) -> None:
        self.n, self.processes, self.block = n, processes, block
        self.rows = processes.share(n)
        self.local = torch.zeros(len(self.rows), dim, device=processes.device)
        self.fetched = 0  # rows that this rank was sent or read so far

    def publish(self) -> None:
        """Nothing to do: others ask for what they need."""

    def blocks(self, positives: Pattern, negatives: Pattern | DrawnPattern) -> Iterator[Block]:
        """As many blocks on every rank, some of them empty; one where all rows may be fetched."""
        assert isinstance(negatives, Pattern)  # its columns say which rows to fetch
        entries = positives.crow.long() + negatives.crow
        whole = [slice(0, len(entries) - 1)]
        cuts = whole if self.n <= self.block else _cuts(entries, self.block)
        for index in range(self.processes.most(len(cuts))):
            rows = cuts[index] if index < len(cuts) else slice(0, 0)
            mine, drawn = _rows_of(positives, rows), _rows_of(negatives, rows)
            ids, index_of = distinct(torch.cat([mine.col, drawn.col]), self.n)
            others = fetch_rows(self.local, ids, self.n, self.processes)
            self.fetched += len(ids)
            first, second = index_of.split([len(mine.col), len(drawn.col)])
            yield Block(rows, (Pattern(mine.crow, first), Pattern(drawn.crow, second)), others)

    def pieces(self, entries: Pattern) -> Iterator[tuple[slice, Pattern, torch.Tensor]]:
        """As many pieces on every rank, some of them empty."""
        nothing = Pattern(torch.zeros_like(entries.crow), entries.col[:0])
        for block in self.blocks(entries, nothing):
            yield block.rows, block.patterns[0], block.others

    def rows_at(self, ids: torch.Tensor) -> torch.Tensor:
        """See `FactorTable`."""
        asked, place = torch.unique(ids, return_inverse=True)
        return fetch_rows(self.local, asked, self.n, self.processes)[place]

    def gram(self) -> torch.Tensor:
        """See `FactorTable`."""
        mine = self.local.double()
        return self.processes.all_reduce_sum(mine.t() @ mine)


def _cuts(crow: torch.Tensor, entries: int) -> list[slice]:
    """Rows in consecutive pieces of at most `entries` entries, or of one row."""
    pieces, first, last = [], 0, len(crow) - 1
    while first < last:
        room = crow[first] + entries
        end = int(torch.searchsorted(crow, room, right=True)) - 1
        pieces.append(slice(first, max(end, first + 1)))
        first = pieces[-1].stop
    return pieces


def _rows_of(pattern: Pattern, rows: slice) -> Pattern:
    """The entries of consecutive rows."""
    crow = pattern.crow[rows.start : rows.stop + 1]
    return Pattern(crow - crow[0], pattern.col[int(crow[0]) : int(crow[-1])])


def distinct(columns: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Different values of `columns`, ascending int64, and the place of each column among them.

    Args:
        columns: int32 or int64 ``[m]``, from 0 to n - 1.
        n: how many values there could be.

    Returns:
        ``[k]`` int64 and ``[m]`` of the columns' type.
    """
    if n > _DENSE * len(columns):
        ids, places = torch.unique(columns, return_inverse=True)
        return ids.long(), places.to(columns.dtype)
    taken = torch.zeros(n, dtype=torch.bool, device=columns.device)
    taken[columns.long()] = True
    place = taken.cumsum(0, dtype=columns.dtype).sub_(1)
    return taken.nonzero().flatten(), place[columns.long()]


_FLOAT = 4
_ADAM = 3  # gradient and two moments
_BLOCK_SHARE = 8  # a block of fetched rows may take this part of a process's memory


@dataclass(frozen=True)
class Extent:
    """The tables of a factorization, and how many ranks share their rows."""

    users: int
    items: int
    width: int
    world_size: int

    def _bytes(self, rows: int) -> int:
        return rows * self.width * _FLOAT

    def replicated_bytes(self) -> int:
        """The most that a rank of replicated tables holds.

        Both tables; gradient and Adam's moments of its own rows; a copy of the side that is held
        fixed, or the solved side once more, with two shares beside it, while it is gathered.
        """
        user, item = self._bytes(self.users), self._bytes(self.items)
        own = _ADAM * (user + item) // self.world_size
        larger = max(user, item)
        gathered = larger + 2 * larger // self.world_size if self.world_size > 1 else 0
        return user + item + own + max(larger, gathered)

    def squares_bytes(self) -> int:
        """The same of alternating least squares: both tables, and the side that is gathered."""
        user, item = self._bytes(self.users), self._bytes(self.items)
        return user + item + max(user, item)

    def partitioned_bytes(self, block: int, copies: int = 1 + _ADAM) -> int:
        """The most that a rank of partitioned tables holds.

        Its own rows and as large `copies` of them (gradient and moments; of least squares what
        they are solved for); `block` rows fetched and, on average over the ranks, as many sent.
        """
        own = copies * self._bytes(self.users + self.items) // self.world_size
        return own + 2 * self._bytes(min(block, max(self.users, self.items)))


def plain_tables(
    rows: tuple[int, int],
    width: int,
    processes: Processes,
    sharding: ShardingConfig,
    wanted: str,
    held: int = 0,
) -> tuple[FactorTable, FactorTable]:
    """Two tables of zeros for alternating least squares, as ``compute.mf_tables`` lays them.

    Args:
        rows: of each.
        width: of both.
        processes: the ranks; all must call.
        sharding: what memory tables may fill.
        wanted: ``compute.mf_tables``.
        held: bytes of interactions on each rank, for which the tables leave room.
    """
    memory = processes.broadcast(process_memory(processes, sharding))
    extent = Extent(*rows, width, processes.world_size)
    if partitions(wanted, "squares", extent, (1 - sharding.reserve) * memory - held):
        block = block_rows(memory, width)
        left, right = (PartitionedTable(n, width, processes, block) for n in rows)
        return left, right
    whole = (torch.zeros(n, width, device=processes.device) for n in rows)
    first, second = (ReplicatedTable(table, processes) for table in whole)
    return first, second


def block_rows(memory: int, width: int) -> int:
    """Rows that a process with `memory` bytes may fetch at once."""
    return max(1, memory // _BLOCK_SHARE // (width * _FLOAT))


def partitions(wanted: str, loss: str, extent: Extent, usable: float) -> bool:
    """Whether a factorization's tables are dealt to the ranks.

    Args:
        wanted: ``compute.mf_tables``.
        loss: ``pretrain.loss``, or ``squares``.
        extent: sizes.
        usable: bytes that tables may fill on each rank, the same on every one.
    """
    if extent.world_size == 1 or wanted == "replicated":
        return False
    whole = extent.squares_bytes() if loss == "squares" else extent.replicated_bytes()
    return wanted == "partitioned" or whole > usable
