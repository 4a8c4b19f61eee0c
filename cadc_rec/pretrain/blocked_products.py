"""Least squares' products with rows' entries, on CPU, where the table outgrows the caches.

In: entries by blocks of columns (`pretrain.column_blocks`), their weights, the table. Out: sums for
each row, the same as by `models.sparse` but for rounding. A score and what it adds to its row are
formed in one pass, so a table's row comes from memory once; each thread has its own rows, so their
number changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cadc_rec.pretrain.column_blocks import ColumnBlocks, ordered_blocks
from cadc_rec.pretrain.fused_loop import add_squares, add_weighted
from cadc_rec.pretrain.kernels import Lanes


@dataclass(frozen=True)
class BlockedProducts:
    """Entries of a side's rows by blocks of the other side's.

    Attributes:
        crow: row pointers of all entries ``[rows + 1]``, by which threads share the rows.
        blocks: the entries.
        pull: float32 ``[n]``, in the order of the blocks.
        extra: float32 ``[n]``, likewise; None where every weight is one.
        lanes: threads.
    """

    crow: np.ndarray
    blocks: ColumnBlocks
    pull: np.ndarray
    extra: np.ndarray | None
    lanes: Lanes

    @classmethod
    def of(
        cls,
        crow: np.ndarray,
        col: np.ndarray,
        weights: tuple[np.ndarray, np.ndarray | None],
        columns: int,
        width: int,
    ) -> BlockedProducts:
        """Order entries.

        Args:
            crow: row pointers ``[rows + 1]``.
            col: columns ``[n]``.
            weights: `pull` and `extra`, in the order of `col`.
            columns: as many as there are.
            width: columns of a block, a power of two.
        """
        lanes = Lanes(torch.get_num_threads())
        given = [each for each in weights if each is not None]
        blocks, (pull, *extra) = ordered_blocks(crow, col, columns, width, lanes, given)
        return cls(crow, blocks, pull, extra[0] if extra else None, lanes)

    def target(self, others: torch.Tensor) -> torch.Tensor:
        """``sum pull * others[c]`` of each row ``[rows, d]``; others is ``[columns, d]``."""
        into = others.new_zeros(len(self.crow) - 1, others.shape[1])
        b, arrays = self.blocks, (others.numpy(), into.numpy())

        def add(rows: tuple[int, int]) -> None:
            add_weighted(*rows, b.pointers, b.col, b.width, self.pull, *arrays)

        self.lanes.map(add, self.lanes.rows(self.crow))
        return into

    def times(self, x: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """``sum extra * (x . others[c]) * others[c]`` of each row; x is ``[rows, d]``."""
        into = torch.zeros_like(x)
        b, arrays = self.blocks, (x.numpy(), others.numpy(), into.numpy())

        def add(rows: tuple[int, int]) -> None:
            add_squares(*rows, b.pointers, b.col, b.width, self.extra, *arrays)

        self.lanes.map(add, self.lanes.rows(self.crow))
        return into
