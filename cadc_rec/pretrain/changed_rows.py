"""Matrix factorization of some rows only: the others stay, and those are solved against them.

With the items fixed the loss falls apart into one problem a user (`pretrain.alternating`), so a
user whose interactions did not change need not be looked at again while the items stand still. A
half-step here is one Adam step on the chosen rows of a side, with their own interactions and fresh
negatives, against the other side's whole table; the global bias is fixed. The learning rate falls
linearly to its end: most rows changed by a few interactions of many, and at a constant rate the
noise of the negatives would move them further than what is new.

In: two tables as they stand, D_full, the rows that changed. Out: those rows, moved in place. Each
rank moves a share of them, and the ranks exchange these after each half-step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from cadc_rec.config.experiment import PretrainConfig
from cadc_rec.data.randomness import Key, positional_integers
from cadc_rec.distributed.processes import Processes
from cadc_rec.pretrain.alternating import Interactions
from cadc_rec.pretrain.kernels import Pattern, torch_gradient


class ChangedRows:
    """Solves the rows of both tables that changed, binary cross-entropy.

    Args:
        user: ``[n_users, dim]``, a row's bias last; the chosen rows are updated in place.
        item: ``[n_items, dim]``, likewise.
        bias: the global bias.
        data: D_full.
        users: rows of `user` to solve, ascending.
        items: rows of `item`, ascending.
        config: learning rate, L2, negatives.
        key: (seed, purpose, place...) of the negatives.
        processes: the ranks, each of which has both tables.
    """

    def __init__(
        self,
        user: torch.Tensor,
        item: torch.Tensor,
        bias: float,
        data: Interactions,
        users: np.ndarray,
        items: np.ndarray,
        config: PretrainConfig,
        key: Key,
        processes: Processes,
    ) -> None:
        self.user, self.item, self.data, self.config, self.key = user, item, data, config, key
        self.bias = torch.tensor(bias, dtype=user.dtype, device=user.device)
        self._users = _Chosen(user, users, data.user_indptr, data.items_by_user, config, processes)
        self._items = _Chosen(item, items, data.item_indptr, data.users_by_item, config, processes)

    def epochs(self, count: int) -> Iterator[None]:
        """`count` times: a half-step of the chosen users, then one of the chosen items."""
        for epoch in range(count):
            for side in (self._users, self._items):
                side.adam.param_groups[0]["lr"] = self.config.learning_rate * (1 - epoch / count)
            self._users.step(self.item, self.bias, self._negative_items(epoch))
            self._items.step(self.user, self.bias, self._negative_users(epoch))
            yield

    def _negative_items(self, epoch: int) -> Pattern:
        """For each positive of a chosen user, `negatives` uniform items."""
        pointers = self._users.pointers * self.config.negatives
        columns = positional_integers((*self.key, 0, epoch), *_span(pointers), self.data.n_items)
        return _pattern(pointers, columns, self.user.device)

    def _negative_users(self, epoch: int) -> Pattern:
        """Users in proportion to their activity, as many for each item as for any other."""
        total, mine = len(self.data) * self.config.negatives, self._items.share
        pointers = np.arange(mine.start, mine.stop + 1) * total // self.data.n_items
        places = positional_integers(
            (*self.key, 1, epoch), *_span(pointers), max(len(self.data), 1)
        )
        return _pattern(pointers, self.data.users_by_item[places], self.item.device)


class _Chosen:
    """Some rows of a table; of this rank's share, their positives and their optimizer.

    Attributes:
        share: places of this rank's rows among the chosen.
        pointers: where each of these rows' positives begin among those of all chosen rows.
    """

    def __init__(
        self,
        table: torch.Tensor,
        rows: np.ndarray,
        indptr: np.ndarray,
        columns: np.ndarray,
        config: PretrainConfig,
        processes: Processes,
    ) -> None:
        self.table, self.l2, self.processes = table, config.l2, processes
        self.rows = torch.from_numpy(rows.astype(np.int64)).to(table.device)
        self.share = processes.share(len(rows))
        counts = np.diff(indptr)[rows]
        every = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        part = slice(self.share.start, self.share.stop)
        rows, counts = rows[part], counts[part]
        # Counted over all chosen rows, so that a row's negatives are the same on any rank.
        self.pointers = every[self.share.start : self.share.stop + 1]
        places = np.repeat(indptr[rows] - self.pointers[:-1], counts)
        own = columns[places + np.arange(self.pointers[0], self.pointers[-1])]
        self.positives = _pattern(self.pointers, own, table.device)
        self.local = nn.Parameter(table[self.rows[part]])
        self.adam = torch.optim.Adam([self.local], lr=config.learning_rate, fused=True)

    def step(self, other: torch.Tensor, bias: torch.Tensor, negatives: Pattern) -> None:
        """One Adam step on the rows with the other side fixed."""
        if not len(self.rows):
            return
        if len(self.share):
            self._move(other, bias, negatives)
        found = self.processes.all_gather_rows(self.local.detach(), len(self.rows))
        self.table[self.rows] = found

    def _move(self, other: torch.Tensor, bias: torch.Tensor, negatives: Pattern) -> None:
        """The step of this rank's rows."""
        with torch.no_grad():
            others = other.clone()
            others[:, -1] = 1.0  # a row's own bias is its last element
            other_bias = other[:, -1].contiguous()
            mine = self.local.detach()
            total = self.l2 * mine
            for pattern, label in ((self.positives, 1.0), (negatives, 0.0)):
                torch_gradient(pattern, label, mine, others, other_bias, bias, total)
        self.local.grad = total
        self.adam.step()


def _span(pointers: np.ndarray) -> tuple[int, int]:
    """Where the entries of these rows begin in a sequence of all, and how many there are."""
    return int(pointers[0]), int(pointers[-1] - pointers[0])


def _pattern(pointers: np.ndarray, columns: np.ndarray, device: torch.device) -> Pattern:
    """Row pointers, from 0, and columns in one integer type."""
    pointers = pointers - pointers[0]
    index = np.int32 if len(columns) < 2**31 else np.int64
    crow, col = (torch.from_numpy(a.astype(index)).to(device) for a in (pointers, columns))
    return Pattern(crow, col)
