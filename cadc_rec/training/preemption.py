"""A training that is told to end: by a scheduler that needs the machine, or has had it long enough.

In: SIGTERM, some seconds (the grace) before SIGKILL. Out: word of it at the next step, so that the
training can save itself first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

EXIT_CODE = 128 + signal.SIGTERM
"""Of a training that saved itself and ended: the signal's own, after which launchers restart."""


@contextlib.contextmanager
def sigterm_noticed() -> Iterator[Callable[[], bool]]:
    """Inside this context SIGTERM ends nothing; yields a function that says whether it came.

    One that nobody answered by an exception ends the program on the way out.

    A program that handles SIGTERM itself, or trains in another thread than its main one, goes on
    to do as it does.
    """
    came: list[int] = []  # appending takes no lock, which a second signal would wait for for ever
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield lambda: bool(came)
        return
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if came:
        os.kill(os.getpid(), signal.SIGTERM)
