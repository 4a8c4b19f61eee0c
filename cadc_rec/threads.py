"""One piece of work on several threads, each of which computes alone.

In: a function that takes parts of its work from where all of its callers do. torch's own threads
share a single product or sort, and wait for each other between two of them; here each thread
multiplies, selects and sorts on its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_pools: dict[int, ThreadPoolExecutor] = {}
"""By torch's number of threads; they stay, for a new thread has yet to find an idle core."""

if hasattr(os, "register_at_fork"):  # a child has the pools and none of their threads
    os.register_at_fork(after_in_child=_pools.clear)


def on_threads(work: Callable[[], None], threads: int, torch: Any) -> None:
    """Call `work` here and on other threads, each of which torch uses alone, and wait for all.

    A thread that is still asleep or busy when the work is done here is not waited for.

    Args:
        work: may be called fewer times than there are threads.
        threads: two or more, with this one; as many as torch may use, at most.
        torch: the module.
    """
    every: int = torch.get_num_threads()
    pool = _pools.get(every)
    if pool is None:
        new = ThreadPoolExecutor(every, "alone", _alone, (torch,))
        pool = _pools.setdefault(every, new)
    others = [pool.submit(work) for _ in range(threads - 1)]
    try:
        _alone(torch)
        work()
    finally:
        torch.set_num_threads(every)
        begun = [other for other in others if not other.cancel()]
    for other in begun:
        other.result()


def _alone(torch: Any) -> None:
    """Have torch use this thread alone.

    What torch is told holds for the thread that tells it. A thread that was never asked takes what
    another was told last, when it first computes: so it is asked before it is told.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)
