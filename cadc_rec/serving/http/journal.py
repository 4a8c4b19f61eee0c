"""What a service was told while it ran: records that a restart reads again.

In: records, each a JSON object. Out: a file of lines, ``CRC32 JSON``, that only grows, and every
record that this or another process of the machine put there. A kill leaves at most a torn end,
which the next writer cuts off; damage before it is refused. `append` returns when the disk has the
records (fsync), so what a client was told is taken survives a loss of power.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cadc_rec import strict_json
from cadc_rec.errors import CadcError
from cadc_rec.store.atomic import disk_error

Record = Mapping[str, Any]


class JournalFullError(CadcError):
    """The journal has no room for more records."""


@dataclass(frozen=True)
class News:
    """What `Journal.news` found.

    Attributes:
        records: in the order in which they were appended.
        anew: whether these are all records of the journal, because it was read for the first time
            or rewritten since; what was made of earlier ones no longer holds.
    """

    records: list[dict[str, Any]]
    anew: bool


class Journal:
    """Records of one kind in one file, which several processes may write and follow.

    Args:
        path: the file; it is made at the first record. A file of this name with ``.lock`` stands
            beside it.
        kind: what the records are; the file's first line says it.
        most_bytes: more records are refused once the file would be larger.

    An object is used by one thread at a time.
    """

    def __init__(self, path: Path, kind: str, most_bytes: int = 256 << 20) -> None:
        self.path, self.kind, self.most_bytes = path, kind, most_bytes
        self._series: str | None = None  # of the file that was read; a rewritten one has another
        self._read = 0  # bytes of it

    def append(self, records: Iterable[Record]) -> None:
        """Write records and wait until the disk has them; all or none are read afterwards.

        Raises:
            JournalFullError: there is no room for them; `rewrite` makes some.
            CadcError: the disk is full or the file cannot be written; nothing was appended.
        """
        text = _line({"records": list(records)})
        with self._explained(), self._locked(), self.path.open("a+b") as file:
            size = _without_torn_end(file)
            if size == 0:
                text = self._head() + text
            if size + len(text) > self.most_bytes:
                raise JournalFullError(
                    f"{self.path}: holds {size} bytes, and may hold {self.most_bytes}; nothing "
                    "more is taken until a newer bundle has what it holds."
                )
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), size)
                raise
            if size == 0:
                _fsync_folder(self.path.parent)

    def news(self) -> News:
        """The records that were appended, by whatever process, since the last call.

        Raises:
            CadcError: the file is damaged, is of another kind, or cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                head = file.readline()
                series = self._series_of(head)
                anew = series != self._series
                if anew:
                    self._series, self._read = series, 0 if series is None else len(head)
                file.seek(self._read)
                body = b"" if series is None else file.read()
        except FileNotFoundError:
            known, self._series, self._read = self._series, None, 0
            return News([], known is not None)
        except OSError as error:
            raise self._unreadable(error) from None
        found, length = self._records(body)
        self._read += length
        return News(found, anew)

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replace all records, in one step; processes that follow read the file anew.

        Raises:
            CadcError: the disk is full or the folder cannot be written; the old file stands.
        """
        self.thin(lambda _: records)

    def thin(self, kept: Callable[[list[dict[str, Any]]], Iterable[Record]]) -> None:
        """Keep what is chosen of all records, also of those that other processes appended.

        Args:
            kept: is given the records and returns those that stay.

        Raises:
            JournalFullError: what is chosen has no room; the old file stands.
            CadcError: see `rewrite`; or the file is damaged.
        """
        draft = self.path.with_name(f"{self.path.name}.draft")
        with self._explained(), self._locked():
            records = Journal(self.path, self.kind).news().records
            text = self._head() + _line({"records": list(kept(records))})
            if len(text) > max(self.most_bytes, self.size):
                raise JournalFullError(
                    f"{self.path}: what is kept takes {len(text)} bytes, and it may hold "
                    f"{self.most_bytes}."
                )
            with draft.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            _fsync_folder(self.path.parent)

    @property
    def size(self) -> int:
        """Bytes of the file, 0 where there is none."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def _head(self) -> bytes:
        return _line({"kind": self.kind, "series": secrets.token_hex(8)})

    def _series_of(self, head: bytes) -> str | None:
        """The series of a file's first line; None where the first record is being written."""
        value = _value_of(head)
        if value is None and not head.endswith(b"\n"):
            return None
        if value is None or value.get("kind") != self.kind:
            raise CadcError(f"{self.path}: is no journal of {self.kind}; move it away.")
        return str(value["series"])

    def _records(self, body: bytes) -> tuple[list[dict[str, Any]], int]:
        """The records of whole lines, and how many bytes these take."""
        found: list[dict[str, Any]] = []
        length, lines = 0, body.splitlines(keepends=True)
        for n, line in enumerate(lines):
            value = _value_of(line)
            if value is None:
                if any(_value_of(later) is not None for later in lines[n + 1 :]):
                    raise CadcError(
                        f"{self.path}: is damaged at byte {self._read + length}; move it away, and "
                        "what it holds is forgotten, or put back a sound copy."
                    )
                break  # a line that is being written, or that a kill tore
            found += value["records"]
            length += len(line)
        return found, length

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Inside, no other process or object writes the file."""
        with self.path.with_name(f"{self.path.name}.lock").open("a") as lock:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX)  # closing the file frees it
            yield

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            explained = disk_error(error, self.path.parent)
            raise (explained or self._unreadable(error)) from error

    def _unreadable(self, error: OSError) -> CadcError:
        return CadcError(f"{self.path}: cannot be used ({error.strerror}); mend its rights.")


def line_bytes(value: Record) -> int:
    """Bytes that a record takes."""
    return len(_line(value))


def _line(value: Record) -> bytes:
    body = strict_json.dumps(value, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _value_of(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None of one that is torn or changed."""
    checksum, _, body = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _without_torn_end(file: BinaryIO) -> int:
    """Cut off lines at the end that are not whole; the size of what is left."""
    size = file.seek(0, os.SEEK_END)
    end = size
    while end:
        start = _start_of_line(file, end)
        file.seek(start)
        if _value_of(file.read(end - start)) is not None:
            break
        end = start
    if end != size:
        file.truncate(end)
        file.seek(end)
    return end


def _start_of_line(file: BinaryIO, end: int) -> int:
    """Where the line begins whose last byte is before `end`."""
    start, piece = end - 1, 1 << 16
    while start:
        first = max(0, start - piece)
        file.seek(first)
        place = file.read(start - first).rfind(b"\n")
        if place >= 0:
            return first + place + 1
        start = first
    return 0


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
