"""The bundle that answers, and how a new one replaces it.

In: a path. Out: the current predictor. A new bundle is used only after it is verified and its
self-test has passed; until then, or if that fails, the old bundle goes on answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kserve.errors import ModelNotFound
from kserve.model_repository import ModelRepository
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from prometheus_client import Counter, Gauge

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.machine import give_back_freed_memory
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.self_test import run_self_test
from cadc_rec.serving.bundle.signing import verification_key
from cadc_rec.serving.predict.predictor import Predictor
from cadc_rec.serving.predict.top_k import load_ahead
from cadc_rec.store.remote.cache import let_go
from cadc_rec.store.remote.finished import brought, newest

if TYPE_CHECKING:
    from cadc_rec.serving.http.event_log import EventLog
    from cadc_rec.serving.http.item_log import ItemLog
    from cadc_rec.serving.http.withheld import Withheld

_MOST_WAITING = 256  # requests, of 2 MiB each at most, for what the first ones do not need
_SHOWN = 3  # differences of a self-test that a message names

_RELOADS = Counter("cadc_rec_reloads", "Bundles loaded or refused.", ("outcome",))
_LOADED = Gauge(
    "cadc_rec_bundle_loaded_timestamp_seconds",
    "When the current bundle was loaded.",
    ("fingerprint",),
    multiprocess_mode="livemax",
)


def load_tested(path: Path | str, verify_key: Path | None) -> tuple[Predictor, Path]:
    """The predictor of the bundle at a path or an address, verified and tested; and its folder.

    Raises:
        CadcError: it is changed, incomplete or not signed as required, or its answers differ from
            those at export.
    """
    # The link may change meanwhile: read all files from the folder that it names now.
    bundle = Bundle.open(brought(path).resolve(), verification_key(verify_key))
    predictor = Predictor.of(bundle)
    update = bundle.model().get("update")
    if update is not None:
        log.info("%s is of %s", path, update["text"])

    def recommend(
        users: Sequence[Any], k: int, **moments: Any
    ) -> tuple[list[list[Any]], list[list[float]]]:
        found = predictor.recommend(users, k, **moments)
        scores = [row[:n].tolist() for row, n in zip(found.scores, found.counts, strict=True)]
        return found.lists(), scores

    others = bundle.other_versions()
    if others:
        log.warning("%s was exported with %s; its self-test decides.", path, ", ".join(others))
    verdict = run_self_test(bundle, recommend)
    if not verdict.passed:
        raise CadcError(
            f"{path}: the self-test failed ({len(verdict.wrong)} of {verdict.requests} requests): "
            + "; ".join(verdict.wrong[:_SHOWN])
            + (f" (it was exported with {', '.join(others)})" if others else "")
        )
    return predictor, bundle.path


def use_one_thread() -> None:
    """Have torch use the caller's thread alone.

    One call answers many users with vector instructions; threads that wake for each would cost more
    than they do, and would take the cores from the loop that reads the next requests.
    """
    import torch

    torch.set_num_threads(1)


class Loaded:
    """The current predictor.

    Args:
        path: path of the bundle, or of a link to it, or its address in a store.
        verify_key: file with the public key that bundles must be signed with.
        events: what clients tell; each bundle counts it before it answers.
        withheld: items that no answer has.
        items: that are put beside the bundle's, changed and removed.

    Raises:
        CadcError: see `load_tested`; or the journal of events is damaged.
    """

    def __init__(
        self,
        path: Path | str,
        verify_key: Path | None = None,
        events: EventLog | None = None,
        withheld: Withheld | None = None,
        items: ItemLog | None = None,
    ) -> None:
        self.path, self.verify_key = path, verify_key
        self.events, self.withheld, self.items = events, withheld, items
        # What is told of an item is told of one that is there: they come first.
        self._told = [told for told in (items, events, withheld) if told is not None]
        self._one_at_a_time = asyncio.Lock()
        self._tasks = set[asyncio.Task[Predictor]]()  # the loop itself holds them weakly
        self._whole, self._waiting = asyncio.Event(), 0
        self._seen = self._look()
        self._bundle, self._folder = load_tested(path, verify_key)
        for told in self._told:
            told.onto(self._bundle)
        _LOADED.labels(self.predictor.fingerprint).set(time.time())

    @property
    def predictor(self) -> Predictor:
        """What answers now: the bundle, with the items that were put beside it."""
        return self._bundle.now

    async def reload(self) -> Predictor:
        """Load the bundle at the path; on any failure keep the old one.

        Raises:
            CadcError: the bundle was refused.
        """
        # Whoever asked may be given up, by a deadline. The load goes on: half of one would be lost.
        task = asyncio.create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _reload(self) -> Predictor:
        async with self._one_at_a_time:
            seen = await asyncio.to_thread(self._look)
            try:
                predictor, folder = await asyncio.to_thread(self._load)
            except Exception as error:
                self._seen = seen
                for told in self._told:
                    told.settle(self._bundle)
                _RELOADS.labels("refused").inc()
                log.error("refused: %s The old bundle goes on answering.", error)
                if isinstance(error, CadcError):
                    raise
                raise CadcError(
                    f"{self.path}: cannot be loaded ({type(error).__name__})."
                ) from error
            old = self._bundle
            _LOADED.labels(self.predictor.fingerprint).set(0)  # where workers share metrics,
            _LOADED.clear()  # this leaves it there
            _LOADED.labels(predictor.fingerprint).set(time.time())
            _RELOADS.labels("loaded").inc()
            if folder != self._folder:
                let_go(self._folder)
            for told in self._told:  # in the same step of the loop as the answers
                told.settle(predictor)
            self._bundle, self._seen, self._folder = predictor, seen, folder
            for kept in (self.items, self.events):
                if kept is not None:
                    await asyncio.to_thread(kept.thin)
            # What answers with items beside a bundle and that bundle hold each other. The collector
            # comes seldom, and never to what was frozen: the last answer lets them go. By now the
            # journal's thread follows the new bundle alone: it has thinned the journal since.
            old.live.now = None
            del old
            await asyncio.to_thread(give_back_freed_memory)  # each load has a thread of its own
            log.info("loaded %s (%s)", predictor.name, predictor.fingerprint[:12])
            return predictor

    def _load(self) -> tuple[Predictor, Path]:
        predictor, folder = load_tested(self.path, self.verify_key)
        predictor.load_ahead()
        # Last of all: a refused bundle must not take along what was told.
        for told in self._told:
            told.beside(predictor)
        return predictor, folder

    async def load_ahead(self) -> None:
        """Load what the first requests do not need, beside answering them."""
        try:
            await asyncio.to_thread(self._ahead)
        except CadcError as error:
            log.error("%s Requests that need it are refused.", error)
        finally:
            self._whole.set()

    async def until_whole(self, seconds: float) -> bool:
        """Wait for `load_ahead`, so long at most; whether it is done.

        Those who wait hold their requests in memory, so more than some do not wait.
        """
        if not self._whole.is_set() and self._waiting < _MOST_WAITING:
            self._waiting += 1
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._whole.wait(), seconds)
            finally:
                self._waiting -= 1
        return self._whole.is_set()

    def _ahead(self) -> None:
        # Libraries make half a million objects. The collector would look through them again and
        # again while many requests are under way, a tenth of a second each time. What the bundle
        # makes comes later: it is to go when the bundle goes.
        if not gc.get_freeze_count():  # nor has a parent of workers done it
            load_ahead()
            gc.freeze()
            self.predictor.load_libraries()
            gc.collect()
            gc.freeze()
        self.predictor.load_ahead()
        use_one_thread()

    async def watch(self, seconds: float) -> None:
        """Reload whenever the path has a new bundle; never returns.

        A refused bundle is not tried again until it changes.
        """
        while True:
            await asyncio.sleep(seconds)
            if await asyncio.to_thread(self._look) not in (self._seen, None):
                try:
                    await self.reload()
                except CadcError:
                    continue  # `reload` has reported it

    def _look(self) -> tuple[str | int, ...] | None:
        """What distinguishes the bundle there from another; None if there is none."""
        if isinstance(self.path, str):
            try:
                return newest(self.path)
            except CadcError as error:  # the store may answer at the next look
                log.warning("%s The old bundle goes on answering.", error)
                return None
        try:
            folder = os.path.realpath(self.path)
            manifest = os.stat(os.path.join(folder, layout.MANIFEST))
        except OSError:
            return None
        return folder, manifest.st_mtime_ns, manifest.st_ino


class KeyNeeded(CadcError):
    """A service without an API key does not let the network change its model."""


class NotUnloaded(CadcError):
    """A service's one model cannot be unloaded."""


class Repository(ModelRepositoryExtension):
    """The protocol's repository calls: a load reads the bundle's path again.

    Args:
        models: KServe's repository.
        reload: loads the bundle anew, in all workers.
        name: the one model's name.
        with_key: whether the service has an API key; without one nothing can be changed.
    """

    def __init__(
        self,
        models: ModelRepository,
        reload: Callable[[], Awaitable[Any]],
        name: str,
        with_key: bool,
    ) -> None:
        super().__init__(models)
        self.reload, self.name, self.with_key = reload, name, with_key

    async def load(self, model_name: str) -> dict[str, Any]:
        """Reload; the result is what KServe's servicer sends.

        Raises:
            KeyNeeded: the service has no key.
            ModelNotFound: there is no model of that name.
            CadcError: the bundle was refused; the old one goes on answering.
        """
        self._require("load", model_name)
        try:
            await self.reload()
        except CadcError as error:
            raise CadcError(f"{error} The old bundle goes on answering.") from None
        return {"name": model_name, "load": True}

    async def unload(self, model_name: str) -> dict[str, Any]:
        """Refuse.

        Raises:
            KeyNeeded: the service has no key.
            ModelNotFound: there is no model of that name.
            NotUnloaded: always.
        """
        self._require("unload", model_name)
        raise NotUnloaded("the model cannot be unloaded; stop the service instead.")

    def _require(self, what: str, model_name: str) -> None:
        if not self.with_key:
            raise KeyNeeded(
                f"to {what} a model over the network, start the service with an API key."
            )
        if model_name != self.name:
            raise ModelNotFound(f"{model_name:.80}")
