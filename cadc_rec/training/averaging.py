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

import numpy as np
import torch

_WARM_UP = 4.0  # early on, average over a quarter of the steps so far: the start is soon forgotten


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
        """Within, the model's weights are the averaged ones."""
        if not self.horizon:
            yield
            return
        self.catch_up()
        with torch.no_grad():
            kept = [tensor.clone() for tensor in self.live]
            torch._foreach_copy_(self.live, self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.live, kept)


class _Rows:
    """The average of a tensor of which a step changes a few rows; see the top of this file.

    After step t the start has ``P(t)``, the product of all ``1 - share`` so far, of the weight. A
    row that stood still since step s is further from its average by ``P(t) / P(s)``.
    """

    def __init__(self, live: torch.Tensor, average: torch.Tensor, horizon: float) -> None:
        self.live, self.average = live, average
        self.seen = torch.zeros(len(live), dtype=torch.int32, device=live.device)
        """The step up to which each row's average is right."""
        self.last = floor(_WARM_UP * horizon)  # of the steps whose share depends on their number
        early = np.log1p(-1.0 / (1.0 + np.arange(1, self.last + 1) / _WARM_UP))
        self.logs = np.concatenate([[0.0], np.cumsum(early)])
        """Of P after the first steps; float64, for they differ by little."""
        self._on_device = torch.from_numpy(self.logs).to(live.device)
        self.pace = log(horizon / (1.0 + horizon))

    def catch_up(self, rows: torch.Tensor | None, steps: int) -> None:
        """Bring the average of these rows, or of all, up to date."""
        seen = (self.seen if rows is None else self.seen.index_select(0, rows)).long()
        early = seen.clamp(max=self.last)
        now = float(self.logs[min(steps, self.last)]) + self.pace * max(0, steps - self.last)
        since = now - self._on_device[early] - self.pace * (seen - early)
        share = -torch.expm1(since).to(self.live.dtype)[:, None]
        if rows is None:
            self.average.lerp_(self.live, share)
            self.seen.fill_(steps)
        else:  # a row that comes twice is written twice, alike
            live, average = (each.index_select(0, rows) for each in (self.live, self.average))
            self.average.index_copy_(0, rows, average.lerp_(live, share))
            self.seen.index_fill_(0, rows, steps)
