"""The next few of an iterator's values, made in a thread while the present one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")
_WAIT_SECONDS = 0.2  # how long a full queue keeps the thread from seeing that nobody reads on


class _End:
    """Put after the last value, with what ended the iterator early."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetched(values: Iterator[T], depth: int) -> Generator[T, None, None]:
    """`values`, up to `depth` of them made ahead, in their order.

    An error of the iterator is raised where its value would have come. Closing this one, as
    leaving a loop early does, ends the thread.

    Args:
        values: only the thread touches it.
        depth: at least 1.
    """
    ready: queue.Queue[T | _End] = queue.Queue(depth)
    left = threading.Event()

    def put(value: T | _End) -> None:
        while not left.is_set():
            try:
                return ready.put(value, timeout=_WAIT_SECONDS)
            except queue.Full:
                continue

    def work() -> None:
        error: BaseException | None = None
        try:
            for value in values:
                put(value)
                if left.is_set():
                    return
        except BaseException as caught:  # raised again where it belongs
            error = caught
        put(_End(error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(value := ready.get(), _End):
            yield value
        if value.error is not None:
            raise value.error
    finally:
        left.set()
        thread.join()
