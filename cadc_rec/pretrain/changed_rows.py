"""Matrix factorization of some rows only: the others stay, and those are solved against them.

With the items fixed the loss falls apart into one problem a user (`pretrain.alternating`), so a
user whose interactions did not change need not be looked at again while the items stand still. A
half-step here is one Adam step on the chosen rows of a side, with their own interactions and fresh
negatives, against the other side's whole table; the global bias is fixed. The learning rate falls
linearly to its end: most rows changed by a few interactions of many, and at a constant rate the
noise of the negatives would move them further than what is new.

In: two tables as they stand, D_full, the rows that changed. Out: those rows, moved in place.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from cadc_rec.config.experiment import PretrainConfig
from cadc_rec.data.randomness import Key, positional_integers
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
    ) -> None:
        self.user, self.item, self.data, self.config, self.key = user, item, data, config, key
        self.bias = torch.tensor(bias, dtype=user.dtype, device=user.device)
        self._users = _Chosen(user, users, data.user_indptr, data.items_by_user, config)
        self._items = _Chosen(item, items, data.item_indptr, data.users_by_item, config)

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
        columns = positional_integers(
            (*self.key, 0, epoch), 0, int(pointers[-1]), self.data.n_items
        )
        return _pattern(pointers, columns, self.user.device)

    def _negative_users(self, epoch: int) -> Pattern:
        """Users in proportion to their activity, as many for each item as for any other."""
        total, chosen = len(self.data) * self.config.negatives, len(self._items.rows)
        pointers = np.arange(chosen + 1) * total // self.data.n_items
        places = positional_integers(
            (*self.key, 1, epoch), 0, int(pointers[-1]), max(len(self.data), 1)
        )
        return _pattern(pointers, self.data.users_by_item[places], self.item.device)


class _Chosen:
    """Some rows of a table, their positives and their optimizer."""

    def __init__(
        self,
        table: torch.Tensor,
        rows: np.ndarray,
        indptr: np.ndarray,
        columns: np.ndarray,
        config: PretrainConfig,
    ) -> None:
        self.table, self.l2 = table, config.l2
        self.rows = torch.from_numpy(rows.astype(np.int64)).to(table.device)
        counts = np.diff(indptr)[rows]
        self.pointers = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places = np.repeat(indptr[rows] - self.pointers[:-1], counts)
        own = columns[places + np.arange(self.pointers[-1])]
        self.positives = _pattern(self.pointers, own, table.device)
        self.local = nn.Parameter(table[self.rows])
        self.adam = torch.optim.Adam([self.local], lr=config.learning_rate, fused=True)

    def step(self, other: torch.Tensor, bias: torch.Tensor, negatives: Pattern) -> None:
        """One Adam step on the rows with the other side fixed."""
        if not len(self.rows):
            return
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
        self.table[self.rows] = self.local.detach()


def _pattern(pointers: np.ndarray, columns: np.ndarray, device: torch.device) -> Pattern:
    """Row pointers and columns in one integer type."""
    index = np.int32 if len(columns) < 2**31 else np.int64
    crow, col = (torch.from_numpy(a.astype(index)).to(device) for a in (pointers, columns))
    return Pattern(crow, col)
