"""The scores of transition lists at a few items, or all, for some of many histories.

In: histories, such as those of a rank's examples. Out: of some of them, float32 ``[n, m]`` at m
items, formed anew in each step of training: kept, they would take as much memory as a row of the
catalogue for every example.

The lists have counted the example itself, too. Taking its own counts out of the score of its own
item was tried on a long and on a short log, with no gain on either; so they are left in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.compiled import compiled
from cadc_rec.data.transition_lists import TransitionLists

_LEAST = 1e-4  # of the latest item's weight; places further back than that are left out


class ListedExamples:
    """What the lists say of candidates after each of many histories, before any factor.

    Args:
        lists: every item's targets.
        decay: what each place further back multiplies the weight of an item by.
        history: int32 ``[rows, L]``, the latest item first.
    """

    def __init__(self, lists: TransitionLists, decay: float, history: NDArray[np.int32]) -> None:
        self.lists, self.history = lists, history
        weights = decay ** np.arange(history.shape[1])
        self.weights = weights[weights >= _LEAST].astype(np.float32)
        self._places = np.full(lists.n_items, -1, np.int32)

    def of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """After the histories `rows`, ``[n]``, at different `items`, ``[m]``: ``[n, m]``."""
        found = np.zeros((len(rows), len(items)), np.float32)
        lists, candidates = self.lists, items.numpy()
        self._places[candidates] = np.arange(len(candidates), dtype=np.int32)
        history = np.ascontiguousarray(self.history[rows.numpy(), : len(self.weights)])
        _add(history, self.weights, lists.indptr, lists.items, lists.weights, self._places, found)
        self._places[candidates] = -1
        return torch.from_numpy(found)


def compile_listed() -> None:
    """Compile the loop now, so that no stage's time includes the second it takes."""
    lists = TransitionLists(np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    one = torch.zeros(1, dtype=torch.int64)
    ListedExamples(lists, 1.0, np.zeros((1, 1), np.int32)).of(one, one)


@compiled(nogil=True)
def _add(
    history: Any, decays: Any, indptr: Any, targets: Any, weights: Any, places: Any, into: Any
) -> None:
    """Add up the weighted lists of each row's history where their targets are candidates."""
    for row in range(len(history)):
        total = np.float32(0)
        for j in range(history.shape[1]):
            if history[row, j] >= 0:
                total += decays[j]
        for j in range(history.shape[1]):
            item = history[row, j]
            if item < 0:
                continue
            share = decays[j] / total
            for k in range(indptr[item], indptr[item + 1]):
                place = places[targets[k]]
                if place >= 0:
                    into[row, place] += share * weights[k]
