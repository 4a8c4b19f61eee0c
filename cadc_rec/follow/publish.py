"""Bundles of the newest state in one folder, each with a delta from the one before it.

In: an experiment with updates, a folder. Out: `update-000005/` (a bundle), `update-000005.delta/`,
and `current`, a link to the newest, which a service watches; and the service told, if one is named.
All that is known of what was published is what lies in the folder, so a killed job goes on from
there.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cadc_rec.config.experiment import Experiment
from cadc_rec.errors import CadcError
from cadc_rec.export.finished import Finished
from cadc_rec.export.withheld import require_lists
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.log import log
from cadc_rec.pipeline.job import opened
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle, read_manifest
from cadc_rec.serving.bundle.delta import MANIFEST as DELTA_MANIFEST
from cadc_rec.serving.bundle.delta import size_of, write_delta
from cadc_rec.store.atomic import make_folder
from cadc_rec.updates.chain import Taken, take_update

_CURRENT = "current"
_NAME = re.compile(r"update-([0-9]{6,})(\.delta)?")
_ANSWER_SECONDS = 120.0  # a bundle is verified, loaded and self-tested first


@dataclass(frozen=True)
class Published:
    """What a service can take.

    Attributes:
        bundle: its folder.
        delta: what makes it of the one before; None where there was none.
        share: of the bundle's bytes that the delta has.
    """

    bundle: Path
    delta: Path | None
    share: float


class Shelf:
    """The folder of bundles.

    Args:
        out: the folder; made if need be.
        wanted: parts of each bundle; it replaces one that is damaged.
        keep: how many bundles and deltas stay; None keeps all.

    Raises:
        CadcError: ``current`` is there, and no link; or its bundle leaves items out by lists, and
            none are wanted.
    """

    def __init__(self, out: Path, wanted: Wanted, keep: int | None = None) -> None:
        self._out, self._keep = out.absolute(), keep
        self._wanted = replace(wanted, replace=True)
        self._current = self._out / _CURRENT
        if self._current.exists() and not self._current.is_symlink():
            raise CadcError(
                f"{self._current}: is no link; give --export a folder of its own for bundles."
            )
        require_lists(self._current, wanted.withheld)

    def publish(
        self, experiment: Experiment, workdir: Path, data_dir: Path | None = None
    ) -> Published | None:
        """Write the newest state's bundle and delta, and name it; None where it is named already.

        Raises:
            CadcError: the folder holds bundles of something else, or it cannot be written.
        """
        make_folder(self._out, self._out)
        with opened(experiment, workdir, data_dir) as base:
            taken = take_update(base)
            number = 0 if taken.update is None else taken.update.number
            self._require_mine(number)
            target = self._out / f"update-{number:06d}"
            before = self._current.resolve() if self._current.is_symlink() else None
            artifacts = taken.pipeline.run()
            inputs = {stage: made.fingerprint for stage, made in artifacts.items()}
            sound = self._has(target, inputs) and self._withholds(target, experiment)
            if sound and before == target.resolve():
                return None
            if not sound:
                self._write(experiment, taken, artifacts, target)
        published = self._with_delta(target, before)
        link = self._out / f".{_CURRENT}"
        link.unlink(missing_ok=True)
        link.symlink_to(target.name)
        link.replace(self._current)
        self._remove_old()
        return published

    def _require_mine(self, number: int) -> None:
        """Refuse a folder with bundles of later updates than the newest: another run made them.

        Raises:
            CadcError: names one.
        """
        for path in sorted(self._out.iterdir()):
            named = _NAME.fullmatch(path.name)
            if named is not None and int(named[1]) > number:
                raise CadcError(
                    f"{path}: is of a later update than the newest one, update {number}, so it "
                    "comes from another run; give --export a folder of its own."
                )

    def _has(self, target: Path, inputs: Mapping[str, str]) -> bool:
        """Whether `target` is the sound bundle of these artifacts, signed if that is wanted.

        Raises:
            CadcError: it is something else, which is not replaced.
        """
        if not os.path.lexists(target):
            return False
        if not (target / layout.MANIFEST).is_file():
            raise CadcError(
                f"{target}: is no bundle, and is not replaced; give --export a folder of its own."
            )
        try:
            other = read_manifest(target, None)["inputs"] != inputs
            if not other:
                key = self._wanted.key
                Bundle.open(target, None if key is None else key.public_key())
        except CadcError as error:
            log.warning("made anew: %s", error)
            return False
        if other:
            raise CadcError(
                f"{target}: is a bundle of something else; give --export a folder of its own."
            )
        return True

    def _withholds(self, target: Path, experiment: Experiment) -> bool:
        """Whether the bundle leaves out what the lists name now."""
        if self._wanted.withheld.is_of(target, experiment.data.id_forms):
            return True
        log.warning("made anew: %s leaves out other items than the lists name", target)
        return False

    def _write(
        self, experiment: Experiment, taken: Taken, artifacts: Mapping[str, Any], target: Path
    ) -> None:
        pipeline, update = taken.pipeline, taken.document()
        made = (artifacts, pipeline.dataset, pipeline.pretrained)
        finished = Finished(experiment, *made, update, state="production")
        write_bundle(finished, target, self._wanted)

    def _with_delta(self, target: Path, before: Path | None) -> Published:
        """The delta from the bundle that ``current`` leads to, if that can still be read."""
        if before is None or before == target.resolve():
            return Published(target, None, 0.0)
        out = target.with_name(f"{target.name}.delta")
        try:
            old = Bundle.open(before)
        except CadcError as error:
            log.warning("no delta, copy the whole bundle: %s", error)
            return Published(target, None, 0.0)
        new = Bundle.open(target)
        write_delta(old, new, out, replace=(out / DELTA_MANIFEST).exists())
        return Published(target, out, size_of(out) / size_of(target))

    def _remove_old(self) -> None:
        if self._keep is None:
            return
        current = self._current.resolve().name
        for delta in (None, ".delta"):
            named = [m for path in self._out.iterdir() if (m := _NAME.fullmatch(path.name))]
            mine = sorted((m for m in named if m[2] == delta), key=lambda m: int(m[1]))
            for old in mine[: -self._keep]:
                if old[0].removesuffix(".delta") == current:
                    continue
                shutil.rmtree(self._out / old[0], ignore_errors=True)
                (self._out / f".{old[0]}.lock").unlink(missing_ok=True)


def load_address(named: str) -> str:
    """The address of a service's load call.

    Args:
        named: the service's, ``http://HOST:PORT``; the model is called ``recommender`` unless the
            address of the call is given as a whole.

    Raises:
        CadcError: it is no address of HTTP, or holds more than one; as that may be a secret, the
            sentence does not quote it.
    """
    try:
        parts = urlsplit(named)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
        sound = sound and (parts.port is None or parts.port > 0) and parts.username is None
        sound = sound and not (parts.query or parts.fragment)
        sound = sound and named.isascii() and named.isprintable()
    except ValueError:
        sound = False
    if not sound:
        raise CadcError(
            "--notify: write the service's address, http://HOST:PORT, without a user, a password "
            "or a query."
        )
    path = parts.path.rstrip("/") or "/v2/repository/models/recommender/load"
    return f"{parts.scheme}://{parts.netloc}{path}"


def notify(address: str, api_key: str | None) -> str:
    """Have a service look for its bundle; empty, or why it did not load it."""
    parts = urlsplit(address)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {"content-type": "application/json"}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    connection = connect(str(parts.hostname), parts.port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("POST", parts.path, b"{}", headers)
        answer = connection.getresponse()
        body = answer.read(1 << 16)
    except (OSError, http.client.HTTPException) as error:
        return f"{address}: {error or type(error).__name__}"
    finally:
        connection.close()
    if answer.status == 200:
        return ""
    try:
        why = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        why = answer.reason
    return f"{address}: {answer.status} {why}"
