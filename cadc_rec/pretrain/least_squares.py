"""Factorization of a sparse matrix by alternating least squares, every zero included.

Minimizes, over x (rows) and y (columns) of width d,

    sum over all (r, c) of  w_rc (m_rc - x_r'.y_c)^2  +  l2 (sum |x_r|^2 + sum |y_c|^2),

where m is zero and the weight w one wherever nothing was observed (Hu, Koren and Volinsky 2008).
With the columns fixed, each row is a linear problem of its own, of the matrix
``Y'Y + l2 + sum (w - 1) y y'`` over its entries:

- all weights one: the matrix is every row's, so one Cholesky factor solves all of them exactly;
- otherwise: conjugate gradients from where the row stands, for all rows at once (Takacs et al.
  2011). A step is a sampled dense-dense and a sparse-dense product, as in `pretrain.kernels`, and
  where the other table outgrows the caches one loop by blocks (`pretrain.blocked_products`).

In: each rank's rows of the matrix, and of its transpose. Out: two `FactorTable`s, updated in place.
A rank solves its share of the rows; how the others come to see them is up to the table
(`pretrain.factor_tables`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from scipy import sparse

from cadc_rec.data.randomness import Key, normal_blocks
from cadc_rec.distributed.processes import Processes, one_torch_thread
from cadc_rec.models.conjugate_gradients import conjugate_gradients
from cadc_rec.models.sparse import products_at, weighted_sums
from cadc_rec.pretrain.column_blocks import columns_at_once
from cadc_rec.pretrain.factor_tables import FactorTable, ReplicatedTable
from cadc_rec.pretrain.kernels import Pattern

if TYPE_CHECKING:
    from cadc_rec.pretrain.blocked_products import BlockedProducts

_INITIAL_STD = 0.01
_SMALL_WORK = 2**27  # multiplications of a pass over the entries: some five milliseconds
PIECE = 2**21  # entries sent at once to those who have their columns: some 80 MB
Only = tuple[np.ndarray, np.ndarray]
"""The rows of both sides to solve, ascending; the others stay."""


@dataclass(frozen=True)
class Entries:
    """Rows of a matrix: where its entries are, the weighted values, and the weights less one.

    Attributes:
        pattern: CSR.
        pull: float32 ``[n]``.
        extra: float32 ``[n]``; None where every weight is one.
        blocked: the entries by blocks of columns, where that pays; `pull` and `extra` are then
            there alone.
    """

    pattern: Pattern
    pull: torch.Tensor
    extra: torch.Tensor | None
    blocked: BlockedProducts | None = None

    @classmethod
    def of(
        cls, rows: sparse.csr_array, weights: np.ndarray | None, device: torch.device
    ) -> Entries:
        """The entries of a CSR matrix of the observed values.

        Args:
            rows: ``[rows, columns]``.
            weights: of each observed entry, in the order of ``rows.data``.
            device: where to.
        """
        index = np.int32 if rows.nnz < 2**31 else np.int64

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        pull = rows.data.astype(np.float32, copy=False)
        pattern = Pattern(
            *(tensor(each.astype(index, copy=False)) for each in (rows.indptr, rows.indices))
        )
        if weights is None:
            return cls(pattern, tensor(pull), None)
        extra = weights.astype(np.float32, copy=False) - np.float32(1)
        return cls(pattern, tensor((pull * weights).astype(np.float32)), tensor(extra))

    def in_blocks(self, shape: tuple[int, int]) -> Entries:
        """The same by blocks of columns, where that pays.

        Args:
            shape: of the table that columns name, which must be whole on this rank.
        """
        crow, col = self.pattern.crow, self.pattern.col
        width = columns_at_once(len(col), len(crow) - 1, shape[0], shape[1] * 4)
        if self.pull.device.type != "cpu" or width >= shape[0]:
            return self
        from cadc_rec.pretrain.blocked_products import BlockedProducts  # imports numba

        extra = None if self.extra is None else self.extra.numpy()
        weights = self.pull.numpy(), extra
        blocked = BlockedProducts.of(crow.numpy(), col.numpy(), weights, shape[0], width)
        # New ones: a part of the old ones would keep all of them.
        nothing = self.pull.new_empty(0)
        return Entries(self.pattern, nothing, None if extra is None else nothing, blocked)

    def products(self, rows: slice, pattern: Pattern) -> BlockedProducts | SparseProducts:
        """What least squares asks of consecutive rows, or of all.

        Args:
            rows: which.
            pattern: their entries; columns name rows of the table that the products are given.
        """
        if self.blocked is not None:
            assert rows.start is None  # of a whole table
            return self.blocked
        if rows.start is None:
            return SparseProducts(pattern, self.pull, self.extra)
        part = slice(int(self.pattern.crow[rows.start]), int(self.pattern.crow[rows.stop]))
        extra = None if self.extra is None else self.extra[part]
        return SparseProducts(pattern, self.pull[part], extra)


@dataclass(frozen=True)
class SparseProducts:
    """Sums over the entries of rows, by sparse products; the attributes are those of `Entries`."""

    pattern: Pattern
    pull: torch.Tensor
    extra: torch.Tensor | None

    def target(self, others: torch.Tensor) -> torch.Tensor:
        """``sum pull * others[c]`` of each row ``[rows, d]``; others is ``[columns, d]``."""
        return weighted_sums(self.pattern.crow, self.pattern.col, self.pull, others)

    def times(self, x: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """``sum extra * (x . others[c]) * others[c]`` of each row; x is ``[rows, d]``."""
        assert self.extra is not None
        at = products_at(self.pattern.crow, self.pattern.col, x, others).mul_(self.extra)
        return weighted_sums(self.pattern.crow, self.pattern.col, at, others)


class LeastSquares:
    """Alternating least squares on two tables.

    Args:
        left: of the rows, updated in place.
        right: of the columns.
        entries: this rank's rows (or those of `only`) of the matrix, and of its transpose.
        l2: weight of the squared lengths.
        steps: of conjugate gradients, for each half of a sweep; unused where weights are one.
        key: names the initial vectors; None starts from what the tables hold.
        only: see `Only`; None solves all.
    """

    def __init__(
        self,
        left: FactorTable,
        right: FactorTable,
        entries: tuple[Entries, Entries],
        l2: float,
        steps: int,
        key: Key | None,
        only: Only | None = None,
    ) -> None:
        self.left, self.right, self.l2, self.steps = left, right, l2, steps
        self._by_row, self._by_column = entries
        self._rows = None if only is None else left.mine(only[0])
        self._columns = None if only is None else right.mine(only[1])
        for which, table in enumerate((left, right) if key is not None else ()):
            assert key is not None
            width = table.local.shape[1]
            for part, values in normal_blocks((*key, which), table.rows, width, _INITIAL_STD):
                table.local[part] = torch.from_numpy(values)
            table.publish()

    @classmethod
    def of_matrix(
        cls,
        left: torch.Tensor,
        right: torch.Tensor,
        values: sparse.csr_array,
        weights: np.ndarray | None,
        l2: float,
        steps: int,
        key: Key | None,
        processes: Processes,
        only: Only | None = None,
    ) -> LeastSquares:
        """Of whole tables ``[rows, d]`` and ``[columns, d]`` and a matrix that each rank has."""
        tables = ReplicatedTable(left, processes), ReplicatedTable(right, processes)
        of_row = None if weights is None else _with_data(values, weights)
        sides = []
        for table, whole, whole_weights, some in zip(
            tables,
            (values, values.T.tocsr()),
            (of_row, None if of_row is None else of_row.T.tocsr()),
            (None, None) if only is None else only,
            strict=True,
        ):
            share = slice(table.rows.start, table.rows.stop)
            rows = share if some is None else table.mine(some) + share.start
            weighted = None if whole_weights is None else whole_weights[rows].data
            sides.append(Entries.of(whole[rows], weighted, left.device))
        return cls(*tables, (sides[0], sides[1]), l2, steps, key, only)

    def sweeps(self, count: int) -> Iterator[None]:
        """`count` times: solve the rows, then the columns; yields after each."""
        work = len(self._by_row.pattern.col) * self.left.local.shape[1]
        small = work <= _SMALL_WORK and self.left.local.device.type == "cpu"
        for _ in range(count):
            with one_torch_thread(small):
                self._solve(self.left, self.right, self._by_row, self._rows)
                self._solve(self.right, self.left, self._by_column, self._columns)
            yield

    @torch.no_grad()
    def _solve(
        self, table: FactorTable, other: FactorTable, entries: Entries, only: np.ndarray | None
    ) -> None:
        """Solve this rank's rows of `table` (or `only` those) with `other` fixed."""
        gram = other.gram()  # of all rows, in float64: its rounding would be every row's
        gram.diagonal().add_(self.l2)
        chosen = slice(None) if only is None else torch.from_numpy(only).to(table.local.device)
        mine = table.local[chosen]
        solved = mine if only is None else mine.clone()
        if entries.extra is None:
            # Of so small a matrix, in float64, the inverse is exact enough, and one product.
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        for rows, pattern, others in other.pieces(entries.pattern):
            products = entries.products(rows, pattern)
            target = products.target(others)
            if entries.extra is None:
                solved[rows] = (target.double() @ inverse).to(mine.dtype)
            else:
                solved[rows] = self._conjugate_gradients(
                    mine[rows], target, gram.to(mine.dtype), others, products
                )
        if only is not None:
            table.local[chosen] = solved
        table.publish()

    def _conjugate_gradients(
        self,
        start: torch.Tensor,
        target: torch.Tensor,
        gram: torch.Tensor,
        others: torch.Tensor,
        products: BlockedProducts | SparseProducts,
    ) -> torch.Tensor:
        """`steps` steps towards the solution of every row, side by side."""

        def times(x: torch.Tensor) -> torch.Tensor:
            """Every row's own matrix times its vector."""
            return x @ gram + products.times(x, others)

        return conjugate_gradients(times, start.clone(), target - times(start), self.steps)


def _with_data(matrix: sparse.csr_array, data: np.ndarray) -> sparse.csr_array:
    """The same pattern with other values."""
    return sparse.csr_array(
        (data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape
    )


def by_column(
    rows: sparse.csr_array, processes: Processes, piece: int | None = None
) -> sparse.csr_array:
    """Each rank's share of the columns of a matrix of which it has its share of the rows.

    Every rank must call. Rows are sent some at a time, and what is received goes where it belongs:
    beside the two orders only a piece stands in memory.

    Args:
        rows: ``[share, columns]``, float32.
        processes: the ranks.
        piece: entries that a rank sends at once, about; the result does not depend on it.

    Returns:
        ``[share of the columns, rows of all ranks]``; a column's entries by ascending row.
    """
    if processes.world_size == 1:
        return rows.T.tocsr()
    ranks, columns = range(processes.world_size), rows.shape[1]
    piece = piece or max(PIECE, columns)  # each costs a pass over the columns
    shares = [processes.share_of(rank, columns) for rank in ranks]
    widths, mine = [len(share) for share in shares], len(shares[processes.rank])
    first = np.cumsum([0, *processes.all_gather(rows.shape[0])])

    def exchanged(values: np.ndarray, give: list[int], take: list[int]) -> np.ndarray:
        sent = torch.from_numpy(np.ascontiguousarray(values)).to(processes.device)
        received = sent.new_empty(sum(take))
        dist.all_to_all_single(received, sent, take, give)
        return received.cpu().numpy()

    def lengths_of(own: np.ndarray) -> np.ndarray:
        """How many entries each rank sends of this one's columns, by what it has of each."""
        return exchanged(own, widths, [mine] * len(ranks)).reshape(len(ranks), mine)

    counts = np.zeros(columns, np.int64)
    for start in range(0, rows.nnz, piece):
        counts += np.bincount(rows.indices[start : start + piece], minlength=columns)
    of_rank = lengths_of(counts)
    pointers = np.concatenate([[0], np.cumsum(of_rank.sum(0))])
    free = pointers[:-1] + np.cumsum(of_rank, 0) - of_rank  # where each rank's next entry goes
    index = np.int32 if pointers[-1] < 2**31 else np.int64
    data, of_row = np.empty(pointers[-1], np.float32), np.empty(pointers[-1], index)
    for part in _parts(rows.indptr, piece, processes):
        every = rows[part.start : part.stop].tocsc()  # a counting sort: a rank's stand together
        lengths = lengths_of(np.diff(every.indptr).astype(np.int64))
        given = [int(np.diff(every.indptr[[s.start, s.stop]])[0]) for s in shares]
        taken = lengths.sum(1).tolist()
        before = np.cumsum(lengths).reshape(lengths.shape) - lengths
        to = np.repeat((free - before).ravel(), lengths.ravel()) + np.arange(sum(taken))
        row = every.indices.astype(np.int32) + np.int32(first[processes.rank] + part.start)
        data[to], of_row[to] = exchanged(every.data, given, taken), exchanged(row, given, taken)
        free += lengths
    shape = (mine, int(first[-1]))
    return sparse.csr_array((data, of_row, pointers.astype(index)), shape=shape)


def _parts(indptr: np.ndarray, piece: int, processes: Processes) -> Iterator[range]:
    """Consecutive rows of about so many entries; every rank is given as many parts."""
    parts = processes.most(int(indptr[-1]) // piece + 1)
    cuts = np.searchsorted(indptr, np.linspace(0, int(indptr[-1]), parts + 1), "left")
    cuts[0], cuts[-1] = 0, len(indptr) - 1
    for start, stop in pairwise(cuts.tolist()):
        yield range(start, stop)
