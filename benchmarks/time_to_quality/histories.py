"""Users' histories as arrays, and the batches of an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.data.dataset import NO_ITEM, Dataset

_SORTED_TOGETHER = 16  # batches


@dataclass(frozen=True)
class Histories:
    """Users' items, the earliest first; `NO_ITEM` stands behind those of a shorter history.

    Attributes:
        items: int32 ``[users, length]``.
        times: of these, whole seconds ``[users, length]``; None where a model asks for none.
    """

    items: NDArray[np.int32]
    times: NDArray[np.int64] | None = None

    @staticmethod
    def before_the_end(
        dataset: Dataset,
        length: int,
        with_validation: bool = False,
        users: NDArray[np.int64] | None = None,
        timed: bool = False,
    ) -> Histories:
        """The last items that are known of users (None for all).

        Args:
            dataset: whose D_full is known.
            length: items at most.
            with_validation: whether the validation item is known, too.
            users: their rows.
            timed: give the times as well.
        """
        rows = np.arange(dataset.n_users) if users is None else users
        items = dataset.last_items(length, with_validation, rows)
        if not timed:
            return Histories(earliest_first(items, items))
        places = dataset.user_indptr[rows + 1, None] - 1 - np.arange(length)
        times = dataset.train_timestamp[np.maximum(places, 0)]
        if with_validation:
            have = np.flatnonzero(dataset.val_item[rows] >= 0)
            times[have, 1:] = times[have, :-1]
            times[have, 0] = dataset.val_timestamp[rows[have]]
        times = np.where(items == NO_ITEM, 0, times).astype(np.int64)
        return Histories(earliest_first(items, items), earliest_first(times, items))

    def some(
        self, rows: slice | NDArray[np.int64], length: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The first places of some, as a model takes them: items and, where there are, times."""
        items = torch.from_numpy(self.items[rows, :length]).long()
        if self.times is None:
            return items, None
        return items, torch.from_numpy(self.times[rows, :length])


def earliest_first(values: NDArray[Any], latest_first: NDArray[np.int32]) -> NDArray[Any]:
    """`values` ``[users, length]`` of histories, turned round; where there was none, `NO_ITEM`."""
    count = (latest_first != NO_ITEM).sum(1)
    place = count[:, None] - 1 - np.arange(latest_first.shape[1])
    turned = np.take_along_axis(values, np.maximum(place, 0), 1)
    return np.where(place >= 0, turned, np.array(NO_ITEM, values.dtype))


def batches(lengths: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Rows of an epoch's batches: random ones of nearly the same length, so few places are empty.

    Args:
        lengths: of each row's sequence.
        size: rows of a batch.
    """
    found: list[torch.Tensor] = []
    for part in torch.randperm(len(lengths)).split(size * _SORTED_TOGETHER):
        found += part[lengths[part].argsort()].split(size)
    return [found[place] for place in torch.randperm(len(found)).tolist()]
