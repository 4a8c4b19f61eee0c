"""The ranks' store, asked with a deadline.

In: a store of torch. Out: the same calls; one that the store does not answer in time raises.

A call of a `TCPStore` waits for the process that keeps it, and most of them wait for ever: where
that process is stopped, not dead, its connections stay open. So each call is made in a thread of
its own, which is left behind if nothing comes back.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from torch.distributed import Store

_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5


class SilentStoreError(RuntimeError):
    """The process that keeps the store is connected, and does not answer."""


class TimelyStore:
    """A store whose calls end; after one that did not, all others raise at once.

    Args:
        store: for this object alone: a call that is left behind keeps its connection.
        seconds: how long a call may take.

    Raises:
        SilentStoreError: by every method, where the store did not answer in time.
        RuntimeError: likewise, where it has gone.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        self._store, self.seconds = store, seconds
        self._silent = False

    def set(self, key: str, value: str) -> None:
        """See `Store.set`."""
        self._ask(self._store.set, key, value)

    def get(self, key: str) -> str:
        """The value of a key that is there."""
        return str(self._ask(self._store.get, key).decode())

    def has(self, *keys: str) -> bool:
        """Whether all of these keys are there."""
        return bool(self._ask(self._store.check, list(keys)))

    def add(self, key: str, amount: int) -> int:
        """Add to a counter; returns what it counts then."""
        return int(self._ask(self._store.add, key, amount))

    def claim(self, key: str, mine: str) -> bool:
        """Whether the key is `mine`: the first to claim it has it."""
        return bool(self._ask(self._store.compare_set, key, "", mine).decode() == mine)

    def wait(self, keys: list[str], seconds: float) -> bool:
        """Wait until all keys are there; False if they are not after so many seconds.

        The store is asked less and less often, for thousands of ranks may wait at once.
        """
        end, pause = time.monotonic() + seconds, _PAUSE_SECONDS
        while not self.has(*keys):
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 1.2, _LONGEST_PAUSE_SECONDS)
        return True

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if self._silent:
            raise SilentStoreError("the store does not answer")
        answer: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                answer.put((call(*arguments), None))
            except Exception as error:
                answer.put((None, error))

        threading.Thread(target=work, name="store", daemon=True).start()
        try:
            value, error = answer.get(timeout=self.seconds)
        except queue.Empty:
            self._silent = True
            raise SilentStoreError(
                f"the store did not answer within {self.seconds:.0f} s"
            ) from None
        if error is not None:
            raise error
        return value
