"""Alternating training of matrix factorization, a half-step at a time.

With the items fixed, the loss falls apart into one independent problem for each user, and the
other way round (CADC's alternating scheme). So a half-step is one Adam step on every row of a
side, and its gradient needs only that side's interactions, laid out as CSR, and the other table:

    logits at the pattern     sampled dense-dense product      S * (A B')
    gradient of the rows      sparse-dense product             (sigma(logits) - label) B

Both are single kernels (on CPU one loop does both, on CUDA one Triton kernel, or cuSPARSE's two
where there is no Triton; see `pretrain.kernels`), which is why a hundred epochs over every
interaction cost seconds. A rank solves its own rows; how the others come to see them is up to the
table (`pretrain.factor_tables`).

In: the training interactions as CSR by user and by item. Out: two `FactorTable`s, trained in place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cadc_rec.config.experiment import PretrainConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.randomness import Key, Purpose, positional_integers
from cadc_rec.distributed.processes import Processes, one_torch_thread
from cadc_rec.pretrain.factor_tables import Block, FactorTable, ReplicatedTable
from cadc_rec.pretrain.kernels import (
    DrawnPattern,
    EntriesGradient,
    FusedGradient,
    Gradient,
    Lanes,
    Pattern,
    kernel_for,
)

_DRAWN_AT_ONCE = 2**20  # negatives, in a thread
_SMALL_TABLE = 2**21  # elements; a pass over them takes less than more threads would wait


@dataclass(frozen=True)
class Interactions:
    """D_full in both orders: CSR by user and CSR by item.

    ``indptr`` are int64 ``[rows + 1]``, ``users`` and ``items`` int32 ``[n]``; ``weights``, in the
    order by user, float32 ``[n]``, or None where every interaction weighs 1.
    """

    user_indptr: np.ndarray
    items_by_user: np.ndarray
    item_indptr: np.ndarray
    users_by_item: np.ndarray
    weights: np.ndarray | None = None

    @staticmethod
    def of(dataset: Dataset) -> Interactions:
        """The training interactions of a prepared dataset."""
        item_indptr, users_by_item = dataset.csr_by_item
        return Interactions(
            dataset.user_indptr,
            dataset.train_item,
            item_indptr,
            users_by_item,
            dataset.train_weight,
        )

    @property
    def n_users(self) -> int:
        """Rows of the user table."""
        return len(self.user_indptr) - 1

    @property
    def n_items(self) -> int:
        """Rows of the item table."""
        return len(self.item_indptr) - 1

    def __len__(self) -> int:
        return len(self.items_by_user)


class Side:
    """The rows of one table that this rank solves, and their optimizer.

    Args:
        table: the side's table; this rank's share is updated in place.
        indptr: CSR row pointers of the side's positives, all rows.
        columns: the other side's index of each positive, all rows.
        config: learning rate and L2.
        gradient: the kernel.
    """

    def __init__(
        self,
        table: FactorTable,
        indptr: np.ndarray,
        columns: np.ndarray,
        config: PretrainConfig,
        gradient: EntriesGradient,
    ) -> None:
        self.table, self.gradient, self.l2 = table, gradient, config.l2
        rows = table.rows
        self.first, self.last = int(indptr[rows.start]), int(indptr[rows.stop])
        self.pointers = indptr[rows.start : rows.stop + 1] - self.first
        self.device = table.local.device
        self.positives = _pattern(self.pointers, columns[self.first : self.last], self.device)
        self.local = nn.Parameter(table.local)  # shares the table's memory
        # Fused Adam is one pass over the rows instead of a dozen.
        self.adam = torch.optim.Adam([self.local], lr=config.learning_rate, fused=True)

    def step(
        self, other: FactorTable, bias: torch.Tensor, negatives: Pattern | DrawnPattern
    ) -> Gradient:
        """One Adam step on this rank's rows with the other side fixed; returns what `bias` needs.

        Args:
            other: the other side's table, a row's bias last.
            bias: the global bias, a scalar.
            negatives: the negatives of this rank's rows.
        """
        with torch.no_grad():
            mine = self.local.detach()
            total = self.l2 * mine
            gradient = Gradient(torch.zeros_like(bias), torch.zeros_like(bias))
            for block in other.blocks(self.positives, negatives):
                self._add_gradient(block, mine[block.rows], bias, total[block.rows], gradient)
        self.local.grad = total
        self.adam.step()
        self.table.publish()
        return gradient

    def _add_gradient(
        self,
        block: Block,
        mine: torch.Tensor,
        bias: torch.Tensor,
        into: torch.Tensor,
        sums: Gradient,
    ) -> None:
        """Add what a block's entries give to its rows and to the sums over entries."""
        # (factors, bias) . (factors, 1) + bias is the score: biases need no step of their own.
        others = block.others
        other_bias = others[:, -1].clone()
        others[:, -1] = 1.0
        for pattern, label in zip(block.patterns, (1.0, 0.0), strict=True):
            part = self.gradient(pattern, label, mine, others, other_bias, bias.detach(), into)
            sums.bias += part.bias
            sums.loss += part.loss


class AlternatingSolver:
    """Trains a factorization's tables; `epochs()` yields after each epoch.

    Args:
        user: the users' table, updated in place.
        item: the items'.
        bias: the global bias, a scalar parameter.
        data: D_full.
        config: epochs, learning rate, L2, negatives.
        seed: of the initial vectors and of every epoch's negatives.
        processes: the ranks that share the rows.
        warm: start from what the tables hold, not from the seed's vectors.
        kernel: forms the gradients; None takes the one for the device.
    """

    def __init__(
        self,
        user: FactorTable,
        item: FactorTable,
        bias: nn.Parameter,
        data: Interactions,
        config: PretrainConfig,
        seed: int,
        processes: Processes,
        warm: bool = False,
        kernel: EntriesGradient | None = None,
    ) -> None:
        self.data, self.config, self.seed, self.processes = data, config, seed, processes
        self.bias = bias
        self.bias_adam = torch.optim.Adam([bias], lr=config.learning_rate)
        for which, table in enumerate(() if warm else (user, item)):
            table.initialize((seed, Purpose.MF_INITIALIZATION, which), config.init_std)
        self.lanes = Lanes(torch.get_num_threads())
        kernel = kernel or kernel_for(len(data), user.local.device, self.lanes)
        # A kernel that can draws the negatives itself, but where the rows to fetch must be known.
        self.draws = getattr(kernel, "draws", False) and isinstance(user, ReplicatedTable)
        self.users = Side(user, data.user_indptr, data.items_by_user, config, kernel)
        self.items = Side(item, data.item_indptr, data.users_by_item, config, kernel)
        # Uniform negative items seen from the items: every item gets the same number.
        total = len(data) * config.negatives
        self._item_negatives = np.arange(data.n_items + 1) * total // data.n_items

    def epochs(self, done: int = 0) -> Iterator[float]:
        """Run the epochs that are not `done`; yields the mean positive log loss of each."""
        for epoch in range(done, self.config.epochs):
            with self._torch_threads():
                # Negatives are freed before the next are drawn.
                gradient = self.users.step(self.items.table, self.bias, self._negative_items(epoch))
                self._step_bias(gradient)
                loss = gradient.loss
                gradient = self.items.step(self.users.table, self.bias, self._negative_users(epoch))
                self._step_bias(gradient)
            yield float(self.processes.all_reduce_sum(loss)) / max(len(self.data), 1)

    def _torch_threads(self) -> contextlib.AbstractContextManager[None]:
        """Within, torch runs in one thread where its part is small and the lanes do the rest."""
        elements = max(self.users.table.n, self.items.table.n) * self.users.local.shape[1]
        small = elements <= _SMALL_TABLE and isinstance(self.users.gradient, FusedGradient)
        return one_torch_thread(small)

    def _step_bias(self, gradient: Gradient) -> None:
        self.bias.grad = self.processes.all_reduce_sum(gradient.bias)
        self.bias_adam.step()

    def _negative_items(self, epoch: int) -> Pattern | DrawnPattern:
        """For each positive of this rank's users, `negatives` uniform items."""
        k, side = self.config.negatives, self.users
        key = (self.seed, Purpose.MF_NEGATIVE_ITEMS, epoch)
        if self.draws:
            crow = side.positives.crow.long() * k
            return DrawnPattern(crow, key, side.first * k, self.data.n_items)
        columns = self._draw(key, side.first * k, side.last * k, self.data.n_items)
        return _pattern(side.pointers * k, columns, side.device)

    def _negative_users(self, epoch: int) -> Pattern | DrawnPattern:
        """The same pairs seen from the items: users in proportion to their activity."""
        side = self.items
        rows = side.table.rows
        pointers = self._item_negatives[rows.start : rows.stop + 1]
        key = (self.seed, Purpose.MF_NEGATIVE_USERS, epoch)
        first, last = int(pointers[0]), int(pointers[-1])
        if self.draws and self.processes.world_size == 1:  # its positives are the users of all
            crow = torch.from_numpy(pointers).to(side.device)
            return DrawnPattern(crow, key, first, len(self.data), side.positives.col)
        columns = self._draw(key, first, last, len(self.data), self.data.users_by_item)
        return _pattern(pointers - pointers[0], columns, side.device)

    def _draw(
        self, key: Key, start: int, stop: int, below: int, values: np.ndarray | None = None
    ) -> np.ndarray:
        """Elements ``start .. stop`` of a uniform sequence (of `values`), int32 or int64."""
        drawn = np.empty(stop - start, np.int32 if below <= 2**31 else np.int64)

        def draw(piece: range) -> None:
            for first in piece[::_DRAWN_AT_ONCE]:  # on its way a number takes several times as much
                last = min(first + _DRAWN_AT_ONCE, piece.stop)
                numbers = positional_integers(key, first, last - first, below)
                if values is not None:
                    numbers = values[numbers]
                drawn[first - start : last - start] = numbers

        self.lanes.map(draw, self.lanes.cut(start, stop))
        return drawn


def _pattern(pointers: np.ndarray, columns: np.ndarray, device: torch.device) -> Pattern:
    """Row pointers and columns as CSR kernels take them."""
    index = np.int32 if len(columns) < 2**31 else np.int64
    crow, col = (
        torch.from_numpy(a.astype(index, copy=False)).to(device) for a in (pointers, columns)
    )
    return Pattern(crow, col)
