"""How often each item stands among a user's K best, counted while held-out items are ranked.

In: a block of scores, formed in float32, without the excluded items. Out: counts an item, by K.
As in ranking, scores count as formed in float64; of equal scores the lower row comes first. So the
counts do not depend on blocks, processes or devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.distributed.processes import Processes

_SPARE = 6  # items kept beyond K: the scores of nearly all users stand apart by then
_ALIKE = 1024  # rows: a GPU adds up the elements of a few rows in another order than of many
_ELEMENTS = 4_000_000  # of items' vectors held at once in float64: 32 MB


def exact_scores(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Dot products ``[n]`` of rows of ``[n, d]`` (or ``[1, d]``) and ``[n, d]``, in float64.

    Those of a pair are the same bits, whatever other pairs are asked for.
    """
    products = users.double() * items.double()
    if products.device.type != "cpu" and len(products) < _ALIKE:
        products = torch.nn.functional.pad(products, (0, 0, 0, _ALIKE - len(products)))
    return products.sum(1)[: len(items)]


@dataclass(frozen=True)
class Best:
    """The best candidates of some users, the best first.

    Attributes:
        exact: scores, float64 ``[n, k]``; minus infinity after the last candidate.
        rows: items, int64 ``[n, k]``; -1 after the last candidate.
    """

    exact: torch.Tensor
    rows: torch.Tensor

    def moved(self, by: int) -> Best:
        """The same with higher rows."""
        return Best(self.exact, torch.where(self.rows < 0, self.rows, self.rows + by))


class TopItems:
    """Counts over the users that are added.

    Args:
        ks: the cut-offs.
        n_items: columns of the scores.
    """

    def __init__(self, ks: Sequence[int], n_items: int) -> None:
        self.ks = sorted(set(ks))
        self.counts = torch.zeros(len(self.ks), n_items, dtype=torch.int64)

    def of_ks(self) -> dict[int, NDArray[np.int64]]:
        """For each K, in how many lists each item stands; ``[n_items]``."""
        return dict(zip(self.ks, self.counts.numpy(), strict=True))

    def none_yet(self, users: int, device: torch.device) -> Best:
        """The best of no candidates at all."""
        shape = (users, self.ks[-1])
        exact = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
        return Best(exact, torch.full(shape, -1, device=device))

    def better(self, best: Best, others: Best) -> Best:
        """The best of both, whose candidates differ; those of `others` have the higher rows."""
        exact = torch.cat([best.exact, others.exact], 1)
        exact, order = exact.sort(dim=1, descending=True, stable=True)
        kept = slice(0, self.ks[-1])
        rows = torch.cat([best.rows, others.rows], 1)
        return Best(exact[:, kept], rows.gather(1, order[:, kept]))

    def of_all(self, best: Best, processes: Processes) -> Best:
        """The best of all processes' candidates; a later process has the higher rows."""
        shape = (processes.world_size, *best.rows.shape)
        exact, rows = best.exact.new_zeros(shape), best.rows.new_zeros(shape)
        exact[processes.rank], rows[processes.rank] = best.exact, best.rows
        processes.all_reduce_sum(exact)
        processes.all_reduce_sum(rows)
        for n in range(processes.world_size):
            of_rank = Best(exact[n], rows[n])
            best = of_rank if n == 0 else self.better(best, of_rank)
        return best

    def add(self, best: Best) -> None:
        """Count a block of users."""
        for n, k in enumerate(self.ks):
            rows = best.rows[:, :k]
            rows = rows[rows >= 0].cpu()
            self.counts[n] += torch.bincount(rows, minlength=self.counts.shape[1])

    def best(
        self,
        scores: torch.Tensor,
        users: torch.Tensor,
        items: torch.Tensor,
        doubt: torch.Tensor,
        listed: torch.Tensor | None = None,
    ) -> Best:
        """The best candidates of a block of users.

        Args:
            scores: float32 ``[n, m]``; minus infinity for what is no candidate.
            users: their vectors ``[n, d]``.
            items: the items' vectors ``[m, d]``.
            doubt: how far from its exact value a user's score may be; float64 ``[n]``.
            listed: float32 ``[n, m]``, part of `scores` beside the dot products.
        """
        kept = min(self.ks[-1] + _SPARE, scores.shape[1])
        at_once = max(1, _ELEMENTS // (kept * items.shape[1]))
        parts = []
        for start in range(0, len(users), at_once):
            part = slice(start, start + at_once)
            more = None if listed is None else listed[part]
            parts.append(self._best(scores[part], users[part], items, doubt[part], more, kept))
        return Best(torch.cat([p.exact for p in parts]), torch.cat([p.rows for p in parts]))

    def _best(
        self,
        scores: torch.Tensor,
        users: torch.Tensor,
        items: torch.Tensor,
        doubt: torch.Tensor,
        listed: torch.Tensor | None,
        kept: int,
    ) -> Best:
        k = min(self.ks[-1], scores.shape[1])
        rows = scores.topk(kept, sorted=False).indices.sort(1).values
        near = scores.gather(1, rows)
        pairs = users.repeat_interleave(kept, 0), items[rows.view(-1)]
        exact = exact_scores(*pairs).view(rows.shape)
        if listed is not None:
            exact += listed.gather(1, rows).double()
        exact[near == -torch.inf] = -torch.inf
        exact, order = exact.sort(dim=1, descending=True, stable=True)
        exact, best = exact[:, :k], rows.gather(1, order[:, :k])
        best[exact == -torch.inf] = -1
        if kept == scores.shape[1]:
            return Best(exact, best)
        # What was not kept is at most the least that was, by float32, and so at most this:
        beyond = near.min(1).values.double() + 2 * doubt  # twice, for the sum is rounded too
        unsure = (exact[:, -1] <= beyond) & (exact[:, -1] > -torch.inf)
        for n in unsure.nonzero()[:, 0].tolist():
            least = exact[n, -1] - 2 * doubt[n]
            close = ((scores[n] >= least) & (scores[n] > -torch.inf)).nonzero()[:, 0]
            again = exact_scores(users[n : n + 1], items[close])
            if listed is not None:
                again += listed[n, close].double()
            again, order = again.sort(descending=True, stable=True)
            exact[n], best[n] = again[:k], close[order[:k]]
        return Best(exact, best)
