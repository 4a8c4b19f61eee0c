"""The journal of events that clients tell a service, and the predictor that counts them.

In: events. Out: what became of each. An event is kept on the disk first, then counted. The journal
lies beside the bundle; a restart, a reload and other processes that serve the same bundle read it.
It loses what a newer bundle holds. An event of an item that is not known yet waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import Gauge

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.http.journal import Journal, JournalFullError, line_bytes
from cadc_rec.serving.http.load import Busy
from cadc_rec.serving.predict.events import Counted, Event

if TYPE_CHECKING:
    from cadc_rec.serving.predict.new_items import ItemsBeside
    from cadc_rec.serving.predict.predictor import Predictor

_MOST_WAITING = 256  # requests
_MOST_BYTES = 64 << 20
_MOST_UNKNOWN = 10_000  # events that wait for their items
_KIND = "events"
_MENDED = 30.0  # seconds after which to try a disk again

_JOURNAL = Gauge(
    "cadc_rec_events_journal_bytes", "Size of the journal of events.", multiprocess_mode="livemax"
)


class EventLog:
    """The journal of events, and the predictor that counts them.

    Args:
        path: the journal's file, made at the first event.
        most_bytes: of the journal; beyond them the oldest half is dropped.
        before: called before events are counted: they may be of other processes' new items.
    """

    def __init__(
        self,
        path: Path,
        most_bytes: int = _MOST_BYTES,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self._before = path, before
        self._journal = Journal(path, _KIND, most_bytes)
        # The first decides; a second counts as well, and may take its place. Set in one step.
        self._counting: tuple[_Counting, ...] = ()
        self._has_held = False  # records that say nothing to the one that came last
        self._lock = threading.Lock()  # of the journal object and the predictors, among writers
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="events")
        self._waiting: list[tuple[Sequence[Event], asyncio.Future[Counted]]] = []
        self._running = False

    def onto(self, predictor: Predictor) -> None:
        """Let a predictor count: first all that the journal holds, then what is told.

        Raises:
            CadcError: the journal is damaged or cannot be read.
        """
        self.beside(predictor)
        self.settle(predictor)
        self.thin()

    def beside(self, predictor: Predictor) -> None:
        """Let another predictor count all that the journal holds, and then what either is told.

        The first one goes on deciding what becomes of an event, until `settle`.

        Raises:
            CadcError: the journal is damaged or cannot be read.
        """
        journal = Journal(self.path, _KIND)
        records = journal.news().records
        counting = _Counting(predictor)
        counting.count(records)
        self._has_held = len(_kept(records, predictor)) < len(records)
        with self._lock:
            counting.count(journal.news().records)  # what came meanwhile; names count once
            self._counting = (*self._counting[:1], counting)

    def settle(self, predictor: Predictor) -> None:
        """Let this predictor alone count from now on. It does not wait, and fits an event loop."""
        self._counting = tuple(one for one in self._counting if one.predictor is predictor)[-1:]

    def thin(self) -> None:
        """Drop what the predictor's log holds from the journal, if the disk lets it."""
        with self._lock, contextlib.suppress(CadcError):  # a disk that is full or protected
            if self._has_held:
                predictor = self._counting[0].predictor
                self._journal.thin(lambda records: _kept(records, predictor))
                self._has_held = False
            self._catch_up()

    async def take(self, events: Sequence[Event]) -> Counted:
        """Keep events and count them.

        Raises:
            CadcError: the predictor refuses them.
            Busy: too many requests wait, or the disk takes nothing.
        """
        if len(self._waiting) >= _MOST_WAITING:
            raise Busy("too many events wait for the disk; tell them again later.")
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[Counted] = loop.create_future()
        self._waiting.append((events, mine))
        if not self._running:
            self._running = True
            self._next()
        return await mine

    def _next(self) -> None:
        """Take all that wait, by one write; then those that came meanwhile."""
        batch, self._waiting = self._waiting, []
        if not batch:
            self._running = False
            return
        work = asyncio.get_running_loop().run_in_executor(
            self._thread, self._take, [events for events, _ in batch]
        )

        def done(finished: asyncio.Future[list[Counted | Exception]]) -> None:
            for (_, answer), result in zip(batch, finished.result(), strict=True):
                if answer.cancelled():
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)
            self._next()

        work.add_done_callback(done)

    async def watch(self, seconds: float = 1.0) -> None:
        """Count what other processes were told; never returns."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            try:
                await loop.run_in_executor(self._thread, self._follow)
            except CadcError as error:
                log.warning("%s Events of other processes are not counted.", error)
            except Exception as error:  # a record that cannot be counted must not end the rest
                log.error("a defect of cadc-rec: events: %s", error, exc_info=error)

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _take(self, requests: Sequence[Sequence[Event]]) -> list[Counted | Exception]:
        """What became of the events of each request."""
        with self._lock:
            try:
                return self._written(requests)
            except Exception as error:  # each request is answered, whatever happens
                if isinstance(error, CadcError):
                    log.error("%s", error)
                else:
                    log.error("a defect of cadc-rec: %s", error, exc_info=error)
                text = "the journal of events takes nothing, and the service's log says why; "
                return [Busy(f"{text}tell them again later.", _MENDED) for _ in requests]

    def _written(self, requests: Sequence[Sequence[Event]]) -> list[Counted | Exception]:
        with contextlib.suppress(CadcError):  # who follows the items reports it
            self._before()
        first = self._counting[0]
        predictor = first.predictor
        found: list[Counted | Exception] = []
        records: list[dict[str, Any]] = []
        named: set[str] = set()  # by requests of this very batch
        for events in requests:
            new = [e for e in events if e.id not in named and not first.waits(e.id)]
            try:
                outcomes = predictor.weigh(new)
            except CadcError as error:
                found.append(error)
                continue
            named |= {event.id for event in new if event.id is not None}
            counted = Counted.of(outcomes)
            again = len(events) - len(new)
            found.append(replace(counted, duplicates=counted.duplicates + again))
            # An item that is not known yet may be known to a newer bundle.
            kept = ("taken", "unknown")
            records += [_record(e) for e, out in zip(new, outcomes, strict=True) if out in kept]
        if records:
            self._append(records)
            self._catch_up()
        return found

    def _append(self, records: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._journal.append(records)
        except JournalFullError:
            predictor = self._counting[0].predictor
            most = self._journal.most_bytes // 2
            self._journal.thin(lambda old: _latest(_kept(old, predictor), most))
            self._journal.append(records)

    def _follow(self) -> None:
        self._before()
        with self._lock:
            self._catch_up()

    def _catch_up(self) -> None:
        """Count what is new in the journal; each event has a name, so none counts twice."""
        records = self._journal.news().records
        for counting in self._counting:
            counting.count(records)
        _JOURNAL.set(self._journal.size)


def _record(event: Event) -> dict[str, Any]:
    record = {"item": event.item, "time": event.time, "id": event.id or f"~{secrets.token_hex(8)}"}
    return record if event.user is None else {**record, "user": event.user}


class _Counting:
    """A predictor that counts, and the events that wait until it knows their items.

    Args:
        predictor: of a bundle.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._waiting: dict[str | None, Event] = {}  # by name, in the order in which they came
        self._looked: ItemsBeside | None = None  # the items among which they were looked for

    def waits(self, name: str | None) -> bool:
        """Whether an event of this name waits."""
        return name in self._waiting

    def count(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Count the events of a journal, and those that waited for items that have come.

        Events that a bundle of other ids refuses are left out.
        """
        events = [Event(r["item"], r["time"], r.get("user"), r["id"]) for r in records]
        beside = self.predictor.now.beside
        if beside is not self._looked:
            events, self._waiting = [*self._waiting.values(), *events], {}
            self._looked = beside
        if not events:
            return
        try:
            self._count(events)
        except CadcError:
            lost = 0
            for event in events:
                try:
                    self._count([event])
                except CadcError:
                    lost += 1
            log.warning("%d events of the journal are not such as this bundle takes", lost)

    def _count(self, events: Sequence[Event]) -> None:
        known = self.predictor.now.items.rows([event.item for event in events]) >= 0
        pairs = list(zip(events, known.tolist(), strict=True))
        # One that is counted as unknown would be a duplicate when its item comes.
        self.predictor.count([event for event, is_known in pairs if is_known])
        self._waiting |= {event.id: event for event, is_known in pairs if not is_known}
        while len(self._waiting) > _MOST_UNKNOWN:
            del self._waiting[next(iter(self._waiting))]


def _kept(records: Sequence[dict[str, Any]], predictor: Predictor) -> list[dict[str, Any]]:
    """The records that still say something to a bundle."""
    live = predictor.events
    ends = -float("inf") if live.log_ends is None else live.log_ends
    since = live.newest - (live.window or 0.0)
    return [
        record
        for record in records
        if record["time"] > ends and ("user" in record or record["time"] >= since)
    ]


def _latest(records: Sequence[dict[str, Any]], most_bytes: int) -> Sequence[dict[str, Any]]:
    """The last records, at most so many bytes of the journal."""
    size, first = 0, len(records)
    while first:
        size += line_bytes(records[first - 1])
        if size > most_bytes:
            break
        first -= 1
    return records[first:]
