"""Negatives drawn on the device: those of `cadc_rec.data.load`, to the bit.

In: what items weigh and what users know, uploaded once; a stream's key and a place in it. Out: item
ids. A loop that NumPy's side runs draw by draw is here a search of all draws at once.
"""

from __future__ import annotations

import torch

from cadc_rec.data.load.batches import Negatives
from cadc_rec.data.load.negatives import WeightedNegatives
from cadc_rec.data.randomness import Key
from cadc_rec.training.batches import philox


class DeviceNegatives:
    """What negatives are drawn from, on a device.

    Args:
        n_items: items there are.
        draws: the distribution; None draws all items alike.
        device: where to draw.
    """

    def __init__(self, n_items: int, draws: Negatives | None, device: torch.device) -> None:
        assert draws is None or isinstance(draws, WeightedNegatives)
        self.device, self.below = device, n_items if draws is None else draws.total
        self.ends: torch.Tensor | None = None
        self.known: _Known | None = None
        if draws is not None:
            self.ends = torch.from_numpy(draws.ends).to(device)
            if draws.known is not None:
                self.known = _Known(draws, device)

    def of_rows(self, key: Key, start: int, users: torch.Tensor, k: int) -> torch.Tensor:
        """Negatives of consecutive rows of a stream, int32 ``[B, k]``.

        Args:
            key: of the stream.
            start: how many rows come before.
            users: int32 ``[B]``, of the rows.
            k: negatives of each.
        """
        count = len(users) * k
        if self.known is None:
            return self.shared(key, start * k, count).int().view(-1, k)
        assert self.ends is not None
        fractions = philox.fractions(key, start * k, count, self.device).view(-1, k)
        return self._items(self.known.place(fractions, users, self.ends)).int()

    def shared(self, key: Key, start: int, count: int) -> torch.Tensor:
        """Elements ``start .. start + count`` of a stream, int64."""
        drawn = philox.integers(key, start, count, self.below, self.device)
        return drawn if self.ends is None else self._items(drawn)

    def _items(self, drawn: torch.Tensor) -> torch.Tensor:
        """The items in whose stretches of the line these numbers fall."""
        assert self.ends is not None
        return torch.searchsorted(self.ends, drawn, right=True) - 1


class _Known:
    """What each user knows, cut out of the line of all items; see `WeightedNegatives`."""

    def __init__(self, draws: WeightedNegatives, device: torch.device) -> None:
        assert draws.known is not None
        arrays = draws.known.indptr, draws.known.items, draws.before, draws.free
        self.indptr, self.items, self.before, self.free = (
            torch.from_numpy(array).to(device) for array in arrays
        )
        most = int((draws.known.indptr[1:] - draws.known.indptr[:-1]).max(initial=0))
        self.halvings = most.bit_length()

    def place(
        self, fractions: torch.Tensor, users: torch.Tensor, ends: torch.Tensor
    ) -> torch.Tensor:
        """Numbers on the line that are none of the user's, int64 ``[B, k]``."""
        who = users.long()[:, None]
        room = self.free[who]
        x = torch.minimum((fractions * room).long(), room - 1)
        first = self.indptr[who]
        low, high = first.expand_as(x), self.indptr[who + 1].expand_as(x)
        last = len(self.items) - 1
        if last < 0:
            return x
        for _ in range(self.halvings):  # to the first known item with more than x before it
            middle = (low + high) >> 1
            right = (self.before[middle.clamp(max=last)] <= x) & (low < high)
            low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
        at = (low - 1).clamp(min=0)
        moved = x + ends[self.items[at].long() + 1] - self.before[at]
        return torch.where(low > first, moved, x)
