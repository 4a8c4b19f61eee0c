"""The access log: one line of JSON for each request that was read, without users' ids.

In: a request's path, and what came of it. Out: a line in a file or on standard output, such as

    {"time": "2026-03-01T12:00:00.125Z", "protocol": "rest", "path": "/v2/models/recommender/infer",
     "status": 200, "seconds": 0.0041, "users": 1, "bundle": "0f3b6a1c2d4e"}

Lines are written by a thread. Where it cannot keep up, lines are lost rather than answers late; how
many is in the metrics.
"""

from __future__ import annotations

import logging
import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path

import orjson
from prometheus_client import Counter

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.http.observed import Observed

_WAITING = 10_000  # lines
_PATH = 200  # characters
_LOST = Counter("cadc_rec_access_log_lost_lines", "Lines of the access log that were not written.")


class AccessLog:
    """Takes finished requests."""

    def __init__(self, handler: QueueHandler) -> None:
        self._handler = handler

    def write(self, seen: Observed) -> None:
        """Hand the request's line to the thread that writes."""
        self._handler.enqueue(
            logging.makeLogRecord(
                {
                    "msg": {
                        "time": _text(seen.began),
                        "protocol": seen.protocol,
                        "path": seen.path[:_PATH],
                        "status": seen.status,
                        "seconds": round(seen.seconds, 6),
                        "users": seen.users,
                        "bundle": seen.bundle,
                    }
                }
            )
        )


@contextmanager
def access_log(where: str | None) -> Iterator[AccessLog | None]:
    """The log of a service; what waits is written at the end.

    Args:
        where: a path, ``-`` for standard output, or None for no log. A file that was moved away is
            begun anew, as rotation wants.

    Raises:
        CadcError: the file cannot be written.
    """
    if where is None:
        yield None
        return
    try:
        output: logging.Handler = (
            _ToOutput(sys.stdout) if where == "-" else _ToFile(Path(where), encoding="utf-8")
        )
    except OSError as error:
        raise CadcError(
            f"--access-log {where}: cannot be written ({error.strerror}); name another file."
        ) from error
    output.setFormatter(_Json())
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(_WAITING)
    listener = QueueListener(waiting, output)
    listener.start()
    try:
        yield AccessLog(_Bounded(waiting))
    finally:
        listener.stop()
        with suppress(OSError):  # has been told
            output.close()


class _Bounded(QueueHandler):
    """Loses what does not fit."""

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            _LOST.inc()


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return orjson.dumps(record.msg).decode()


class _Told:
    """Says once that lines cannot be written, and counts them; a full disk ends no service."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        _LOST.inc()
        if not self.told:
            self.told = True
            log.error("the access log cannot be written (%s).", sys.exc_info()[1])


class _ToFile(_Told, WatchedFileHandler):
    pass


# Generic in the stubs alone: at run time it takes no argument.
class _ToOutput(_Told, logging.StreamHandler):  # type: ignore[type-arg]
    pass


def _text(moment: float) -> str:
    """Seconds since 1970 as ISO 8601."""
    shown = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return shown.removesuffix("+00:00") + "Z"
