"""What a tracker is, and how one that fails is kept from ending the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from cadc_rec.log import log

Setting = bool | int | float | str


class Tracker(Protocol):
    """Takes the numbers of one training run."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Take one point of the curve `name`; `step` is the epoch, from 1."""

    def flush(self) -> None:
        """Put all points taken so far where they outlive this process."""

    def close(self, *, finished: bool = True) -> None:
        """Say how the run ended and let go of everything; nothing is taken afterwards."""


class NullTracker:
    """Keeps nothing: tracking is off, or this is not rank 0."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Forget the point."""

    def flush(self) -> None:
        """Return at once."""

    def close(self, *, finished: bool = True) -> None:
        """Return at once."""


class CarefulTracker:
    """A tracker whose first failure is a warning and its end, and nothing more.

    A full disk or a server that is away must not cost hours of training. It is not tried again:
    a server that lets every call run into its timeout would slow down every epoch.

    Args:
        title: what the warning calls it.
        make: makes the tracker; may fail like everything else.
    """

    def __init__(self, title: str, make: Callable[[], Tracker]) -> None:
        self._title = title
        self._tracker: Tracker = NullTracker()

        def start() -> None:
            self._tracker = make()

        self._attempt(start)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Pass the point on."""
        self._attempt(lambda: self._tracker.scalar(name, value, step))

    def flush(self) -> None:
        """Pass the call on."""
        self._attempt(lambda: self._tracker.flush())

    def close(self, *, finished: bool = True) -> None:
        """Pass the call on."""
        self._attempt(lambda: self._tracker.close(finished=finished))

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever a foreign library raises
            self._tracker = NullTracker()
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            log.warning("%s stopped, training goes on without it: %s", self._title, reason)


class Trackers:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def scalar(self, name: str, value: float, step: int) -> None:
        """Pass the point to all."""
        for tracker in self._trackers:
            tracker.scalar(name, value, step)

    def flush(self) -> None:
        """Pass the call to all."""
        for tracker in self._trackers:
            tracker.flush()

    def close(self, *, finished: bool = True) -> None:
        """Pass the call to all."""
        for tracker in self._trackers:
            tracker.close(finished=finished)


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Setting]:
    """Nested settings by dotted name, such as ``train.epochs``; lists and None become text."""
    flat: dict[str, Setting] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{below}": deep for below, deep in flat_settings(value).items()}
        else:
            flat[name] = value if isinstance(value, Setting) else str(value)
    return flat
