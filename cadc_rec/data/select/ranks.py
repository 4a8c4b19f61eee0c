"""The processes that select together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Ranks(Protocol):
    """The processes that select together; `Alone` when there is only this one."""

    @property
    def rank(self) -> int:
        """This process's number."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    def share(self, n: int) -> range:
        """This rank's contiguous part of ``range(n)``."""

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, on every rank."""

    def together(self, work: Callable[[], Any]) -> Any:
        """Do `work` and wait for all ranks' to be done, however long it takes."""


class Alone:
    """One process on its own."""

    rank, world_size = 0, 1

    def share(self, n: int) -> range:
        """All of them."""
        return range(n)

    def all_gather(self, value: Any) -> list[Any]:
        """`value` alone."""
        return [value]

    def together(self, work: Callable[[], Any]) -> Any:
        """Do the work."""
        return work()
