"""When the next checkpoint is due, which all ranks have to agree on without asking every step."""

from __future__ import annotations

import time
from collections.abc import Callable

from cadc_rec.store.checkpoints.store import Group

_LOOK_SECONDS = 1.0  # ranks ask rank 0 about this often
_MOST_STEPS = 10_000


class Cadence:
    """Checkpoints by the clock.

    Args:
        every_seconds: between two; 0 is never.
        max_share: of the time that training may stand still for them.
        group: the ranks; all must call every method alike.
        clock: seconds.
    """

    def __init__(
        self,
        every_seconds: float,
        max_share: float,
        group: Group,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.every, self.max_share, self.group, self.clock = every_seconds, max_share, group, clock
        self._next = self._looked = clock()
        self._next += every_seconds
        self._steps, self._until_look = 0, 1

    def due(self, busy: bool) -> bool:
        """Whether to save after this step; called after each one.

        Args:
            busy: the checkpoint before is being written still; rank 0's word counts.
        """
        if not self.every:
            return False
        if self.group.world_size == 1:
            return self.clock() >= self._next and not busy
        self._steps += 1
        if self._steps < self._until_look:
            return False
        told = self._look(busy) if self.group.rank == 0 else None
        due, self._until_look = self.group.broadcast(told)
        self._steps = 0
        return bool(due)

    def _look(self, busy: bool) -> tuple[bool, int]:
        """Whether one is due now, and steps until it is worth asking again."""
        now = self.clock()
        rate = self._steps / max(now - self._looked, 1e-9)
        self._looked = now
        if now >= self._next and not busy:
            return True, 1
        # Half of what is left, so that a changing rate does no harm; but not at every step.
        ahead = max((self._next - now) / 2, min(_LOOK_SECONDS, self.every / 4))
        return False, max(1, min(int(rate * ahead), _MOST_STEPS))

    def saved(self, stood_still: float) -> None:
        """Put the next one off, the more the longer training `stood_still` for this one."""
        self._next = self.clock() + max(self.every, stood_still * (1 / self.max_share - 1))
