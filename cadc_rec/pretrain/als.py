"""Factorization of a sparse matrix by alternating least squares, every zero included.

Minimizes, over x (rows) and y (columns) of width d,

    sum over all (r, c) of  w_rc (m_rc - x_r'.y_c)^2  +  l2 (sum |x_r|^2 + sum |y_c|^2),

where m is zero and the weight w one wherever nothing was observed (Hu, Koren and Volinsky 2008).
With the columns fixed, each row is a linear problem of its own, of the matrix
``Y'Y + l2 + sum (w - 1) y y'`` over its entries:

- all weights one: the matrix is every row's, so one Cholesky factor solves all of them exactly;
- otherwise: conjugate gradients from where the row stands, for all rows at once (Takacs et al.
  2011). A step is a sampled dense-dense and a sparse-dense product, as in `pretrain.kernels`.

In: a CSR matrix. Out: two dense tables, updated in place. A rank solves its share of the rows and
the ranks exchange them after each half of a sweep.

ALS of the training interactions is that with every interaction's m at 1 and the weight
``alpha * weight * 2 ** (-age / half_life)`` (weight: the interaction's own, 1 where the data has
none; age: how many interactions the user had after it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from cadc_rec.config.experiment import AlsConfig
from cadc_rec.data.randomness import Key, Purpose, normal_blocks
from cadc_rec.distributed.processes import Processes
from cadc_rec.models.conjugate_gradients import conjugate_gradients
from cadc_rec.models.sparse import products_at, weighted_sums
from cadc_rec.pretrain.alternating import Interactions

_INITIAL_STD = 0.01


@dataclass(frozen=True)
class _Entries:
    """One rank's rows of the matrix: CSR, the weighted values, and the weights less one."""

    crow: torch.Tensor
    col: torch.Tensor
    pull: torch.Tensor
    extra: torch.Tensor | None


class LeastSquares:
    """Alternating least squares on two tables.

    Args:
        left: ``[rows, d]``, updated in place, equal on all ranks.
        right: ``[columns, d]``, updated in place, equal on all ranks.
        values: the observed m, a CSR matrix ``[rows, columns]``.
        weights: w of each observed entry, in the order of ``values.data``; None is one for all.
        l2: weight of the squared lengths.
        steps: of conjugate gradients, for each half of a sweep; unused where weights are None.
        key: names the initial vectors; None starts from what the tables hold.
        processes: the ranks that share the rows.
        only: the rows of left and of right to solve, ascending; the others stay. Default: all.
    """

    def __init__(
        self,
        left: torch.Tensor,
        right: torch.Tensor,
        values: sparse.csr_array,
        weights: np.ndarray | None,
        l2: float,
        steps: int,
        key: Key | None,
        processes: Processes,
        only: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.left, self.right, self.l2, self.steps = left, right, l2, steps
        self.processes = processes
        self._rows = None if only is None else only[0]
        self._columns = None if only is None else only[1]
        values = values.astype(np.float32)
        pull = values if weights is None else _with_data(values, values.data * weights)
        extra = None if weights is None else _with_data(values, weights.astype(np.float32) - 1)
        self._by_row = self._entries(pull, extra, self._rows)
        self._by_column = self._entries(
            pull.T.tocsr(), None if extra is None else extra.T.tocsr(), self._columns
        )
        if key is None:
            return
        for which, table in enumerate((left, right)):
            every = range(len(table))
            with torch.no_grad():
                for part, values in normal_blocks(
                    (*key, which), every, table.shape[1], _INITIAL_STD
                ):
                    table[part] = torch.from_numpy(values)

    def sweeps(self, count: int) -> Iterator[None]:
        """`count` times: solve the rows, then the columns; yields after each."""
        for _ in range(count):
            self._solve(self.left, self.right, self._by_row, self._rows)
            self._solve(self.right, self.left, self._by_column, self._columns)
            yield

    def _entries(
        self, pull: sparse.csr_array, extra: sparse.csr_array | None, only: np.ndarray | None
    ) -> _Entries:
        """This rank's rows."""
        if only is not None:
            pull, extra = pull[only], None if extra is None else extra[only]
        rows, device = self.processes.share(pull.shape[0]), self.left.device
        first, last = int(pull.indptr[rows.start]), int(pull.indptr[rows.stop])
        index = np.int32 if pull.nnz < 2**31 else np.int64

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        return _Entries(
            tensor((pull.indptr[rows.start : rows.stop + 1] - first).astype(index)),
            tensor(pull.indices[first:last].astype(index)),
            tensor(pull.data[first:last]),
            None if extra is None else tensor(extra.data[first:last]),
        )

    @torch.no_grad()
    def _solve(
        self,
        table: torch.Tensor,
        other: torch.Tensor,
        entries: _Entries,
        only: np.ndarray | None,
    ) -> None:
        """Solve this rank's rows of `table` (of `only`) with `other` fixed."""
        every = slice(None) if only is None else torch.from_numpy(only).to(table.device)
        wanted = table[every]
        rows = self.processes.share(len(wanted))
        mine = wanted[rows.start : rows.stop]
        target = weighted_sums(entries.crow, entries.col, entries.pull, other)
        # Of all rows, in float64: its rounding would be every row's.
        gram = other.double().t() @ other.double()
        gram.diagonal().add_(self.l2)
        if entries.extra is None:
            # Of so small a matrix, in float64, the inverse is exact enough, and one product.
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
            solved = (target.double() @ inverse).to(table.dtype)
        else:
            gram = gram.to(table.dtype)
            solved = self._conjugate_gradients(mine, target, gram, other, entries, entries.extra)
        table[every] = self.processes.all_gather_rows(solved.contiguous(), len(wanted))

    def _conjugate_gradients(
        self,
        start: torch.Tensor,
        target: torch.Tensor,
        gram: torch.Tensor,
        other: torch.Tensor,
        entries: _Entries,
        extra: torch.Tensor,
    ) -> torch.Tensor:
        """`steps` steps towards the solution of every row, side by side."""

        def times(x: torch.Tensor) -> torch.Tensor:
            """Every row's own matrix times its vector."""
            at = products_at(entries.crow, entries.col, x, other).mul_(extra)
            return x @ gram + weighted_sums(entries.crow, entries.col, at, other)

        return conjugate_gradients(times, start.clone(), target - times(start), self.steps)


def _with_data(matrix: sparse.csr_array, data: np.ndarray) -> sparse.csr_array:
    """The same pattern with other values."""
    return sparse.csr_array(
        (data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape
    )


def confidences(
    indptr: np.ndarray, config: AlsConfig, weights: np.ndarray | None = None
) -> np.ndarray | None:
    """Confidence of each interaction, float32 ``[n]``; None where it is 1 for all.

    Args:
        indptr: int64 ``[n_users + 1]``; a user's interactions are in the order of time.
        config: ``alpha`` and ``half_life``.
        weights: of the interactions themselves ``[n]``; None is 1 for all.
    """
    if config.alpha == 1 and not config.half_life and weights is None:
        return None
    counts = np.diff(indptr)
    age = np.repeat(indptr[1:], counts) - 1 - np.arange(indptr[-1])
    decay = 0.5 ** (age / config.half_life) if config.half_life else np.ones(len(age))
    weighted = decay if weights is None else decay * weights
    return (config.alpha * weighted).astype(np.float32)


def train_als(
    user: torch.Tensor,
    item: torch.Tensor,
    data: Interactions,
    config: AlsConfig,
    seed: int,
    processes: Processes,
    only: tuple[np.ndarray, np.ndarray] | None = None,
    warm: bool = False,
) -> Iterator[None]:
    """Fill both tables, a sweep at a time.

    Args:
        user: ``[n_users, dim]``, equal on all ranks.
        item: ``[n_items, dim]``, likewise.
        data: D_full.
        config: sweeps, confidences, L2.
        seed: of the initial vectors.
        processes: the ranks that share the rows.
        only: the users and items to solve, ascending; default: all.
        warm: start from what the tables hold.
    """
    values = sparse.csr_array(
        (np.ones(len(data), np.float32), data.items_by_user, data.user_indptr),
        shape=(data.n_users, data.n_items),
    )
    solver = LeastSquares(
        user,
        item,
        values,
        confidences(data.user_indptr, config, data.weights),
        config.l2,
        config.conjugate_gradient_steps,
        None if warm else (seed, Purpose.ALS_INITIALIZATION),
        processes,
        only,
    )
    yield from solver.sweeps(config.iterations)
