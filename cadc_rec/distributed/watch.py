"""Notices that another rank has failed or gone, where its collectives would not.

In: the store that the ranks share, and what ends this rank's collectives. Out: they end soon after
the loss, so that `peers.py` can account for it.

A collective of gloo breaks with its connection. One of NCCL waits on the GPU for data that never
comes, until torch's watchdog aborts the process after `compute.timeout_seconds`. So a thread of
each rank writes beats into the store. The ranks stand in a circle, and each looks at the next
one's; the first to miss them tells all others, as does a rank that has failed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from torch.distributed import Store

from cadc_rec.distributed.timely import TimelyStore

_BEAT_SECONDS = 2.0
_MISSED = 60  # looks in a row without a beat: long beside what holds Python's lock on a busy rank
_ENDED = "ended"


class Watch:
    """This rank's thread; it begins at once.

    Args:
        store: the ranks' own, with a connection of its own: a call that waits would block beats.
        rank: this rank.
        world_size: number of ranks.
        abort: ends this rank's collectives, so that what waits for one raises. The thread calls it,
            at most once.
    """

    def __init__(self, store: Store, rank: int, world_size: int, abort: Callable[[], None]) -> None:
        self._store, self._abort = TimelyStore(store, _BEAT_SECONDS * _MISSED), abort
        self._mine, self._next = f"beat/{rank}", f"beat/{(rank + 1) % world_size}"
        self._stop = threading.Event()
        self.noticed = False
        """Whether a rank was lost, and this one's collectives were ended."""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def tell(self) -> None:
        """Have all ranks end their collectives: this one leaves before its work is done."""
        with contextlib.suppress(RuntimeError):  # the store has gone, and others know it by that
            self._store.set("lost", "")

    def close(self) -> None:
        """This rank's work is done; its silence from now on means nothing."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(RuntimeError):
            self._store.set(self._mine, _ENDED)

    def _run(self) -> None:
        # Looks are counted, not seconds: what stops this process, too, is no silence of another.
        beats, seen, missed = 0, "", 0
        while not self._stop.wait(_BEAT_SECONDS):
            beats += 1
            try:
                self._store.set(self._mine, str(beats))
                latest = self._store.get(self._next) if self._store.has(self._next) else ""
                missed = 0 if latest != seen or latest == _ENDED else missed + 1
                seen = latest
                if missed > _MISSED:
                    self._store.set("lost", "")
                lost = self._store.has("lost")
            except RuntimeError:  # rank 0, which keeps the store, has gone or hangs
                lost = True
            if lost:
                self.noticed = True
                self._abort()
                return
