"""What each rank of a job does, for a program to read: one JSON object a line, one file a rank.

In: the program's log records, and lines that only these files get (`log.note`). Out:
``WORKDIR/logs/JOB/rank-00000.jsonl`` and on, beside the terminal, where rank 0 speaks for all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cadc_rec.log import log, note, rank_files
from cadc_rec.store.costs import peak_memory_bytes

_FLIGHT_RECORD = "TORCH_FR_DUMP_TEMP_FILE"  # torch adds the rank's number


class _Lines(logging.FileHandler):
    """A file of records; one that cannot be written loses them, and the job goes on."""

    def __init__(self, path: Path, rank: int) -> None:
        super().__init__(path, encoding="utf-8")
        self.rank, self._started = rank, time.monotonic()

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line of JSON; what a caller measured stands beside the message."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "seconds": round(time.monotonic() - self._started, 3),
            "rank": self.rank,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        return json.dumps(line | getattr(record, "measured", {}))

    def handleError(self, record: logging.LogRecord) -> None:
        """Print nothing; a full disk is told of by what needs the disk."""


@contextlib.contextmanager
def rank_log(folder: Path, rank: int) -> Iterator[None]:
    """Inside this context the rank's records go to a file of their own, and so does its error.

    Args:
        folder: of the job; the same on every rank.
        rank: this rank.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lines = _Lines(folder / f"rank-{rank:05d}.jsonl", rank)
    except OSError as error:
        log.warning("%s: this rank writes no log: %s", folder, error.strerror)
        yield
        return
    # What NCCL's collectives of the rank did last, if one of them waits in vain.
    ours = os.environ.setdefault(_FLIGHT_RECORD, str(folder / "flight-recorder-rank-"))
    log.addHandler(lines)
    rank_files.append(lines)
    try:
        yield
    except Exception as error:
        note(f"{type(error).__name__}: {error}", {}, logging.ERROR)
        if "torch" in sys.modules:  # or no collective can have timed out
            from cadc_rec.distributed.flight import keep_flight_record

            keep_flight_record(error, folder, rank)
        raise
    finally:
        if ours.startswith(str(folder)):
            del os.environ[_FLIGHT_RECORD]
        rank_files.remove(lines)
        log.removeHandler(lines)
        lines.close()
