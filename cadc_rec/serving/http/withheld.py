"""The journal of items that a service withholds, and the predictor that leaves them out.

In: items to withhold and to release. Out: how many are withheld. The journal lies beside the
bundle: a restart, a reload and other processes read it, and what was told of an item holds until
something else is told of it, also with newer bundles. Items that a bundle has as sold out are
withheld from its start; that they are back is told of this bundle alone, for a newer one knows
anew what is sold out.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Gauge

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.in_turn import InTurn
from cadc_rec.serving.http.journal import Journal, JournalFullError
from cadc_rec.serving.http.load import Busy

if TYPE_CHECKING:
    from cadc_rec.serving.predict.predictor import Predictor

Id = int | str
Request: TypeAlias = tuple[Sequence[Id], Sequence[Id]]
"""What to withhold, and what to release."""

_MOST_WITHHELD = 1_000_000
_MOST_BYTES = 64 << 20
_KIND = "availability"
_WITHHELD = Gauge(
    "cadc_rec_withheld_items",
    "Items that the service withholds until they are released.",
    multiprocess_mode="livemax",
)


class Withheld:
    """The journal of what is withheld, and the predictor that leaves it out.

    Args:
        path: the journal's file, made when something is told.
        most_bytes: of the journal.
    """

    def __init__(self, path: Path, most_bytes: int = _MOST_BYTES) -> None:
        self._journal = Journal(path, _KIND, most_bytes)
        self._items: dict[Id, int] = {}  # what is withheld, as it was written, and its row or -1
        self._written_as: dict[int, set[Id]] = {}  # by row: an item may be named in several ways
        self._back: dict[Id, str] = {}  # what was sold out and released, and of which bundle
        self._sold_out = np.zeros(0, np.int64)  # rows of the rest, ascending
        self._count = 0  # of what is withheld until it is released
        self._rows_of: Predictor | None = None  # whose rows these are
        self._looked_at: Predictor | None = None  # it, with the items that were beside it then
        # The first answers; a second may take its place. Set in one step.
        self._followers: tuple[Predictor, ...] = ()
        self._lock = threading.Lock()
        self._in_turn = InTurn("withheld items", self._answers)

    def onto(self, predictor: Predictor) -> None:
        """Let a predictor leave out what is withheld.

        Raises:
            CadcError: the journal is damaged or cannot be read.
        """
        self.beside(predictor)
        self.settle(predictor)

    def beside(self, predictor: Predictor) -> None:
        """Let another predictor leave it out as well, until `settle`.

        Raises:
            CadcError: the journal is damaged or cannot be read.
        """
        with self._lock:
            before = self._followers
            self._followers = (*before[:1], predictor)
            try:
                self._follow(anew=True)
            except CadcError:
                self._followers = before
                raise

    def settle(self, predictor: Predictor) -> None:
        """Let this predictor alone follow from now on. It does not wait, and fits an event loop."""
        self._followers = (predictor,)

    async def tell(self, withhold: Sequence[Id], release: Sequence[Id]) -> tuple[int, int]:
        """Withhold and release items; what is in both is released.

        Returns:
            How many items are withheld in all, and how many of the ids are no item's; these hold
            for a newer bundle.

        Raises:
            CadcError: an id is of the wrong type.
            Busy: the journal cannot be used, or too much waits for it or would be withheld.
        """
        return await self._in_turn.ask((withhold, release))

    async def watch(self, seconds: float = 0.5) -> None:
        """Follow what other processes were told; never returns."""
        await self._in_turn.watch(seconds, self.follow)

    def close(self) -> None:
        """Let the thread go, and what waits for it."""
        self._in_turn.close()

    def _answers(self, requests: Sequence[Request]) -> list[tuple[int, int] | Exception]:
        with self._lock:
            return self._told(requests)

    def _told(self, requests: Sequence[Request]) -> list[tuple[int, int] | Exception]:
        """What becomes of each request.

        Raises:
            CadcError: the journal cannot be used; nothing has changed.
        """
        self._follow()
        refusals: dict[int, CadcError] = {}
        unknown: dict[int, int] = {}
        for more in (True, False):  # while there is no room, what only releases is taken
            pending, count = dict[Id, bool](), len(self._items)
            for n, (withhold, release) in enumerate(requests):
                if n in refusals:
                    continue
                try:
                    mine, unknown[n] = self._changes(pending, withhold, release)
                    grown = count + sum(
                        1 if out else -1
                        for one, out in mine.items()
                        if out != pending.get(one, one in self._items)
                    )
                    if grown > _MOST_WITHHELD and True in mine.values():
                        raise Busy(
                            f"at most {_MOST_WITHHELD:,} items are withheld; release some, or "
                            "export a bundle without them."
                        )
                except CadcError as error:
                    refusals[n] = error
                else:
                    pending.update(mine)
                    count = grown
            # What is released and was not told of was sold out.
            news = {one: out for one, out in pending.items() if not (out and one in self._items)}
            try:
                if news:
                    self._append(self._records(news))
                break
            except JournalFullError:
                if not more:
                    raise
                full = Busy(
                    "the journal of withheld items is full; release some, or export a bundle "
                    "without them."
                )
                refusals |= {n: full for n, (withhold, _) in enumerate(requests) if withhold}
        self._follow()
        return [refusals.get(n) or (self._count, unknown[n]) for n in range(len(requests))]

    def _records(self, news: Mapping[Id, bool]) -> list[dict[str, Any]]:
        """What the journal says of items, given whether each is withheld."""
        assert self._rows_of is not None
        sold_out, of = self._rows_of.sold_out, {"of": self._rows_of.fingerprint}
        back = _among(_rows(self._rows_of, list(news)), sold_out).tolist()
        return [
            {"item": one, "withheld": out, **(of if was and not out else {})}
            for (one, out), was in zip(news.items(), back, strict=True)
        ]

    def _changes(
        self, pending: Mapping[Id, bool], withhold: Sequence[Id], release: Sequence[Id]
    ) -> tuple[dict[Id, bool], int]:
        """What a request changes, and how many of its ids are no item's.

        Args:
            pending: changes that are not written yet: whether each id is withheld.
            withhold: of the request.
            release: of the request.

        Raises:
            CadcError: an id is of the wrong type.
        """
        assert self._rows_of is not None
        named, items = list(dict.fromkeys([*withhold, *release])), self._rows_of.now.items
        rows = items.rows(named)
        freed, mine = set(release), dict[Id, bool]()
        sold_out = set(rows[_among(rows, self._sold_out)].tolist())
        freed_rows = {row for one, row in zip(named, rows.tolist(), strict=True) if one in freed}
        for one, row, own in zip(named, rows.tolist(), items.of_rows(rows).tolist(), strict=True):
            # As the bundle writes it; and as it was written before a bundle had the item.
            forms = {one} if row < 0 else {own, *self._written_as.get(row, ())}
            held = [form for form in forms if pending.get(form, form in self._items)]
            if one in freed or (row >= 0 and row in freed_rows):
                mine |= dict.fromkeys([*held, *([own] if row in sold_out else [])], False)
            elif not held:
                mine[one if row < 0 else own] = True
        return mine, int((rows < 0).sum())

    def _append(self, records: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._journal.append(records)
        except JournalFullError:
            assert self._rows_of is not None
            of = self._rows_of.fingerprint
            self._journal.thin(lambda old: _last_words([*old, *records], of))

    def follow(self) -> None:
        """Leave out what other processes were told, and what came since it was told of.

        Raises:
            CadcError: the journal is damaged or cannot be read.
        """
        with self._lock:
            self._follow()

    def _follow(self, anew: bool = False) -> None:
        """Read what is new in the journal, and let the predictors know if anything is."""
        news = self._journal.news()
        first, *others = self._followers
        anew, now = anew or first is not self._rows_of, first.now
        came, self._looked_at = now is not self._looked_at, now
        if not (news.records or news.anew or anew or came):
            return
        if news.anew or anew:
            before = [] if news.anew else list(self._items)
            self._items, self._written_as, self._rows_of = {}, {}, first
            self._back = {} if news.anew else self._back
            self._hold(before)
        elif came:  # an item that nobody had may be there now
            self._hold([one for one, row in self._items.items() if row < 0])
        last = {record["item"]: record["withheld"] for record in news.records}
        for record in news.records:
            self._back.pop(record["item"], None)
            if "of" in record:
                self._back[record["item"]] = record["of"]
        for one in last:
            row = self._items.pop(one, -1)
            if row >= 0:
                self._written_as[row].discard(one)
                if not self._written_as[row]:
                    del self._written_as[row]
        self._hold([one for one, out in last.items() if out])
        self._sold_out = self._still_sold_out(first)
        told = np.fromiter(self._written_as, np.int64, len(self._written_as))
        first.withhold(np.union1d(told, self._sold_out))
        for other in others:
            rows = _rows(other, list(self._items))
            other.withhold(np.union1d(rows[rows >= 0], self._still_sold_out(other)))
        self._count = len(self._items) + len(np.setdiff1d(self._sold_out, told))
        _WITHHELD.set(self._count)

    def _still_sold_out(self, predictor: Predictor) -> NDArray[np.int64]:
        """Rows of what a bundle has as sold out and was not released of it."""
        if not len(predictor.sold_out):
            return predictor.sold_out
        back = [one for one, of in self._back.items() if of == predictor.fingerprint]
        return np.setdiff1d(predictor.sold_out, _rows(predictor, back))

    def _hold(self, named: list[Id]) -> None:
        assert self._rows_of is not None
        for one, row in zip(named, _rows(self._rows_of, named).tolist(), strict=True):
            self._items[one] = row
            if row >= 0:
                self._written_as.setdefault(row, set()).add(one)


def _last_words(records: Iterable[Mapping[str, Any]], of: str) -> list[dict[str, Any]]:
    """What is withheld at the end of a journal, and what is back of the bundle `of`."""
    last = {record["item"]: dict(record) for record in records}
    return [one for one in last.values() if one["withheld"] or one.get("of") == of]


def _among(rows: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the rows are among others."""
    if not len(ascending):
        return np.zeros(len(rows), np.bool_)
    places = np.minimum(np.searchsorted(ascending, rows), len(ascending) - 1)
    return np.asarray(ascending[places] == rows)


def _rows(predictor: Predictor, named: list[Id]) -> NDArray[np.int64]:
    """Row of each item; -1 of one that is unknown, or of a type that the bundle refuses."""
    with contextlib.suppress(CadcError):
        return predictor.now.items.rows(named)
    rows = np.full(len(named), -1, np.int64)
    for n, one in enumerate(named):
        with contextlib.suppress(CadcError):
            rows[n] = predictor.now.items.rows([one])[0]
    return rows
