"""What every item's lists say of histories, as a module: tensors alone, on any device, scriptable.

In: histories and candidates as jagged features. Out: the scores that are added to dot products,
with the bits of `cadc_rec.data.transition_lists.ListedScores`. TorchScript reads the annotations
below, and none that are strings: hence no `from __future__ import annotations`.
"""

import numpy as np
import torch
from torch import nn

from cadc_rec.data.transition_lists import ListedScores


class ListScores(nn.Module):
    """Scores of lists.

    The places of a history are added one after the other, so that no device changes the order.

    Args:
        listed: the lists and how a history weighs them.
    """

    crow: torch.Tensor
    keys: torch.Tensor
    weights: torch.Tensor
    shares: torch.Tensor

    def __init__(self, listed: ListedScores) -> None:
        super().__init__()
        matrix, n = listed.lists.matrix, listed.lists.n_items
        self.n_items, self.length = n, listed.length
        self.factor = float(np.float32(listed.factor))
        self.register_buffer("crow", torch.from_numpy(matrix.indptr.astype(np.int64)))
        # Item and target as one number, ascending, so that a pair can be searched for; the last is
        # above all others, so that every search ends at an entry.
        source = np.repeat(np.arange(n, dtype=np.int64), np.diff(matrix.indptr))
        keys = np.append(source * n + matrix.indices, np.iinfo(np.int64).max)
        self.register_buffer("keys", torch.from_numpy(keys))
        weights = np.append(matrix.data, np.float32(0))
        self.register_buffer("weights", torch.from_numpy(weights))
        # What each place of a history counts, by the number of its items.
        known = np.arange(listed.length) < np.arange(listed.length + 1)[:, None]
        shares = np.where(known, listed.decay ** np.arange(listed.length), 0.0)
        shares /= np.maximum(shares.sum(1, keepdims=True), 1e-12)
        self.register_buffer("shares", torch.from_numpy(shares.astype(np.float32)))

    def forward(
        self,
        history_lengths: torch.Tensor,
        history: torch.Tensor,
        item_lengths: torch.Tensor,
        items: torch.Tensor,
    ) -> torch.Tensor:
        """Scores float32 ``[candidates]``, in the order of `items`.

        An item beyond the lists has none and scores 0.

        Args:
            history_lengths: ``[n]``, items of each row's history; the latest ones count.
            history: ``[histories]``, int64, of each row the latest item first.
            item_lengths: ``[n]``, candidates of each row.
            items: ``[candidates]``, int64, of each row.
        """
        places, shares = self._histories(history_lengths, history)
        rows = torch.arange(len(item_lengths), device=items.device)
        row = torch.repeat_interleave(rows, item_lengths.long())
        there = (items >= 0) & (items < self.n_items)
        total = torch.zeros(len(items), device=items.device)
        for place in range(self.length):
            source = places[row, place]
            key = source * self.n_items + items
            found = torch.searchsorted(self.keys, key)
            hit = there & (source >= 0) & (self.keys[found] == key)
            weight = torch.where(hit, self.weights[found], torch.zeros_like(total))
            total = total + shares[row, place] * weight
        return total * self.factor

    @torch.jit.export
    def of_all(self, history_lengths: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        """Scores of all items, float32 ``[n, n_items]``; arguments as in `forward`."""
        places, shares = self._histories(history_lengths, history)
        rows = torch.arange(len(history_lengths), device=history.device)
        total = torch.zeros(len(history_lengths) * self.n_items, device=history.device)
        for place in range(self.length):
            row = rows[places[:, place] >= 0]
            source = places[row, place]
            counts = self.crow[source + 1] - self.crow[source]
            ends = counts.cumsum(0)
            # Places of all entries of the lists, one list after the other.
            entry = torch.arange(int(counts.sum()), device=history.device)
            entry = entry + torch.repeat_interleave(self.crow[source] - (ends - counts), counts)
            row = torch.repeat_interleave(row, counts)
            target = self.keys[entry] % self.n_items
            # No sum has two of these, so that their order does not matter.
            total.index_add_(
                0, row * self.n_items + target, shares[row, place] * self.weights[entry]
            )
        return (total * self.factor).view(-1, self.n_items)

    def _histories(
        self, lengths: torch.Tensor, history: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Items ``[n, L]``, -1 where there is none or none with a list, and what they count."""
        lengths = lengths.long()
        there = torch.arange(self.length, device=history.device) < lengths[:, None]
        starts = lengths.cumsum(0) - lengths
        at = starts[:, None] + torch.arange(self.length, device=history.device)
        values = torch.cat([history, torch.full_like(lengths[:1], -1)])  # there may be none
        items = values[torch.where(there, at, torch.full_like(at, len(history)))]
        known = (items >= 0) & (items < self.n_items)
        return torch.where(known, items, -1), self.shares[lengths.clamp(max=self.length)]
