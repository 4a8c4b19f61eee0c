"""The bundle that answers, and how another takes its place.

In: a path. Out: the predictor of the moment. A bundle is taken only when it is verified and its
self-test passes; until then, and if it does not, the one before goes on answering.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from kserve.errors import ModelNotFound
from kserve.model_repository import ModelRepository
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from prometheus_client import Counter, Gauge

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.self_test import run_self_test
from cadc_rec.serving.bundle.signing import verification_key
from cadc_rec.serving.predict.predictor import Predictor

_SHOWN = 3  # of a self-test's differences

_RELOADS = Counter("cadc_rec_reloads", "Bundles loaded or refused.", ("outcome",))
_LOADED = Gauge(
    "cadc_rec_bundle_loaded_timestamp_seconds",
    "When the bundle that answers was loaded.",
    ("fingerprint",),
)


def load_tested(path: Path, verify_key: Path | None) -> Predictor:
    """The predictor of the bundle in `path`, verified and tested.

    Raises:
        CadcError: it is altered, not signed as asked, not whole, or answers otherwise than when it
            was exported.
    """
    # A link may be moved meanwhile: all files come from the folder it names now.
    bundle = Bundle.open(path.resolve(), verification_key(verify_key))
    predictor = Predictor.of(bundle)
    update = bundle.model().get("update")
    if update is not None:
        log.info("%s is of %s", path, update["text"])

    def recommend(users: object, k: int) -> tuple[list[list[object]], list[list[float]]]:
        found = predictor.recommend(users, k)  # type: ignore[arg-type] # ids of the bundle's own
        scores = [row[:n].tolist() for row, n in zip(found.scores, found.counts, strict=True)]
        return found.lists(), scores

    verdict = run_self_test(bundle, recommend)
    if not verdict.passed:
        raise CadcError(
            f"{path}: the self-test failed ({len(verdict.wrong)} of {verdict.requests} requests): "
            + "; ".join(verdict.wrong[:_SHOWN])
        )
    return predictor


class Loaded:
    """The predictor of the moment.

    Args:
        path: of the bundle, or of a link to it.
        verify_key: file with the public key that bundles must be signed with.

    Raises:
        CadcError: see `load_tested`.
    """

    def __init__(self, path: Path, verify_key: Path | None = None) -> None:
        self.path, self.verify_key = path, verify_key
        self._one_at_a_time = asyncio.Lock()
        self._seen = self._look()
        self.predictor = load_tested(path, verify_key)
        _LOADED.labels(self.predictor.fingerprint).set(time.time())

    async def reload(self) -> Predictor:
        """Load what lies in the path now; on any failure keep what is there.

        Raises:
            CadcError: it was refused.
        """
        async with self._one_at_a_time:
            seen = self._look()
            try:
                predictor = await asyncio.to_thread(load_tested, self.path, self.verify_key)
            except Exception as error:
                self._seen = seen
                _RELOADS.labels("refused").inc()
                log.error("refused: %s The bundle before goes on answering.", error)
                if isinstance(error, CadcError):
                    raise
                raise CadcError(
                    f"{self.path}: cannot be loaded ({type(error).__name__})."
                ) from error
            _LOADED.clear()
            _LOADED.labels(predictor.fingerprint).set(time.time())
            _RELOADS.labels("loaded").inc()
            self.predictor, self._seen = predictor, seen
            log.info("loaded %s (%s)", predictor.name, predictor.fingerprint[:12])
            return predictor

    async def watch(self, seconds: float) -> None:
        """Reload whenever another bundle lies in the path; never returns.

        A bundle that was refused is not tried again before it changes.
        """
        while True:
            await asyncio.sleep(seconds)
            if self._look() not in (self._seen, None):
                try:
                    await self.reload()
                except CadcError:
                    continue  # reported where it happened

    def _look(self) -> tuple[str, int, int] | None:
        """What tells one bundle in the path from another; None while there is none."""
        try:
            folder = os.path.realpath(self.path)
            manifest = os.stat(os.path.join(folder, layout.MANIFEST))
        except OSError:
            return None
        return folder, manifest.st_mtime_ns, manifest.st_ino


class KeyNeeded(CadcError):
    """Only a service with an API key lets the network change its model."""


class NotUnloaded(CadcError):
    """The one model of a service stays until the service is stopped."""


class Repository(ModelRepositoryExtension):
    """The protocol's repository calls: a load takes what lies in the bundle's path now.

    Args:
        models: KServe's.
        loaded: what a load replaces.
        name: of the one model.
        with_key: whether the service has an API key; without one nothing can be changed.
    """

    def __init__(self, models: ModelRepository, loaded: Loaded, name: str, with_key: bool) -> None:
        super().__init__(models)
        self.loaded, self.name, self.with_key = loaded, name, with_key

    async def load(self, model_name: str) -> dict[str, Any]:
        """Reload; the result is what KServe's servicer sends.

        Raises:
            KeyNeeded: the service has no key.
            ModelNotFound: there is no model of that name.
            CadcError: the bundle was refused; the one before goes on answering.
        """
        self._require("load", model_name)
        try:
            await self.loaded.reload()
        except CadcError as error:
            raise CadcError(f"{error} The bundle before goes on answering.") from None
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
            raise KeyNeeded(f"to {what} a model over the network, start the service with a key.")
        if model_name != self.name:
            raise ModelNotFound(f"{model_name:.80}")
