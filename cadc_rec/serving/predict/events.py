"""What happened since a bundle's log ended: events, counted as they come.

In: events, each an item that was taken, when, and perhaps by whom. Out: recent popularity as a
bundle would have it whose log ended with these rows, and what each user took since.

Writers wait for each other. Readers wait for nobody: what they read is put in place whole, in one
step, and never changed afterwards.
"""

from __future__ import annotations

import math
import threading
import time as clock
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.recent import RecentNow, RecentState

if TYPE_CHECKING:
    from cadc_rec.data.recent_popularity import RecentCounts
    from cadc_rec.data.user_items import UserItems
    from cadc_rec.serving.predict.ids import IdMap

AHEAD_SECONDS = 60.0
"""How far an event's time may lie in the future: clocks differ."""
_MOST_USERS = 200_000
_MOST_OF_USER = 200  # items
_MOST_IDS = 1_000_000

Outcome = Literal["taken", "duplicate", "old", "unknown"]


@dataclass(frozen=True)
class Event:
    """An item that was taken.

    Attributes:
        item: original id.
        time: seconds since 1970 (UTC).
        user: original id of who took it, known to the bundle or not; None says nobody.
        id: a name of the event; of several with the same name the first counts.
    """

    item: Any
    time: float
    user: Any = None
    id: str | None = None


@dataclass(frozen=True)
class Counted:
    """What became of events.

    Attributes:
        taken: how many were counted.
        duplicates: were counted before, by their names.
        old: happened before the bundle's log ended, or, without a user, before the window.
        unknown: are of items that the bundle does not have.
    """

    taken: int
    duplicates: int = 0
    old: int = 0
    unknown: int = 0

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Self:
        """The number of each."""
        words: tuple[Outcome, ...] = ("taken", "duplicate", "old", "unknown")
        return cls(*(outcomes.count(word) for word in words))


@dataclass(frozen=True)
class Placed:
    """An event whose item and user were looked up.

    Attributes:
        item: row, -1 of one that the bundle does not have.
        time: seconds.
        user: key of the user; None of nobody.
        again: whether the bundle knows that this user has taken the item before; such a row would
            be no new one of a log.
        id: of the event.
    """

    item: int
    time: float
    user: Hashable | None = None
    again: bool = False
    id: str | None = None


def placed(events: Sequence[Event], items: IdMap, users: IdMap, known: UserItems) -> list[Placed]:
    """Events by the rows of their items and users.

    Args:
        events: by original ids.
        items: of a bundle.
        users: likewise.
        known: what each user took, by the bundle.

    Raises:
        CadcError: an id has the wrong type, or a time is none or lies in the future.
    """
    latest = clock.time() + AHEAD_SECONDS
    for event in events:
        number = isinstance(event.time, int | float | np.number)
        if isinstance(event.time, bool) or not number or not math.isfinite(event.time):
            raise CadcError(f"events: a time is seconds since 1970 (UTC), not {event.time!r:.80}.")
        if event.time > latest:
            raise CadcError(
                f"events: {event.time!r:.80} lies more than {AHEAD_SECONDS:.0f} s in the future; "
                "give seconds since 1970 (UTC), not milliseconds."
            )
    names = [event.user for event in events]
    item_rows = items.rows([event.item for event in events]).tolist()
    user_rows = users.rows(names)
    again = [
        user >= 0 and item >= 0 and bool((known.of(user) == item).any())
        for user, item in zip(user_rows.tolist(), item_rows, strict=True)
    ]
    keys = keys_of(users, names, user_rows)
    return [
        Placed(item, float(event.time), key, known, event.id)
        for event, item, key, known in zip(events, item_rows, keys, again, strict=True)
    ]


def keys_of(
    users: IdMap, ids: Sequence[Any] | NDArray[Any], rows: NDArray[np.int64]
) -> list[Hashable | None]:
    """What users are told apart by: the row, or of those without one the id as text.

    Args:
        users: of a bundle.
        ids: original ids.
        rows: of the ids.
    """
    keys: list[Hashable | None] = list(rows.tolist())
    strangers = np.flatnonzero(rows < 0).tolist()
    if strangers:
        texts = users.texts([ids[place] for place in strangers])
        for place, text in zip(strangers, texts, strict=True):
            keys[place] = text
    return keys


class LiveEvents:
    """Events since the log ended.

    Args:
        recent: what the model counts; None of a model that counts nothing recent.
        n_items: rows of items.
        log_ends: time of the log's last interaction; None where it has no clock.

    Attributes:
        newest: time of the last row that was counted, or of the log's end.
        recent: what is added to every answer; None until something was counted.
    """

    def __init__(
        self, recent: RecentState | None = None, n_items: int = 0, log_ends: float | None = None
    ) -> None:
        self.log_ends = log_ends
        self.window = None if recent is None else recent.window
        self.recent: RecentNow | None = None
        self._state, self._n_items = recent, n_items
        self._counts: RecentCounts | None = None  # made at the first event
        self.newest = -np.inf if log_ends is None else log_ends
        self._lock = threading.Lock()
        self._ids: dict[str, None] = {}  # in the order in which they came
        # In the order in which they changed.
        self._of: OrderedDict[Hashable, _Session] = OrderedDict()

    def weigh(self, events: Sequence[Placed]) -> list[Outcome]:
        """What `take` would do with each event; nothing changes."""
        named: set[str] = set()
        found: list[Outcome] = []
        known = [event.time for event in events if event.item >= 0]
        newest = max([self.newest, *known])
        for event in events:
            found.append(self._outcome(event, newest, named))
            if event.id is not None:
                named.add(event.id)
        return found

    def take(self, events: Sequence[Placed]) -> Counted:
        """Count events; every answer from now on is given with them."""
        with self._lock:
            outcomes = self.weigh(events)
            rows: list[tuple[float, int]] = []
            for event, outcome in zip(events, outcomes, strict=True):
                if event.id is not None:
                    self._ids[event.id] = None
                if outcome != "taken":
                    continue
                again = event.again
                if event.user is not None:
                    again |= self._joins(event.user, event.time, event.item)
                if not again and event.item < self._n_items:  # what came since is by vector alone
                    rows.append((event.time, event.item))
            _shorten(self._ids, _MOST_IDS)
            _shorten(self._of, _MOST_USERS)
            if rows:
                self._count(rows)
        return Counted.of(outcomes)

    def of(self, keys: Sequence[Hashable | None]) -> list[NDArray[np.int64]] | None:
        """Rows of what each user took since the log ended, the latest first; None of nobody."""
        sessions = [None if key is None else self._of.get(key) for key in keys]
        if not any(sessions):
            return None
        return [_NOTHING if session is None else session.items[::-1] for session in sessions]

    @property
    def has_users(self) -> bool:
        """Whether any event was of a user."""
        return bool(self._of)

    def _outcome(self, event: Placed, newest: float, named: set[str]) -> Outcome:
        if event.id is not None and (event.id in self._ids or event.id in named):
            return "duplicate"
        if self.log_ends is not None and event.time <= self.log_ends:
            return "old"
        if event.user is None and self.window is not None and event.time < newest - self.window:
            return "old"
        return "unknown" if event.item < 0 else "taken"

    def _joins(self, user: Hashable, time: float, item: int) -> bool:
        """Put an item into a user's session; whether it was there before."""
        session = self._of.get(user, _EMPTY)
        self._of[user] = session.with_item(time, item)  # at no moment is there none
        self._of.move_to_end(user)
        return item in session.items

    def _count(self, rows: list[tuple[float, int]]) -> None:
        """Count rows, and put the scores in place that follow."""
        times, items = (np.array(column) for column in zip(*rows, strict=True))
        self.newest = max(self.newest, float(times.max()))
        state = self._state
        if state is None:
            return
        if self._counts is None:
            from cadc_rec.data.recent_popularity import RecentCounts

            self._counts = RecentCounts([state.window], self._n_items)
            self._counts.feed(state.time, state.item)
        self._counts.feed(times, items)
        # Just after the last row, as a bundle is answered whose log has ended with it.
        ((taken, counts),) = self._counts.counts(float(np.nextafter(self.newest, np.inf)))
        self.recent = state.scored(taken, counts)


@dataclass(frozen=True)
class _Session:
    """What a user took since the log ended, ascending in time; each item where it comes last."""

    times: tuple[float, ...]
    items: NDArray[np.int64]

    def with_item(self, time: float, item: int) -> _Session:
        times, items = list(self.times), self.items
        if item in items:
            place = int(np.flatnonzero(items == item)[0])
            if times[place] > time:
                return self
            del times[place]
            items = np.delete(items, place)
        place = bisect_right(times, time)
        times.insert(place, time)
        items = np.insert(items, place, item)
        return _Session(tuple(times[-_MOST_OF_USER:]), items[-_MOST_OF_USER:])


_NOTHING = np.zeros(0, np.int64)
_EMPTY = _Session((), _NOTHING)


def _shorten(kept: dict[Any, Any], most: int) -> None:
    """Drop those that came first, beyond so many."""
    while len(kept) > most:
        del kept[next(iter(kept))]
