"""Reading D_sel: whole Parquet shards, dealt to the ranks in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cadc_rec.artifacts import Artifact
from cadc_rec.errors import CadcError


@dataclass(frozen=True)
class SelectionShards:
    """The shards of a selection and their row counts."""

    files: tuple[Path, ...]
    rows: tuple[int, ...]

    @classmethod
    def open(cls, artifact: Artifact) -> SelectionShards:
        """List a selection's shards; only their footers are read."""
        files = tuple(sorted(artifact.path.glob("shard-*.parquet")))
        return cls(files, tuple(pq.read_metadata(file).num_rows for file in files))

    def rows_by_rank(self, world_size: int) -> list[int]:
        """Rows that each rank reads: shard s goes to rank ``s mod world_size``."""
        return [sum(self.rows[rank::world_size]) for rank in range(world_size)]

    def read(self, rank: int, world_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Users and items, int32 ``[n]`` each, of one rank's shards.

        Raises:
            CadcError: there are more ranks than shards.
        """
        if world_size > len(self.files):
            raise CadcError(
                f"{world_size} processes cannot share {len(self.files)} shards of the selection; "
                f"set select.shards to at least {world_size}."
            )
        parts = [
            pq.read_table(file, columns=["user", "item"]) for file in self.files[rank::world_size]
        ]
        users, items = (
            np.concatenate([part[column].to_numpy() for part in parts]).astype(np.int32)
            for column in ("user", "item")
        )
        return users, items
