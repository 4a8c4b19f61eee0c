"""When the next checkpoint is due; all ranks agree on it without asking at every step.

That is by the clock, or because a rank is to end.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cadc_rec.store.checkpoints.store import Group

_LOOK_SECONDS = 1.0  # ranks ask each other about once in this time
_LONGEST_LOOK_SECONDS = 5.0  # and at least so often: a rank that is to end has a short grace
_MOST_STEPS = 10_000


class Cadence:
    """Checkpoints by the clock.

    Args:
        every_seconds: seconds between two checkpoints; 0 saves none.
        max_share: share of the time that training may wait for checkpoints.
        group: the ranks; all of them must call every method.
        is_to_end: whether this rank was told to end; None where none ever is.
        clock: gives seconds.
    """

    def __init__(
        self,
        every_seconds: float,
        max_share: float,
        group: Group,
        is_to_end: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.every, self.max_share, self.group, self.clock = every_seconds, max_share, group, clock
        self._next = self._looked = clock()
        self._next += every_seconds
        self._steps, self._until_look = 0, 1
        self._is_to_end = is_to_end
        self.ends = False
        """Whether some rank is to end, and all know it; a checkpoint is due then."""

    def due(self, busy: bool) -> bool:
        """Whether to save after this step; called after each one.

        Args:
            busy: whether the previous checkpoint is still being written; rank 0's value counts.
        """
        if not self.every and self._is_to_end is None:
            return False
        to_end = self._is_to_end is not None and self._is_to_end()
        if self.group.world_size == 1:
            self.ends = to_end
            return to_end or (bool(self.every) and self.clock() >= self._next and not busy)
        self._steps += 1
        if self._steps < self._until_look:
            return False
        look = self._look(busy) if self.group.rank == 0 else None
        answers = self.group.all_gather((to_end, look))
        due, self._until_look = answers[0][1]
        self._steps = 0
        self.ends = any(ends for ends, _ in answers)
        return self.ends or bool(due)

    def _look(self, busy: bool) -> tuple[bool, int]:
        """Whether a checkpoint is due now, and how many steps until the next question."""
        now = self.clock()
        rate = self._steps / max(now - self._looked, 1e-9)
        self._looked = now
        if self.every and now >= self._next and not busy:
            return True, 1
        # Half of the remaining time, in case the rate changes; but not at every step.
        soon = min(_LOOK_SECONDS, self.every / 4) if self.every else _LOOK_SECONDS
        ahead = min(max((self._next - now) / 2, soon), _LONGEST_LOOK_SECONDS)
        return False, max(1, min(int(rate * ahead), _MOST_STEPS))

    def saved(self, stood_still: float) -> None:
        """Set the next time: the longer training `stood_still`, the later."""
        self._next = self.clock() + max(self.every, stood_still * (1 / self.max_share - 1))
