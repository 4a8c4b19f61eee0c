"""A moving average of the trained weights, which is what gets validated and kept.

Single epochs of a recommender jump by a tenth of their accuracy; their average over the last few
does not, and ranks better (Polyak averaging, in its exponential form). One rank averages its own
shards, so it costs no communication.

A step changes few rows of a table whose optimizer is fused into its lookup. The average of such a
row forgets the start at a known pace while the row stands still, so it is brought up to date when
the row is about to change, and all of them when they are read: no step sweeps over whole tables.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import floor, log
from typing import Any

import torch

_WARM_UP = 4  # early on, average over a quarter of the steps so far: the start is soon forgotten
_AT_ONCE = 2**22  # elements: what is done to a whole table needs this much room, not another table


class WeightAverage:
    """Exponential moving average of tensors that an optimizer changes in place.

    Args:
        live: the tensors, views of the model's weights.
        horizon: steps it looks back over, the mean age of what it holds; 0 follows `live` exactly.
        by_row: numbers of those tensors whose rows are announced before a step changes them.
    """

    def __init__(
        self, live: Sequence[torch.Tensor], horizon: float, by_row: Collection[int] = ()
    ) -> None:
        self.live = list(live)
        self.horizon = horizon
        self.average = [tensor.clone() for tensor in self.live] if horizon else self.live
        self.steps = 0
        swept = [n for n in range(len(self.live)) if n not in by_row]
        self._swept = [self.average[n] for n in swept], [self.live[n] for n in swept]
        self._rows = {n: _Rows(self.live[n], self.average[n], horizon) for n in by_row if horizon}

    @torch.no_grad()
    def update(self) -> None:
        """Count one more step of `live`."""
        if not self.horizon:
            return
        self.steps += 1
        share = 1.0 / min(1.0 + self.horizon, 1.0 + self.steps / _WARM_UP)
        average, live = self._swept
        if average:
            torch._foreach_lerp_(average, live, share)

    @torch.no_grad()
    def announce(self, tensor: int, rows: torch.Tensor) -> None:
        """These rows of tensor number `tensor` will change in the coming step.

        Args:
            tensor: one of `by_row`.
            rows: int64; one may come several times.
        """
        if tensor in self._rows:
            self._rows[tensor].catch_up(rows, self.steps)

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring `average` up to date."""
        for each in self._rows.values():
            each.catch_up(None, self.steps)

    def seen(self) -> dict[int, torch.Tensor]:
        """By tensor number, the step up to which each row's average is right: int32 ``[rows]``."""
        return {n: each.seen for n, each in self._rows.items()}

    def read_in(self, steps: int, seen: Mapping[int, torch.Tensor]) -> None:
        """`average` was read from elsewhere, as it was after so many steps.

        Args:
            steps: counted by then.
            seen: what `seen` gave, of tensors that were averaged by row; all others are right.
        """
        self.steps = steps
        for n, each in self._rows.items():
            each.seen.copy_(seen[n]) if n in seen else each.seen.fill_(steps)
        for n in seen.keys() - self._rows.keys():
            behind = _Rows(self.live[n], self.average[n], self.horizon)
            behind.seen.copy_(seen[n])
            behind.catch_up(None, steps)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model's weights are the averaged ones, and `average` has the weights."""
        if not self.horizon:
            yield
            return
        self.catch_up()
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for pair in zip(self.live, self.average, strict=True):
            live, average = (each if each.dim() else each[None] for each in pair)
            step = _rows_at_once(live)
            for mine, theirs in zip(live.split(step), average.split(step), strict=True):
                kept = mine.clone()
                mine.copy_(theirs)
                theirs.copy_(kept)


def _rows_at_once(tensor: torch.Tensor) -> int:
    return max(1, _AT_ONCE // max(1, tensor.shape[1:].numel()))


class _Rows:
    """The average of a tensor of which a step changes a few rows; see the top of this file.

    After step t the start has ``P(t)``, the product of all ``1 - share`` so far, of the weight. A
    row that stood still since step s is further from its average by ``P(t) / P(s)``. Early on
    ``1 - share`` is ``i / (i + 4)`` in step i, so ``P(t)`` is 4! over the product of t + 1 to
    t + 4 (`_inverse`); after that each step multiplies it by the same number.
    """

    def __init__(self, live: torch.Tensor, average: torch.Tensor, horizon: float) -> None:
        self.live, self.average = live, average
        self.seen = torch.zeros(len(live), dtype=torch.int32, device=live.device)
        """The step up to which each row's average is right."""
        self.last = floor(_WARM_UP * horizon)  # of the steps whose share depends on their number
        self.pace = log(horizon / (1.0 + horizon))

    def catch_up(self, rows: torch.Tensor | None, steps: int) -> None:
        """Bring the average of these rows, or of all, up to date."""
        if rows is None:
            step = _rows_at_once(self.live)
            parts = (each.split(step) for each in (self.seen, self.average, self.live))
            for seen, average, live in zip(*parts, strict=True):
                average.lerp_(live, self._share(seen, steps))
            self.seen.fill_(steps)
        else:  # a row that comes twice is written twice, alike
            seen, average, live = (
                each.index_select(0, rows) for each in (self.seen, self.average, self.live)
            )
            self.average.index_copy_(0, rows, average.lerp_(live, self._share(seen, steps)))
            self.seen.index_fill_(0, rows, steps)

    def _share(self, seen: torch.Tensor, steps: int) -> torch.Tensor:
        """How far rows ``[n]`` go from their averages to themselves: ``[n, 1]``.

        In float64, for P(t) and P(s) may differ by little.
        """
        since, now = seen.double(), min(steps, self.last)
        early = since.clamp(max=self.last)
        left = _inverse(early) / _inverse(now)
        if steps > now:
            left *= torch.exp((steps - now - (since - early)) * self.pace)
        return (1.0 - left).to(self.live.dtype)[:, None]


def _inverse(t: Any) -> Any:
    """``(t + 1)(t + 2)(t + 3)(t + 4)``, of a number or of each element, in few operations."""
    pairs = t * (t + 5.0)  # the outer two multiply to this + 4, the inner two to this + 6
    return pairs * (pairs + 10.0) + 24.0
