"""What a tracker is; a tracker that fails does not end the training."""

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
        """Save all points taken so far, so that they survive this process."""

    def close(self, *, finished: bool = True) -> None:
        """Record how the run ended and close everything; no point is taken afterwards."""


class NullTracker:
    """Keeps nothing: tracking is off, or this is not rank 0."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Return at once."""

    def close(self, *, finished: bool = True) -> None:
        """Return at once."""


class CarefulTracker:
    """A tracker that stops with a warning at its first failure.

    A full disk or a server that is away must not cost hours of training. The tracker is not tried
    again, because a server at which every call times out would slow down every epoch.

    Args:
        title: the tracker's name in the warning.
        make: makes the tracker; it may fail, too.
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
        except Exception as error:  # a tracking library may raise anything
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
