"""How often each item stands among a user's K best, counted while held-out items are ranked.

In: a block of scores, formed in float32, without the excluded items. Out: counts an item, by K.
As in ranking, scores count as formed in float64; of equal scores the lower row comes first. So the
counts do not depend on blocks, processes or devices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

_SPARE = 6  # items kept beyond K: the scores of nearly all users stand apart by then
_ELEMENTS = 4_000_000  # of items' vectors held at once in float64: 32 MB


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

    def add(
        self,
        scores: torch.Tensor,
        users: torch.Tensor,
        items: torch.Tensor,
        doubt: torch.Tensor,
        listed: torch.Tensor | None = None,
    ) -> None:
        """Count a block of users.

        Args:
            scores: float32 ``[n, n_items]``; minus infinity for what is no candidate.
            users: their vectors ``[n, d]``.
            items: all items' vectors ``[n_items, d]``.
            doubt: how far from its exact value a user's score may be; float64 ``[n]``.
            listed: float32 ``[n, n_items]``, part of `scores` beside the dot products.
        """
        kept = min(self.ks[-1] + _SPARE, scores.shape[1])
        at_once = max(1, _ELEMENTS // (kept * items.shape[1]))
        for start in range(0, len(users), at_once):
            part = slice(start, start + at_once)
            more = None if listed is None else listed[part]
            best = self._best(scores[part], users[part], items, doubt[part], more, kept)
            for n, k in enumerate(self.ks):
                rows = best[:, :k]
                rows = rows[rows >= 0].cpu()
                self.counts[n] += torch.bincount(rows, minlength=self.counts.shape[1])

    def _best(
        self,
        scores: torch.Tensor,
        users: torch.Tensor,
        items: torch.Tensor,
        doubt: torch.Tensor,
        listed: torch.Tensor | None,
        kept: int,
    ) -> torch.Tensor:
        """Rows ``[n, k]`` of the largest k, the best first; -1 after the last candidate."""
        k = min(self.ks[-1], scores.shape[1])
        rows = scores.topk(kept, sorted=False).indices.sort(1).values
        near = scores.gather(1, rows)
        exact = (users.double()[:, None] * items[rows].double()).sum(2)
        if listed is not None:
            exact += listed.gather(1, rows).double()
        exact[near == -torch.inf] = -torch.inf
        exact, order = exact.sort(dim=1, descending=True, stable=True)
        exact, best = exact[:, :k], rows.gather(1, order[:, :k])
        best[exact == -torch.inf] = -1
        if kept == scores.shape[1]:
            return best
        # What was not kept is at most the least that was, by float32, and so at most this:
        beyond = near.min(1).values.double() + 2 * doubt  # twice, for the sum is rounded too
        unsure = (exact[:, -1] <= beyond) & (exact[:, -1] > -torch.inf)
        for n in unsure.nonzero()[:, 0].tolist():
            least = exact[n, -1] - 2 * doubt[n]
            close = ((scores[n] >= least) & (scores[n] > -torch.inf)).nonzero()[:, 0]
            again = (users[n].double() * items[close].double()).sum(1)
            if listed is not None:
                again += listed[n, close].double()
            best[n] = close[again.sort(descending=True, stable=True).indices[:k]]
        return best
