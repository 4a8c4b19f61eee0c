"""Threads for loops that let go of the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Lanes:
    """A fixed number of threads, kept from one use to the next.

    Args:
        count: how many; with one, everything runs in the caller's thread.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = max(1, count)
        self._pool = ThreadPoolExecutor(self.count) if self.count > 1 else None

    def map(self, function: Callable[[T], R], pieces: Sequence[T]) -> list[R]:
        """``[function(piece) for piece in pieces]``, pieces side by side.

        The first error of a piece is raised, after every piece has ended.
        """
        if self._pool is None or len(pieces) < 2:
            return [function(piece) for piece in pieces]
        futures = [self._pool.submit(function, piece) for piece in pieces]
        for future in futures:
            future.exception()  # waits: nothing may still write when the error is raised
        return [future.result() for future in futures]

    def cut(self, start: int, stop: int) -> list[range]:
        """``start .. stop`` in as many equal pieces as there are threads; no piece is empty."""
        ends = [start + (stop - start) * k // self.count for k in range(self.count + 1)]
        return [range(a, b) for a, b in pairwise(ends) if a < b]
