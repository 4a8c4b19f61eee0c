"""The journal of items that a service was told of, and the predictors that have them.

In: items to put beside the bundle's, to change and to remove. Out: how many there are. The journal
lies beside the bundle: a restart, a reload and other processes read it. A newer bundle leaves out
the items that it has itself; what was removed stays removed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from prometheus_client import Gauge

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.http.in_turn import InTurn, as_busy
from cadc_rec.serving.http.journal import Journal, JournalFullError, line_bytes
from cadc_rec.serving.http.load import Busy
from cadc_rec.serving.predict.new_items import (
    Id,
    ItemChanges,
    ItemsBeside,
    ItemState,
    PutItem,
    vector_of,
)
from cadc_rec.serving.predict.put_beside import put_beside

if TYPE_CHECKING:
    from cadc_rec.serving.predict.predictor import Predictor

Request: TypeAlias = tuple[Sequence[PutItem], Sequence[Id]]
"""Items to put, and ids of items to remove."""
Record: TypeAlias = Mapping[str, Any]

_MOST_ITEMS = 10_000
_MOST_REMOVED = 1_000_000
_MOST_BYTES = 64 << 20
_KIND = "items"
_ITEMS = Gauge(
    "cadc_rec_new_items",
    "Items that the service was told of, by what became of them.",
    ("what",),
    multiprocess_mode="livemax",
)
_JOURNAL = Gauge(
    "cadc_rec_items_journal_bytes", "Size of the journal of items.", multiprocess_mode="livemax"
)


@dataclass(frozen=True)
class ItemsNow:
    """What a service has beside its bundle.

    Attributes:
        new: items that the bundle does not have.
        changed: items of the bundle of which something else was told.
        removed: items of the bundle that were removed.
        unknown: of the request, ids to remove that were no item's.
    """

    new: int
    changed: int
    removed: int
    unknown: int = 0

    @classmethod
    def of(cls, beside: ItemsBeside, unknown: int = 0) -> ItemsNow:
        """The numbers of what was told."""
        new = sum(item in beside.states for item in beside.behind)
        return cls(new, len(beside.states) - new, len(beside.removed), unknown)


class ItemLog:
    """The journal of items, and the predictors that have them.

    Args:
        path: the journal's file, made when something is told.
        most_items: that may be put, new and changed ones together.
        most_bytes: of the journal.
        then: called whenever predictors have other items, in the thread that gave them these.
    """

    def __init__(
        self,
        path: Path,
        most_items: int = _MOST_ITEMS,
        most_bytes: int = _MOST_BYTES,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = Journal(path, _KIND, most_bytes)
        self._most, self._then = most_items, then
        self._last: dict[Id, Record] = {}  # what the journal says of each item
        # The first answers; a second may take its place. Set in one step.
        self._bundles: tuple[Predictor, ...] = ()
        self._replaced: Predictor | None = None  # until `thin`
        self._lock = threading.Lock()
        self._in_turn = InTurn(_KIND, self._answers)

    def onto(self, predictor: Predictor) -> None:
        """Let a bundle's predictor have the journal's items (`Predictor.now`).

        Raises:
            CadcError: the journal is damaged or cannot be read.
        """
        self.beside(predictor)
        self.settle(predictor)

    def beside(self, predictor: Predictor) -> None:
        """Let another bundle's predictor have them as well, until `settle`.

        Raises:
            CadcError: the journal is damaged or cannot be read.
        """
        with self._lock:
            self._follow()
            _let_have(predictor, self._last.values(), anew=True)
            self._bundles = (*self._bundles[:1], predictor)
            self._show()

    def settle(self, predictor: Predictor) -> None:
        """Let this predictor alone follow from now on. It does not wait, and fits an event loop."""
        if self._bundles[0] is not predictor:
            self._replaced = self._bundles[0]
        self._bundles = (predictor,)

    def thin(self) -> None:
        """Drop what says nothing to this bundle or the one before, if the disk lets it.

        Other processes still answer with the one before: its items are theirs.
        """
        with self._lock, contextlib.suppress(CadcError):  # a disk that is full or protected
            replaced, self._replaced = self._replaced, None
            if replaced is None:
                return
            bundles = (self._bundles[0], replaced)
            if len(_kept(self._last.values(), *bundles)) < len(self._last):
                self._journal.thin(lambda records: _kept(_last_words(records), *bundles))
            self._follow()

    async def tell(self, put: Sequence[PutItem], remove: Sequence[Id]) -> ItemsNow:
        """Put and remove items; every answer from now on is given with it.

        Raises:
            CadcError: an item is refused; see `Predictor.with_items`.
            Busy: the journal cannot be used, or too much waits for it or would be kept.
        """
        return await self._in_turn.ask((put, remove))

    async def watch(self, seconds: float = 0.25) -> None:
        """Follow what other processes were told; never returns."""
        await self._in_turn.watch(seconds, self.follow)

    def follow(self) -> None:
        """Let the predictors have what is new in the journal.

        Raises:
            CadcError: the journal is damaged or cannot be read.
        """
        with self._lock:
            changed = self._follow()
        if changed:
            self._tell_others()

    def close(self) -> None:
        """Let the thread go, and what waits for it."""
        self._in_turn.close()

    def _answers(self, requests: Sequence[Request]) -> list[ItemsNow | Exception]:
        with self._lock:
            found = self._told_apart(requests)
        self._tell_others()
        return found

    def _told_apart(self, requests: Sequence[Request]) -> list[ItemsNow | Exception]:
        """What becomes of each request; where all have no room, those that put nothing have.

        Raises:
            CadcError: the journal cannot be used; nothing has changed.
        """
        try:
            return self._told(requests)
        except Busy as full:
            puts = [bool(put) for put, _ in requests]
            if all(puts) or not any(puts):
                raise
            found: list[ItemsNow | Exception] = [full] * len(requests)
        for puts_some in (False, True):  # what is removed makes room
            places = [n for n, one in enumerate(puts) if one is puts_some]
            try:
                answers = self._told([requests[n] for n in places])
            except Exception as error:  # what the others were told holds
                answers = [as_busy(error, _KIND)] * len(places)
            for n, answer in zip(places, answers, strict=True):
                found[n] = answer
        return found

    def _told(self, requests: Sequence[Request]) -> list[ItemsNow | Exception]:
        """What becomes of each request.

        Raises:
            Busy: the journal has no room for all of them; nothing has changed.
            CadcError: the journal cannot be used; nothing has changed.
        """
        self._follow()
        predictor = self._bundles[0].now
        beside, items = predictor.beside, predictor.bundle.items
        found: list[ItemsNow | Exception] = []
        records: dict[Id, Record] = {}
        for put, remove in requests:
            try:
                changes = predictor.read_items(put, remove, beside)
                after = beside.after(changes, items)
                self._require_room(beside, after)
            except CadcError as error:
                found.append(error)
                continue
            of_bundle = zip(changes.removed, items.rows(changes.removed).tolist(), strict=True)
            gone = [
                one
                for one, row in of_bundle
                if one in beside.states or (row >= 0 and one not in beside.removed)
            ]
            beside = after
            found.append(ItemsNow.of(beside, len(changes.removed) - len(gone)))
            version = predictor.fingerprint
            records |= {state.item: _record(state, version) for state in changes.put}
            records |= {one: {"item": one, "removed": True} for one in gone}
        if records:
            self._append(list(records.values()))
            self._follow()
        return found

    def _require_room(self, before: ItemsBeside, after: ItemsBeside) -> None:
        more = len(after.states) > max(self._most, len(before.states))
        more |= len(after.removed) > max(_MOST_REMOVED, len(before.removed))
        # Rows are not given again, so many ids that came and went take memory, too.
        if more or len(after.behind) > max(_MOST_REMOVED, len(before.behind)):
            raise Busy(
                f"at most {self._most:,} items are put beside a bundle, and {_MOST_REMOVED:,} "
                "removed from it; export a bundle that has them."
            )

    def _append(self, records: Sequence[Record]) -> None:
        try:
            self._journal.append(records)
        except JournalFullError:
            try:
                self._journal.thin(lambda old: self._shortened([*old, *records]))
            except JournalFullError:
                raise Busy(
                    "the journal of items is full; export a bundle that has them, or allow it more "
                    "(--max-new-items-mib)."
                ) from None

    def _shortened(self, records: Iterable[Record]) -> list[Record]:
        """The last words on each item; where they alone fill half of the journal, fewer."""
        last = _last_words(records)
        if 2 * line_bytes({"records": last}) > self._journal.most_bytes:
            return _kept(last, self._bundles[0])
        return last  # other processes may serve a bundle to which they all say something

    def _read(self) -> tuple[list[Record], bool]:
        """What is new in the journal, and whether that is all there is."""
        news = self._journal.news()
        if news.anew:
            self._last = {}
        for record in news.records:
            self._last.pop(record["item"], None)  # the order is that of the last words
            self._last[record["item"]] = record
        return list(self._last.values()) if news.anew else _last_words(news.records), news.anew

    def _follow(self) -> bool:
        """Let the predictors have what is new; whether there was anything."""
        records, anew = self._read()
        if not (records or anew):
            return False
        for bundle in self._bundles:
            _let_have(bundle, records, anew)
        self._show()
        return True

    def _tell_others(self) -> None:
        try:
            self._then()
        except CadcError as error:  # they look again by themselves
            log.warning("%s", error)
        except Exception as error:  # the items are kept: who told of them must hear it
            log.error("a defect of cadc-rec: items: %s", error, exc_info=error)

    def _show(self) -> None:
        if not self._bundles:
            return
        now = ItemsNow.of(self._bundles[0].now.beside)
        for what, count in (("new", now.new), ("changed", now.changed), ("removed", now.removed)):
            _ITEMS.labels(what).set(count)
        _JOURNAL.set(self._journal.size)


def _let_have(bundle: Predictor, records: Iterable[Record], anew: bool) -> None:
    """Give a bundle's predictor what records say.

    Args:
        bundle: without any items beside it.
        records: the last words on each item.
        anew: whether these are all there are; else they come after what it has.
    """
    before = bundle.now.beside
    if anew:  # rows stay those of their items
        before = ItemsBeside(behind=before.behind)
    beside = before.after(_changes(list(records), bundle), bundle.items)
    bundle.live.now = put_beside(bundle, beside)


def _changes(records: Sequence[Record], bundle: Predictor) -> ItemChanges:
    """What records say to a bundle."""
    put: list[ItemState] = []
    removed: list[Id] = []
    unmade: list[ItemState] = []
    lost = 0
    for record in records:
        try:
            item = bundle.items.in_form(record["item"])
            if item is None:
                raise CadcError(f"{record['item']!r:.80} is no id.")
            if record.get("removed"):
                removed.append(item)
            elif _says_something(record, bundle):
                state = _state(item, record, bundle)
                (unmade if state.made and state.vector is None else put).append(state)
        except CadcError:
            lost += 1
    made, failed = _with_vectors(unmade, bundle)
    if lost + failed:
        log.warning("%d items of the journal are not such as this bundle takes", lost + failed)
    return ItemChanges([*put, *made], removed)


def _with_vectors(states: Sequence[ItemState], bundle: Predictor) -> tuple[list[ItemState], int]:
    """States with vectors that the bundle makes, and of how many it makes none."""
    if not states:
        return [], 0
    new_items = bundle.new_items
    try:
        if new_items is None:
            raise CadcError("this bundle describes no items.")
        vectors = new_items.vectors([state.attributes for state in states])
    except CadcError:
        if len(states) == 1 or new_items is None or new_items.why_not is not None:
            return [], len(states)
        half = len(states) // 2  # a call costs much, whatever the number of items
        parts = [_with_vectors(some, bundle) for some in (states[:half], states[half:])]
        return [one for made, _ in parts for one in made], sum(lost for _, lost in parts)
    return [replace(s, vector=vector) for s, vector in zip(states, vectors, strict=True)], 0


def _state(item: Id, record: Record, bundle: Predictor) -> ItemState:
    """The state of a record.

    Raises:
        CadcError: the bundle takes no such item.
    """
    new_items, attributes = bundle.new_items, dict[str, Any]()
    for name, value in record.get("attributes", {}).items():
        with contextlib.suppress(CadcError):  # of a bundle of other attributes
            attributes |= {} if new_items is None else new_items.values({name: value})
    made, text, vector = bool(record.get("made")), record.get("vector"), None
    if text is not None and not (made and record["of"] != bundle.fingerprint):
        try:
            numbers = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
        except (binascii.Error, ValueError, TypeError):
            raise CadcError("a vector of the journal is none.") from None
        vector = vector_of(numbers, bundle.item_vectors.vectors.shape[1])
    return ItemState(item, attributes, vector, made, record.get("title"))


def _record(state: ItemState, fingerprint: str) -> Record:
    found: dict[str, Any] = {"item": state.item, "of": fingerprint}
    if state.attributes:
        found["attributes"] = dict(state.attributes)
    if state.vector is not None:
        found["vector"] = base64.b64encode(state.vector.astype("<f4").tobytes()).decode()
    if state.made:
        found["made"] = True
    if state.title is not None:
        found["title"] = state.title
    return found


def _last_words(records: Iterable[Record]) -> list[Record]:
    """What is said of each item at last."""
    last: dict[Id, Record] = {}
    for record in records:
        last.pop(record["item"], None)
        last[record["item"]] = record
    return list(last.values())


def _kept(records: Iterable[Record], *bundles: Predictor) -> list[Record]:
    """The records that still say something to any of these bundles."""
    return [
        record for record in records if any(_says_something(record, bundle) for bundle in bundles)
    ]


def _says_something(record: Record, bundle: Predictor) -> bool:
    """Whether a bundle follows a record.

    What was put is dropped by a newer bundle that has the item, and what was removed by one that
    does not.
    """
    try:
        known = int(bundle.items.rows([record["item"]])[0]) >= 0
    except CadcError:  # of a bundle of other ids
        return False
    if record.get("removed"):
        return known
    return not known or record["of"] == bundle.fingerprint
