"""What every stream is: something that fills the folder of the next batch.

In: a folder to fill, how large a batch is. Out: what the batch holds, in the stream's own terms.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cadc_rec.follow.journal import Batch
from cadc_rec.store.manifest import sha256_file

INTERACTIONS = "interactions"
"""The folder of a batch's rows, as `cadc-rec update --new` reads it."""


@dataclass(frozen=True)
class Bounds:
    """When a batch is closed; whichever comes first.

    Attributes:
        rows: at so many rows.
        minutes: so long after its first row was seen.
    """

    rows: int | None = None
    minutes: float | None = None

    @property
    def given(self) -> bool:
        """Whether there is any bound."""
        return self.rows is not None or self.minutes is not None

    def reached(self, rows: int, seconds: float) -> bool:
        """Whether a batch of so many rows, `seconds` after its first, is closed."""
        by_rows = self.rows is not None and rows >= self.rows
        return by_rows or (self.minutes is not None and seconds >= 60 * self.minutes)


@dataclass(frozen=True)
class Gathered:
    """What the folder of a batch was filled with.

    Attributes:
        rows: how many.
        taken: see `Batch`.
        label: what people call the batch; it becomes a part of its name. May be empty.
        text: what it holds, for people.
    """

    rows: int
    taken: Sequence[Mapping[str, Any]]
    label: str = ""
    text: str = ""


class Stop:
    """A wish to end, which a signal handler may set.

    A `threading.Event` is not for handlers: the thread that waits for it may hold its lock.
    """

    _STEP_SECONDS = 0.1

    def __init__(self) -> None:
        self._wished = False

    def set(self) -> None:
        """Wish it."""
        self._wished = True

    def is_set(self) -> bool:
        """Whether it is wished."""
        return self._wished

    def wait(self, seconds: float) -> bool:
        """Sleep so long, or until it is wished; whether it is."""
        end = time.monotonic() + seconds
        while not self._wished and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self._STEP_SECONDS))
        return self._wished


class Stream(Protocol):
    """Files that arrive in a folder, or messages of a topic."""

    text: str
    """What people call it."""
    identity: str
    """Names it for ever: the journal is its own."""
    moved: float
    """When something came last, of `time.monotonic`."""

    def begin(self, batches: Sequence[Batch]) -> None:
        """Go on behind these batches; called again where one of them was taken back."""

    def took(self, batch: Batch) -> None:
        """A batch was written down, so what it holds does not come again."""

    def gather(self, into: Path, bounds: Bounds, flush: bool) -> Gathered | None:
        """Fill `into` with the next batch; None while it is not closed, or nothing has come.

        Args:
            into: the folder; what an earlier call left there is the stream's own.
            bounds: when a batch is closed.
            flush: close it as soon as everything that was there at the start is in it.

        Raises:
            CadcError: what came cannot be taken; says which, and what to do.
        """

    def exhausted(self) -> bool:
        """Whether everything that is there has been gathered."""

    def wait(self, seconds: float, stop: Stop) -> None:
        """Until it makes sense to look again."""

    def told(self, message: str, folder: Path, batch: Batch) -> str:
        """A message about the files of a batch's `folder` in terms of what the stream gave."""

    def way_out(self, batch: Batch) -> str:
        """How to leave out what is wrong in a batch: the end of a sentence."""


def files_in(folder: Path) -> list[Path]:
    """Files below a folder, in order; those that readers of tables pass over do not count."""
    found = (path for path in folder.rglob("*") if path.is_file())
    parts = {path: path.relative_to(folder).parts for path in found}
    return sorted(p for p, of in parts.items() if not any(n.startswith((".", "_")) for n in of))


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and bytes of a folder's files."""
    if not path.is_dir():
        return sha256_file(path)
    total = hashlib.sha256()
    for file in files_in(path):
        total.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return total.hexdigest()
