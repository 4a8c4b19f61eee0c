"""The journal of items that a service withholds, and the predictor that leaves them out.

In: items to withhold and to release. Out: how many are withheld. The journal lies beside the
bundle: a restart, a reload and other processes read it, and what was told of an item holds until
something else is told of it, also with newer bundles.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from prometheus_client import Gauge

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.http.journal import Journal, JournalFullError
from cadc_rec.serving.http.load import Busy

if TYPE_CHECKING:
    from cadc_rec.serving.predict.predictor import Predictor

Id = int | str

_MOST_WITHHELD = 1_000_000
_MOST_BYTES = 64 << 20
_KIND = "availability"
_MENDED = 30.0  # seconds after which to try a disk again
_WITHHELD = Gauge(
    "cadc_rec_withheld_items",
    "Items that the service was told to withhold.",
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
        self._items: dict[Id, None] = {}
        # The first answers; a second may take its place. Set in one step.
        self._followers: tuple[Predictor, ...] = ()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="availability")

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
            Busy: the disk takes nothing, or too many would be withheld.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._tell, withhold, release)

    async def watch(self, seconds: float = 0.5) -> None:
        """Follow what other processes were told; never returns."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            try:
                await loop.run_in_executor(self._thread, self._followed)
            except CadcError as error:
                log.warning("%s What other processes withhold is not known.", error)
            except Exception as error:  # a record that says nothing must not end the rest
                log.error("a defect of cadc-rec: withheld items: %s", error, exc_info=error)

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _tell(self, withhold: Sequence[Id], release: Sequence[Id]) -> tuple[int, int]:
        with self._lock:
            self._follow()
            every, unknown = self._as_the_bundle_has(list(dict.fromkeys([*withhold, *release])))
            freed = {every[one] for one in release}
            more = [every[one] for one in dict.fromkeys(withhold)]
            more = [one for one in more if one not in freed and one not in self._items]
            if len(self._items) + len(more) > _MOST_WITHHELD:
                raise Busy(
                    f"at most {_MOST_WITHHELD:,} items are withheld; release some, or export "
                    "a bundle without them."
                )
            records = [{"item": one, "withheld": True} for one in more]
            records += [{"item": one, "withheld": False} for one in freed if one in self._items]
            try:
                if records:
                    self._append(records)
            except CadcError as error:
                log.error("%s", error)
                raise Busy(
                    "the journal of withheld items takes nothing, and the service's log says why; "
                    "tell it again later.", _MENDED,
                ) from None  # fmt: skip
            self._follow()
            return len(self._items), unknown

    def _as_the_bundle_has(self, ids: list[Id]) -> tuple[dict[Id, Id], int]:
        """Each id as the bundle writes it, and how many no item has, which stay as they are."""
        items = self._followers[0].items
        rows = items.rows(ids)
        written = zip(ids, items.of_rows(rows).tolist(), (rows >= 0).tolist(), strict=True)
        return {one: own if known else one for one, own, known in written}, int((rows < 0).sum())

    def _append(self, records: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._journal.append(records)
        except JournalFullError:
            self._journal.thin(_last_words)
            self._journal.append(records)

    def _followed(self) -> None:
        with self._lock:
            self._follow()

    def _follow(self, anew: bool = False) -> None:
        """Read what is new in the journal, and let the predictor know if anything is."""
        news = self._journal.news()
        if news.anew:
            self._items = {}
        for record in news.records:
            if record["withheld"]:
                self._items[record["item"]] = None
            else:
                self._items.pop(record["item"], None)
        if news.records or news.anew or anew:
            for predictor in self._followers:
                predictor.withhold(_rows(predictor, self._items))
            _WITHHELD.set(len(self._items))


def _last_words(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is withheld at the end of a journal."""
    last = {record["item"]: record["withheld"] for record in records}
    return [{"item": item, "withheld": True} for item, withheld in last.items() if withheld]


def _rows(predictor: Predictor, items: Iterable[Id]) -> np.ndarray:
    """Rows of items; ids that a bundle of other ids refuses are none of its items."""
    named = list(items)
    with contextlib.suppress(CadcError):
        rows = predictor.items.rows(named)
        return rows[rows >= 0]
    found = []
    for one in named:
        with contextlib.suppress(CadcError):
            found.append(int(predictor.items.rows([one])[0]))
    rows = np.array(found, np.int64)
    return rows[rows >= 0]
