"""Alternating training of matrix factorization under a softmax over items, a half-step at a time.

For user u with n_u interactions the loss is ``sum -log softmax(s_u)_i``: since all of a user's
interactions share one sum over items, it is

    n_u log(sum over items j of exp s_uj)  -  sum over u's items i of s_ui

and its gradient needs no interaction by itself, only sums of the other side's rows over a row's
interactions (one sparse-dense product) and dense products with the softmax:

    of user u     n_u sum_j p_uj v_j  -  sum over u's items of v_i
    of item j     sum_u n_u p_uj u_u  -  sum over j's users of u_u

The dense sums run over a sample that all rows of a half-step share, drawn afresh: uniform items for
the users; for the items, users in proportion to their interactions, whose softmax runs over all
items. Where a side has no more rows than the sample would, all of them are taken and the gradient
is exact. As with binary cross-entropy (`pretrain.alternating`), a half-step is one Adam step on
every row of a side; a rank solves its own rows and the ranks then exchange them.

In: the training interactions as CSR by user and by item. Out: both tables, trained in place. A
user's own bias and the global one cancel in a softmax, and stay zero.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from cadc_rec.config.experiment import PretrainConfig
from cadc_rec.data.randomness import Purpose, positional_integers
from cadc_rec.distributed.processes import Processes
from cadc_rec.models.sparse import weighted_sums
from cadc_rec.pretrain.alternating import Interactions
from cadc_rec.pretrain.factor_tables import FactorTable, ReplicatedTable
from cadc_rec.pretrain.kernels import Pattern

_AT_ONCE = 2**22  # logits held at once: 16 MB


class Rows:
    """The rows of one table that this rank solves, their interactions and their optimizer.

    Args:
        table: updated in place.
        indptr: CSR row pointers of the side's interactions, all rows.
        columns: the other side's index of each interaction, all rows.
        config: learning rate and L2.
    """

    def __init__(
        self,
        table: FactorTable,
        indptr: np.ndarray,
        columns: np.ndarray,
        config: PretrainConfig,
    ) -> None:
        self.table, self.l2, self.device = table, config.l2, table.local.device
        share = table.rows
        self.rows = slice(share.start, share.stop)
        first, last = int(indptr[share.start]), int(indptr[share.stop])
        index = np.int32 if last - first < 2**31 else np.int64
        self.crow, self.col = (
            torch.from_numpy(array.astype(index, copy=False)).to(self.device)
            for array in (indptr[share.start : share.stop + 1] - first, columns[first:last])
        )
        self.ones = torch.ones(len(self.col), device=self.device)
        self.count = self.crow.diff().to(table.local.dtype)
        self.local = nn.Parameter(table.local)  # shares the table's memory
        self.adam = torch.optim.Adam([self.local], lr=config.learning_rate, fused=True)

    def taken(self, other: FactorTable) -> torch.Tensor:
        """Sums of the other table's rows over this rank's interactions ``[own rows, dim]``."""
        found = torch.empty_like(self.local.detach())
        for rows, pattern, others in other.pieces(Pattern(self.crow, self.col)):
            ones = self.ones[: len(pattern.col)]
            found[rows] = weighted_sums(pattern.crow, pattern.col, ones, others)
        return found

    def step(self, gradient: torch.Tensor) -> None:
        """One Adam step along `gradient` ``[own rows, dim]`` and L2; the ranks exchange rows."""
        self.local.grad = gradient.add_(self.local.detach(), alpha=self.l2)
        self.adam.step()
        self.table.publish()


class SoftmaxSolver:
    """Trains both tables; `epochs()` yields after each epoch.

    Args:
        user: the users' table, updated in place.
        item: the items', a row's bias last.
        data: D_full.
        config: epochs, learning rate, L2, size of the sample.
        seed: of the initial vectors and of every epoch's samples.
        processes: the ranks that share the rows.
        warm: start from what the tables hold, not from the seed's vectors.
    """

    def __init__(
        self,
        user: FactorTable,
        item: FactorTable,
        data: Interactions,
        config: PretrainConfig,
        seed: int,
        processes: Processes,
        warm: bool = False,
    ) -> None:
        self.data, self.config, self.seed, self.processes = data, config, seed, processes
        for which, table in enumerate(() if warm else (user, item)):
            table.initialize((seed, Purpose.MF_INITIALIZATION, which), config.init_std)
        self.users = Rows(user, data.user_indptr, data.items_by_user, config)
        self.items = Rows(item, data.item_indptr, data.users_by_item, config)

    def epochs(self, done: int = 0) -> Iterator[float]:
        """Run the epochs that are not `done`; yields the mean loss of an interaction of each.

        Its sum over items is estimated.
        """
        for epoch in range(done, self.config.epochs):
            with torch.no_grad():
                gradient, loss = self.user_gradient(epoch)
                self.users.step(gradient)
                self.items.step(self.item_gradient(epoch))
            yield float(self.processes.all_reduce_sum(loss)) / max(len(self.data), 1)

    def user_gradient(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient of this rank's users ``[own rows, dim]``, and their summed loss."""
        side, item = self.users, self.items.table
        mine, gradient = _as_factors(side.local.detach()), side.taken(item).neg_()
        loss = (mine * gradient).sum(dtype=torch.float64)
        candidates = item.rows_at(self._sampled_items(epoch))
        missing = np.log(item.n / len(candidates))  # of every sum over items
        for rows in _chunks(len(mine), len(candidates)):
            logits = mine[rows] @ candidates.t()
            count = side.count[rows]
            loss += (count * (logits.logsumexp(1) + missing)).sum(dtype=torch.float64)
            share = logits.softmax(1).mul_(count[:, None])
            gradient[rows].addmm_(share, candidates)
        gradient[:, -1] = 0.0  # a user's bias
        return gradient, loss

    def item_gradient(self, epoch: int) -> torch.Tensor:
        """Gradient of this rank's items ``[own rows, dim]``."""
        sample, weight = self._sampled_users(epoch)
        users = _as_factors(self.users.table.rows_at(sample))
        taken = self.items.taken(self.users.table)
        taken[:, -1] = self.items.count  # of users' rows with 1 in place of the bias
        whole = isinstance(self.items.table, ReplicatedTable)
        pushed = self._pushed_of_users(users, weight) if whole else self._pushed(users, weight)
        return pushed.sub_(taken)

    def _pushed_of_users(self, users: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """What sampled users push this rank's items by; each rank takes its share of the users."""
        assert isinstance(self.items.table, ReplicatedTable)
        item = self.items.table.weight
        pushed = torch.zeros_like(item)
        share = self.processes.share(len(users))
        for rows in _chunks(len(share), len(item)):
            part = slice(share.start + rows.start, share.start + rows.stop)
            share_of = (users[part] @ item.t()).softmax(1).mul_(weight[part, None])
            pushed.addmm_(share_of.t(), users[part])
        return self.processes.all_reduce_sum(pushed)[self.items.rows]

    def _pushed(self, users: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The same where no rank has all items: each takes its own, for all of the users."""
        item = self.items.local.detach()
        pushed = torch.zeros_like(item)
        longest = -(-self.items.table.n // self.processes.world_size)
        for rows in _chunks(len(users), longest):  # as many on every rank
            logits = users[rows] @ item.t()
            lowest = torch.full((len(logits),), -torch.inf, device=item.device)
            most = logits.max(1).values if len(item) else lowest
            share_of = logits.sub_(self.processes.all_reduce_max(most)[:, None]).exp_()
            total = self.processes.all_reduce_sum(share_of.sum(1))
            share_of.mul_((weight[rows] / total)[:, None])
            pushed.addmm_(share_of.t(), users[rows])
        return pushed

    def _sampled_items(self, epoch: int) -> torch.Tensor:
        """The items that stand for all, int64; all of them where they are few."""
        count, n = self.config.shared_negatives, self.data.n_items
        key = (self.seed, Purpose.MF_NEGATIVE_ITEMS, epoch)
        drawn = positional_integers(key, 0, count, n) if count < n else np.arange(n)
        return torch.from_numpy(drawn).to(self.items.device)

    def _sampled_users(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The users that stand for all, int64, and for how many interactions each stands."""
        count, data = self.config.shared_negatives, self.data
        if count < data.n_users:
            key = (self.seed, Purpose.MF_NEGATIVE_USERS, epoch)
            drawn = data.users_by_item[positional_integers(key, 0, count, len(data))]
            weight = np.full(count, len(data) / count)
        else:
            drawn, weight = np.arange(data.n_users), np.diff(data.user_indptr)
        device = self.items.device
        return (
            torch.from_numpy(drawn.astype(np.int64)).to(device),
            torch.from_numpy(weight.astype(np.float32)).to(device),
        )


def _as_factors(user: torch.Tensor) -> torch.Tensor:
    """Users' rows with 1 in place of the bias, so that a dot product has the item's bias in it."""
    user = user.clone()
    user[:, -1] = 1.0
    return user


def _chunks(rows: int, width: int) -> Iterator[slice]:
    """Rows in pieces of at most `_AT_ONCE` logits, or of one row."""
    size = max(1, _AT_ONCE // max(1, width))
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))
