"""Known scores formed on the device that trains, by torch's operations and without a read-back.

In: the examples of `known_scores`. Out: the same scores, but for the last bits.
"""

from __future__ import annotations

import numpy as np
import torch

from cadc_rec.models.forward import Scores
from cadc_rec.models.known_scores import KnownScores, ListedExamples, RecentExamples

_ENTRIES = 2**24  # of lists or of scores looked at once: half a GiB of what they need


def on_device(
    examples: ListedExamples | RecentExamples, device: torch.device, limit_bytes: int
) -> KnownScores:
    """Examples whose scores are formed on `device`.

    They stay as they are on CPU, or if what they read would take more than the limit there.
    """
    if isinstance(examples, ListedExamples):
        lists = examples.lists
        history = examples.history[:, : len(examples.weights)]
        read = (lists.indptr, lists.items, lists.weights, history)
        held = sum(array.nbytes for array in read)
    else:
        held = 8 * len(examples.log.items) + examples.starts.nbytes + examples.ends.nbytes
    if device.type == "cpu" or held > limit_bytes:
        return examples
    if isinstance(examples, ListedExamples):
        return ListedOnDevice(examples, device)
    return RecentOnDevice(examples, device)


class ListedOnDevice:
    """`ListedExamples` by torch's operations: the same sums in one order, and no read-back.

    Args:
        examples: lists and histories, which are copied to the device.
        device: where scores are formed.
    """

    def __init__(self, examples: ListedExamples, device: torch.device) -> None:
        lists, self.rows, self.device = examples.lists, examples.rows, device
        self.n_items, self.longest = lists.n_items, int(np.diff(lists.indptr).max(initial=0))
        self.decays: list[float] = examples.weights.tolist()
        history = np.ascontiguousarray(examples.history[:, : len(self.decays)])
        arrays = history, lists.indptr, lists.items, lists.weights
        self._history, self._indptr, self._targets, self._weights = (
            torch.tensor(array, device=device) for array in arrays
        )

    def read_from(self, history: torch.Tensor) -> None:
        """Read the same histories, int32 ``[rows, L]``, from a tensor that the device has anyway.

        The copy made before is given up.
        """
        self._history = history[:, : len(self.decays)]

    def of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """See `KnownScores`."""
        items = items.to(self.device)
        return self._at(rows, items, items.new_full((len(rows),), -1))[0]

    def with_own(
        self, rows: torch.Tensor, items: torch.Tensor, negatives: torch.Tensor, own: torch.Tensor
    ) -> Scores:
        """See `KnownScores`."""
        items = items.to(self.device)
        chosen = items[negatives.to(self.device)], items[own.to(self.device)]
        return Scores(*self._at(rows, *chosen))

    def _at(
        self, rows: torch.Tensor, items: torch.Tensor, own: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """At `items`, some of them perhaps several times, and at each row's own item, if any."""
        history = self._history[rows.to(self.device)]
        found = torch.zeros(len(history), len(items), device=self.device)
        of_own = torch.zeros(len(history), device=self.device)
        if not self.longest:
            return found, of_own
        places = torch.full((self.n_items,), -1, device=self.device)
        places[items] = torch.arange(len(items), device=self.device)
        at_once = max(1, _ENTRIES // self.longest)
        parts = (each.split(at_once) for each in (history, own, found, of_own))
        for some, theirs, into, into_own in zip(*parts, strict=True):
            self._add(some, theirs, places, into, into_own)
        return found[:, places[items]], of_own  # an item that comes again has one column's sums

    def _add(
        self,
        history: torch.Tensor,
        own: torch.Tensor,
        places: torch.Tensor,
        into: torch.Tensor,
        into_own: torch.Tensor,
    ) -> None:
        """Add up the lists of histories ``[n, L]``, a place of the history after the other.

        A list names an item once, so no two additions at a time meet in one element of `into`, but
        those of nothing, and the order of additions is always the same.
        """
        known = history >= 0
        total = torch.zeros(len(history), device=self.device)
        for place in range(history.shape[1]):
            total += self.decays[place] * known[:, place]
        first = torch.arange(len(into), device=self.device)[:, None] * into.shape[1]
        along = torch.arange(self.longest, device=self.device)
        flat = into.view(-1)
        for place in range(history.shape[1]):
            item = history[:, place].long().clamp_min(0)
            entry = self._indptr[item][:, None] + along
            inside = (entry < self._indptr[item + 1][:, None]) & known[:, place, None]
            entry = entry.clamp_max(len(self._targets) - 1)
            target = self._targets[entry].long()
            share = (self.decays[place] / total)[:, None] * self._weights[entry]
            into_own += torch.where(inside & (target == own[:, None]), share, 0.0).sum(1)
            if len(flat):
                column = torch.where(inside, places[target], -1)
                added = torch.where(column >= 0, share, 0.0)
                flat.index_add_(0, (first + column.clamp_min(0)).view(-1), added.view(-1))


class RecentOnDevice:
    """`RecentExamples` by torch's operations: two searches in the log for each count.

    Args:
        examples: the log, and where windows lie in it; copied to the device, 8 bytes a row each.
        device: where scores are formed.
    """

    def __init__(self, examples: RecentExamples, device: torch.device) -> None:
        self.rows, self.device = examples.rows, device
        self._log_rows = len(examples.log.items)
        arrays = examples.log.keys, examples.starts, examples.ends
        self._keys, self._starts, self._ends = (
            torch.tensor(array, device=device) for array in arrays
        )

    def of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """See `KnownScores`."""
        rows, items = rows.to(self.device), items.to(self.device)
        at_once = max(1, _ENTRIES // max(1, len(items)))
        return torch.cat([self._at(some[:, None], items) for some in rows.split(at_once)])

    def with_own(
        self, rows: torch.Tensor, items: torch.Tensor, negatives: torch.Tensor, own: torch.Tensor
    ) -> Scores:
        """See `KnownScores`."""
        items = items.to(self.device)
        of_own = self._at(rows.to(self.device), items[own.to(self.device)])
        return Scores(self.of(rows, items[negatives.to(self.device)]), of_own)

    def _at(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Of rows and items whose shapes broadcast."""
        base = items * self._log_rows
        first, last = (
            torch.searchsorted(self._keys, base + bounds[rows])
            for bounds in (self._starts, self._ends)
        )
        return (last - first).float().log1p_()
