"""Reads D_sel: whole Parquet shards, dealt to the ranks in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cadc_rec.data.dataset import NO_ITEM
from cadc_rec.data.streams import read_groups
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import Artifact


@dataclass(frozen=True)
class Examples:
    """Rows of D_sel: users and items, int32 ``[n]``, and histories, int32 ``[n, L]`` or None."""

    users: np.ndarray
    items: np.ndarray
    history: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> Examples:
        """Some of the rows, without their histories."""
        return Examples(self.users[rows], self.items[rows])


@dataclass(frozen=True)
class SelectionShards:
    """The shards of a selection and their row counts."""

    files: tuple[Path, ...]
    groups: tuple[tuple[int, ...], ...]
    """Rows of each shard's row groups."""

    @classmethod
    def open(cls, artifact: Artifact) -> SelectionShards:
        """List a selection's shards; only their footers are read."""
        files = tuple(sorted(artifact.path.glob("shard-*.parquet")))
        return cls(files, tuple(_group_rows(file) for file in files))

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each shard."""
        return tuple(sum(groups) for groups in self.groups)

    def rows_by_rank(self, world_size: int) -> list[int]:
        """Rows that each rank reads: shard s goes to rank ``s mod world_size``."""
        return [sum(self.rows[rank::world_size]) for rank in range(world_size)]

    def read(self, rank: int, world_size: int, history: int = 0) -> Examples:
        """One rank's shards.

        Args:
            rank: whose.
            world_size: ranks that share them.
            history: items of each row's history to read at most; 0 reads none.

        Raises:
            CadcError: there are more ranks than shards.
        """
        self.require(world_size)
        columns = ["user", "item", *(["history"] if history else [])]
        table = pa.concat_tables(
            pq.read_table(file, columns=columns) for file in self.files[rank::world_size]
        )
        return Examples(
            users=table["user"].to_numpy().astype(np.int32),
            items=table["item"].to_numpy().astype(np.int32),
            history=_padded(table["history"], history) if history else None,
        )

    def places(self, rank: int, world_size: int) -> np.ndarray:
        """Positions in D_full of the rows that `read` gives, int64 ``[n]``."""
        files = self.files[rank::world_size]
        return np.concatenate([pq.read_table(f, columns=["row"])["row"].to_numpy() for f in files])

    def require(self, world_size: int) -> None:
        """Refuse more ranks than shards."""
        if world_size > len(self.files):
            raise CadcError(
                f"{world_size} processes cannot share {len(self.files)} shards of the selection; "
                f"set select.shards to at least {world_size}."
            )

    def counts(self, column: str, size: int, rank: int, world_size: int) -> np.ndarray:
        """How often each id of a column occurs in one rank's shards, int64 ``[size]``.

        One row group is in memory at a time.
        """
        found = np.zeros(size, np.int64)
        for group in read_groups(self.files[rank::world_size], [column]):
            np.add.at(found, group[column].to_numpy(), 1)
        return found


def _group_rows(file: Path) -> tuple[int, ...]:
    footer = pq.read_metadata(file)
    return tuple(footer.row_group(group).num_rows for group in range(footer.num_row_groups))


def _padded(lists: pa.ChunkedArray, length: int) -> np.ndarray:
    """Lists as int32 ``[n, length]``, their first elements on the left, then -1."""
    padded = np.full((len(lists), length), NO_ITEM, np.int32)
    start = 0
    for chunk in lists.chunks:
        counts = np.diff(chunk.offsets.to_numpy())
        row = np.repeat(np.arange(len(chunk)), counts)
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        inside = place < length
        padded[start + row[inside], place[inside]] = chunk.flatten().to_numpy()[inside]
        start += len(chunk)
    return padded
