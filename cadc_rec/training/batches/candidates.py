"""Candidates of a softmax sorted out on the device: what `SoftmaxBatches` makes, in fixed shapes.

In: a step's rows and the negatives that they share. Out: a `Batch` of users, items, labels, and the
candidates of all rows; what a row leaves out is a matrix here, whose shape no data decides. What
fills a step up is as in `layout.py`.
"""

from __future__ import annotations

import torch

from cadc_rec.data.load.batches import Batch
from cadc_rec.data.load.candidates import Lifetimes, SoftmaxBatches
from cadc_rec.data.user_items import UserItems
from cadc_rec.training.batches.layout import Rows, distinct

_ENTRIES = 2**24  # known items looked at once: half a GiB of what they need


class SoftmaxLayout:
    """Positives among candidates that all share; the device form of `SoftmaxBatches`.

    Args:
        arrange: its host form.
        rows: of a step.
        device: where steps are made.
    """

    def __init__(self, arrange: SoftmaxBatches, rows: int, device: torch.device) -> None:
        self.kind, self.n_items = arrange.candidates, arrange.n_items
        self.numbers = torch.arange(rows, device=device)
        draws = arrange.negatives if self.kind in ("sampled", "mixed") else 0
        most = self.n_items if self.kind == "all" else min(self.n_items, rows + draws)
        self.item_numbers = torch.arange(most + 1, device=device)
        self.drawn = torch.zeros(draws, dtype=torch.bool, device=device)
        self.negative_numbers = torch.arange(min(draws, self.n_items), device=device)
        self.known = None if arrange.known is None else _Known(arrange.known, self.n_items, device)
        self.alive = None if arrange.lifetimes is None else _Alive(arrange.lifetimes, device)

    def __call__(self, step: Rows) -> Batch[torch.Tensor]:
        """The step, see `cadc_rec.data.load.batches`."""
        count = step.count.clamp(min=min(1, len(self.numbers)))  # see `PairLayout`
        beyond, real = self.numbers >= count, self.numbers < step.count
        users = torch.where(beyond, step.users[:1], step.users).long()
        items, labels = self.item_numbers[:-1], step.items.long()
        negatives = repeated = unused = None
        if self.kind != "all":
            ids, numbers = step.items, items
            if self.kind in ("sampled", "mixed"):
                ids = torch.cat([ids, step.negatives.int()])
                beyond, count = torch.cat([beyond, self.drawn]), count + len(self.drawn)
            found = distinct(ids, beyond, count, self.item_numbers)
            place = found.unsorted()
            items, labels = found.values, place[: len(users)]
            if self.kind == "sampled":
                drawn = torch.zeros_like(items, dtype=torch.bool)
                drawn.scatter_(0, place[len(users) :], True)
                # A row that fills up has its own score in the sum: all negatives may be left out.
                repeated = drawn[labels] & real
                so_far = drawn.cumsum(0)
                number = so_far[-1:]
                wanted = torch.minimum(self.negative_numbers + 1, number)
                negatives = torch.searchsorted(so_far, wanted)
                unused = self.negative_numbers >= number
            else:
                unused = numbers > found.place[-1:]
        candidates = items if negatives is None else items[negatives]
        return Batch(
            users=users,
            items=items,
            positives=step.positives,
            rows=step.places.long(),
            labels=labels,
            negatives=negatives,
            repeated=repeated,
            whole=self.kind == "all",
            outside=self._outside(step, users, candidates, unused),
            real=real,
        )

    def _outside(
        self,
        step: Rows,
        users: torch.Tensor,
        candidates: torch.Tensor,
        unused: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """What is no candidate of a row: what fills up, what its user knows, what was not alive."""
        outside = None if unused is None else unused[None]
        if self.known is not None:
            of_known = self.known.among(users, step.items, candidates, unused)
            outside = of_known if outside is None else of_known | outside
        if self.alive is not None:
            dead = self.alive.dead(step.places, step.items, candidates)
            outside = dead if outside is None else dead | outside
        return outside


class _Known:
    """What users know, as a table of their items."""

    def __init__(self, known: UserItems, n_items: int, device: torch.device) -> None:
        self.indptr = torch.from_numpy(known.indptr).to(device)
        self.items = torch.from_numpy(known.items).to(device)
        self.n_items = n_items
        self.longest = int((known.indptr[1:] - known.indptr[:-1]).max(initial=0))

    def among(
        self,
        users: torch.Tensor,
        positives: torch.Tensor,
        candidates: torch.Tensor,
        unused: torch.Tensor | None,
    ) -> torch.Tensor:
        """Bool ``[rows, candidates]``: the row's user knows it, and it is not the positive."""
        n = len(candidates)
        at = candidates if unused is None else candidates.masked_fill(unused, self.n_items)
        column_of = torch.full((self.n_items + 1,), n, device=users.device)
        column_of[at] = torch.arange(n, device=users.device)
        # One column more than there are, for everything that is no candidate.
        marked = torch.zeros(len(users), n + 1, dtype=torch.bool, device=users.device)
        begin, end = self.indptr[users][:, None], self.indptr[users + 1][:, None]
        width = max(1, _ENTRIES // max(1, len(users)))
        for first in range(0, self.longest, width):
            last = min(self.longest, first + width)
            entry = begin + torch.arange(first, last, device=users.device)
            item = self.items[entry.clamp(max=len(self.items) - 1)]
            hidden = (entry < end) & (item != positives[:, None])
            marked.scatter_(1, column_of[item.long()].masked_fill(~hidden, n), True)
        return marked[:, :n]


class _Alive:
    """When items were alive, and when the examples took theirs."""

    def __init__(self, lifetimes: Lifetimes, device: torch.device) -> None:
        arrays = lifetimes.first, lifetimes.last, lifetimes.times
        self.first, self.last, self.times = (torch.from_numpy(a).to(device) for a in arrays)

    def dead(
        self, places: torch.Tensor, positives: torch.Tensor, candidates: torch.Tensor
    ) -> torch.Tensor:
        """Bool ``[rows, candidates]``; a row that only fills up keeps its positive, too."""
        now = self.times[places][:, None]
        dead = (self.first[candidates] > now) | (self.last[candidates] < now)
        return dead & (candidates != positives[:, None])
