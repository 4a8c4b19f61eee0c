"""A step laid out on the device: what `PairBatches` makes, in fixed shapes.

In: a step's rows, filled up to as many as any step has, and how many of them are real. Out: a
`Batch` whose arrays have the same shape in every step, so that one CUDA graph can hold all steps.
Sorts, scans and searches only: nothing here waits for the device, and no shape depends on data.

What fills a step up: rows that are not real stand last, and their users and items are such as the
step itself has; places for different users and items that a step has not repeat the last one. So no
row of a table is touched that the step itself does not touch. `Batch.real` says which rows count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cadc_rec.data.load.batches import Batch, PairPattern
from cadc_rec.data.load.pair_batches import PairBatches

_NONE = 2**31 - 1  # sorts after every id


@dataclass(frozen=True)
class Rows:
    """A step's rows on the device.

    Attributes:
        users: int32 ``[B]``.
        items: int32 ``[B]``, the positives.
        places: ``[B]``, where each stands among the rank's examples.
        negatives: int32 ``[B, k]``, of each row; or int64 ``[N]``, that all share; maybe empty.
        count: int64 ``[]``, how many of the rows are real; they come first.
        positives: real rows over all ranks.
    """

    users: torch.Tensor
    items: torch.Tensor
    places: torch.Tensor
    negatives: torch.Tensor
    count: torch.Tensor
    positives: int

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All but the last."""
        return self.users, self.items, self.places, self.negatives, self.count


@dataclass(frozen=True)
class Distinct:
    """Different ids of a step.

    Attributes:
        values: int64 ``[most]``, ascending; the last one fills up.
        order: int64 ``[n]``, which id stands where once they are sorted.
        place: int64 ``[n]``, where each sorted id is among the values.
        ends: int64 ``[most + 1]``, where the sorted ids of each value begin.
    """

    values: torch.Tensor
    order: torch.Tensor
    place: torch.Tensor
    ends: torch.Tensor

    def unsorted(self) -> torch.Tensor:
        """Where each id is among the values, in the order they were given in."""
        return torch.empty_like(self.place).scatter_(0, self.order, self.place)


def distinct(
    ids: torch.Tensor, beyond: torch.Tensor, count: torch.Tensor, numbers: torch.Tensor
) -> Distinct:
    """The different ones of ids.

    Args:
        ids: int32 ``[n]``, at least 0.
        beyond: bool ``[n]``, which of them only fill up.
        count: int64 ``[]``, how many do not, at least 1.
        numbers: int64, 0 to the most values there can be.
    """
    keys, order = ids.masked_fill(beyond, _NONE).sort(stable=True)
    new = (keys[1:] != keys[:-1]) & (keys[1:] != _NONE)
    place = torch.zeros_like(order)
    torch.cumsum(new, 0, out=place[1:])
    ends = torch.searchsorted(place, numbers)
    values = keys[torch.minimum(ends[:-1], count - 1)].long()
    return Distinct(values, order, place, ends)


class PairLayout:
    """Positives with negatives of their own; the device form of `PairBatches`.

    Args:
        arrange: its host form.
        rows: of a step.
        n_users: different users of a step at most.
        device: where steps are made.
    """

    def __init__(self, arrange: PairBatches, rows: int, n_users: int, device: torch.device) -> None:
        self.by_example, self.n_items = arrange.by_example, arrange.n_items
        self.whole, self.width = arrange.everything is not None, 1 + arrange.negatives
        self.numbers = torch.arange(rows, device=device)
        most = rows if self.by_example else min(rows, n_users)
        self.user_numbers = torch.arange(most + 1, device=device)
        if self.whole:
            self.everything = torch.arange(self.n_items, device=device)
            self.item_numbers = torch.arange(self.n_items + 1, dtype=torch.int32, device=device)
        else:
            most = min(self.n_items, rows * self.width)
            self.item_numbers = torch.arange(most + 1, device=device)

    def __call__(self, step: Rows) -> Batch[torch.Tensor]:
        """The step, see `cadc_rec.data.load.batches`."""
        count = step.count.clamp(min=1)  # of what is laid out; `real` alone knows of no row
        beyond = self.numbers >= count
        pairs = torch.cat([step.items[:, None], step.negatives], 1)
        if self.by_example:
            users = torch.where(beyond, step.users[:1], step.users).long()
            row_of, starts = self.numbers, self.user_numbers
        else:
            found = distinct(step.users, beyond, count, self.user_numbers)
            users, row_of, starts = found.values, found.place, found.ends
            pairs = pairs[found.order]
        items, col, item_crow, order = self._items(pairs, beyond, count)
        return Batch(
            users=users,
            items=items,
            positives=step.positives,
            rows=step.places.long() if self.by_example else None,
            whole=self.whole,
            pattern=PairPattern(
                crow=(starts * self.width).int(),
                col=col,
                item_crow=item_crow,
                item_col=row_of[order // self.width].int(),
                to_item_order=order,
            ),
            real=self.numbers < step.count,
        )

    def _items(
        self, pairs: torch.Tensor, beyond: torch.Tensor, count: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The step's items, the place of each pair's, row pointers, pairs in the items' order."""
        if self.whole:
            col = pairs.masked_fill(beyond[:, None], self.n_items - 1).flatten()
            ids, order = col.sort(stable=True)
            crow = torch.searchsorted(ids, self.item_numbers, out_int32=True)
            return self.everything, col, crow, order
        more = beyond[:, None].expand_as(pairs).flatten()
        found = distinct(pairs.flatten(), more, count * self.width, self.item_numbers)
        return found.values, found.unsorted().int(), found.ends.int(), found.order
