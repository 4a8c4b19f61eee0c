"""A folder in which files arrive, as a stream.

In: a folder. A file whose name is there is whole: who writes it renames it into place, or (with
`marked`) leaves a mark beside it. Out: batches of files of one format, in the natural order of
their names, and each folder of a day as a batch of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cadc_rec.data.tables.files import file_format
from cadc_rec.data.tables.plain import ARCHIVE
from cadc_rec.errors import CadcError, name_without_text
from cadc_rec.follow.journal import Batch
from cadc_rec.follow.stream import INTERACTIONS, Bounds, Gathered, Stop, digest_of, files_in
from cadc_rec.log import log

_UNFINISHED = (".tmp", ".part")
_LONGEST = 200  # bytes; file systems take 255
_MARK = ".done"
_MARK_INSIDE = "_SUCCESS"  # Spark's, and Hadoop's
_UNDER_WAY = "_temporary"  # likewise, while they write
_JSON = re.compile(r"\.json(?=$|\.(?:gz|bz2|zst)$)", re.IGNORECASE)


class FolderStream:
    """See the module.

    Args:
        folder: where files arrive.
        skip: names of files and folders to leave out.
        marked: take only files with a ``NAME.done`` beside them and folders with a ``_SUCCESS``.
        header: whether text files begin with a line of names.

    Raises:
        CadcError: there is no such folder.
    """

    def __init__(
        self, folder: Path, skip: Sequence[str] = (), marked: bool = False, header: bool = True
    ) -> None:
        self._folder, self._skip, self._marked = folder.absolute(), frozenset(skip), marked
        self._header = header
        self.text = str(folder)
        self.identity = str(folder.resolve())
        self.moved = time.monotonic()
        self._taken: dict[str, dict[str, Any]] = {}
        self._by_digest: dict[str, str] = {}
        self._newest: str | None = None
        self._there: list[Path] = []
        self._first_seen: dict[str, float] = {}
        self._rows: dict[tuple[str, int, int], int] = {}
        self._passed_over: set[str] = set()
        self._listed()

    def begin(self, batches: Sequence[Batch]) -> None:
        """See `Stream`."""
        self._taken, self._by_digest, self._newest = {}, {}, None
        for batch in batches:
            self.took(batch)

    def took(self, batch: Batch) -> None:
        """See `Stream`."""
        for one in batch.taken:
            self._taken[one["name"]] = dict(one)
            if "sha256" in one:
                self._by_digest.setdefault(one["sha256"], one["name"])
            if self._newest is None or _order(one["name"]) > _order(self._newest):
                self._newest = one["name"]

    def gather(self, into: Path, bounds: Bounds, flush: bool) -> Gathered | None:
        """See `Stream`."""
        passed: set[str] = set()
        while True:
            try:
                return self._gathered(into, bounds, flush, passed)
            except _NotWholeError as error:
                name = error.name
            except FileNotFoundError as error:  # it went between two looks at it
                name = self._name_of(error)
            if not os.path.lexists(self._folder / name):
                log.warning("%s: went before it was taken", self._folder / name)
            else:
                log.warning(
                    "%s: is still being written; rename it into place once whole",
                    self._folder / name,
                )
                if not flush:  # what stands behind it waits, for the sake of the order
                    return None
            passed.add(name)

    def _name_of(self, error: FileNotFoundError) -> str:
        """What in the folder an error is about; one about something else is raised again."""
        path = Path(os.fsdecode(error.filename or ""))
        if self._folder not in path.parents:
            raise error
        return path.relative_to(self._folder).parts[0]

    def _gathered(
        self, into: Path, bounds: Bounds, flush: bool, passed: set[str]
    ) -> Gathered | None:
        arrived = self._arrived(passed)
        if arrived != self._there:
            self._there, self.moved = arrived, time.monotonic()
        left_out = [_record(path, left_out="asked") for path in arrived if path.name in self._skip]
        if left_out:  # written down at once, so that they stay out without the option
            _empty(into)
            return Gathered(0, left_out, text=", ".join(one["name"] for one in left_out))
        chosen, closed = self._chosen(arrived, bounds)
        if not (closed or (flush and chosen)):
            return None
        _empty(into)
        records = self._copied(chosen, into)
        copied = [one for one in records if "left_out" not in one]
        for one in copied:
            if self._newest is not None and _order(one["name"]) < _order(self._newest):
                log.warning(
                    "%s: comes after %s, whose name stands behind it; taken now, and its rows are "
                    "put in their place in time",
                    self._folder / one["name"],
                    self._newest,
                )
        label = chosen[0].name if chosen and chosen[0].is_dir() else ""
        names = [str(one["name"]) for one in copied]
        text = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}" if names else ""
        return Gathered(sum(one["rows"] for one in copied), records, label, text)

    def exhausted(self) -> bool:
        """See `Stream`."""
        return True

    def wait(self, seconds: float, stop: Stop) -> None:
        """See `Stream`."""
        stop.wait(seconds)

    def told(self, message: str, folder: Path, batch: Batch) -> str:
        """See `Stream`."""
        copied = [one for one in batch.taken if "left_out" not in one]
        for one in copied:
            spooled = folder / one["spooled"] if one["spooled"] else folder
            message = message.replace(str(spooled), str(self._folder / one["name"]))
        whole = self._folder / copied[0]["name"] if len(copied) == 1 else self._folder
        for place in (folder / INTERACTIONS, folder):
            message = message.replace(str(place), str(whole))
        return message

    def way_out(self, batch: Batch) -> str:
        """See `Stream`."""
        names = [one["name"] for one in batch.taken if "left_out" not in one]
        which = names[0] if len(names) == 1 else "NAME"
        return f"mend the file and run again, or leave it out with --skip {which}"

    def _listed(self) -> list[Path]:
        """Everything in the folder, in natural order.

        Raises:
            CadcError: it cannot be read.
        """
        try:
            return sorted(self._folder.iterdir(), key=lambda path: _order(path.name))
        except OSError as error:
            raise CadcError(
                f"{self._folder}: cannot be read ({error.strerror}); bring the folder back, or "
                "correct --from."
            ) from None

    def _arrived(self, passed: set[str]) -> list[Path]:
        """What is whole and not taken yet, in natural order, without the names `passed` over."""
        listed = self._listed()
        names = {path.name for path in listed}
        there = (path for path in listed if path.name not in passed)
        return [path for path in there if self._is_whole(path, names) and self._is_new(path)]

    def _is_whole(self, path: Path, names: set[str]) -> bool:
        name = path.name
        if name.startswith((".", "_")) or name.endswith((*_UNFINISHED, _MARK)):
            return False
        if refused := name_without_text(name):
            raise CadcError(f"{self._folder}: {refused}")
        if path.is_dir():
            marked = (path / _MARK_INSIDE).exists()
            written = not (path / _UNDER_WAY).exists() and (marked or not self._marked)
            return written and bool(files_in(path))  # mkdir comes before the first file
        if file_format(path) is None or path.suffix.lower() == ARCHIVE:
            if name not in self._passed_over:
                self._passed_over.add(name)
                log.warning("%s: passed over, for it is no table of a known format", path)
            return False
        return not self._marked or name + _MARK in names

    def _is_new(self, path: Path) -> bool:
        """Whether it was never taken.

        Raises:
            CadcError: it was, and its bytes are others now; or it cannot be read.
        """
        known = self._taken.get(path.name)
        if known is None:
            if path.name in self._skip:
                return True
            if not os.path.lexists(path):
                return False
            if not os.access(path, os.R_OK):
                raise CadcError(f"{path}: cannot be read; mend its rights.")
            return True
        if "sha256" in known and _stamp(path) != (known["bytes"], known["mtime_ns"]):
            if digest_of(path) != known["sha256"]:
                raise CadcError(
                    f"{path}: was taken before, and has changed since; put the old file back, and "
                    "new rows in a file of another name."
                )
            known["bytes"], known["mtime_ns"] = _stamp(path)  # touched, no more
        return False

    def _chosen(self, wanted: Sequence[Path], bounds: Bounds) -> tuple[list[Path], bool]:
        """The files of the next batch, and whether it is closed."""
        chosen: list[Path] = []
        rows = 0
        for path in wanted:
            seen = self._first_seen.setdefault(path.name, time.monotonic())
            if path.is_dir():
                return (chosen, True) if chosen else ([path], True)
            if chosen and file_format(path) != file_format(chosen[0]):
                return chosen, True
            if not chosen:
                first = seen
            chosen.append(path)
            rows += self._rows_of(path)
            if not bounds.given or bounds.reached(rows, 0.0):
                return chosen, True
        closed = bool(chosen) and bounds.reached(rows, time.monotonic() - first)
        return chosen, closed

    def _rows_of(self, path: Path) -> int:
        key = (path.name, *_stamp(path))
        if key not in self._rows:
            self._rows[key] = rows_in(path, self._header)
        return self._rows[key]

    def _copied(self, chosen: Sequence[Path], into: Path) -> list[dict[str, Any]]:
        """Copy files, so that what is learned stays as it is.

        Raises:
            CadcError: a file of a folder cannot be copied.
            _NotWholeError: one changed meanwhile.
        """
        records: list[dict[str, Any]] = []
        for number, path in enumerate(chosen, start=1):
            stamp = _stamp(path)
            if path.is_dir():
                target, spooled = into, ""
                _copy_folder(path, into, stamp)
                rows = sum(rows_in(f, self._header) for f in files_in(into) if _is_log(f, into))
            else:
                spooled = f"{INTERACTIONS}/{number:04d}-{_spooled_name(path.name)}"
                target = into / spooled
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
                rows = self._rows_of(path)
            if _stamp(path) != stamp:
                raise _NotWholeError(path.name)
            digest = digest_of(target)
            made = _record(path, sha256=digest, rows=rows, spooled=spooled)
            made["bytes"], made["mtime_ns"] = stamp
            twin = self._by_digest.get(digest) or next(
                (one["name"] for one in records if one["sha256"] == digest), None
            )
            if twin is not None:
                log.warning("%s: holds the same bytes as %s, which was taken; left out", path, twin)
                made["left_out"] = f"the same as {twin}"
                shutil.rmtree(target) if target.is_dir() else target.unlink()
            records.append(made)
        return records


class _NotWholeError(Exception):
    """What has this name changed while it was copied."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def rows_in(path: Path, header: bool) -> int:
    """How many rows a table's file holds; of text its lines. 0 where it cannot be read.

    What is wrong with a file is for the update to say.
    """
    kind = file_format(path)
    try:
        if kind == "parquet":
            return int(pq.ParquetFile(path).metadata.num_rows)
        if kind == "arrow":
            return _rows_of_arrow(path)
        with pa.input_stream(str(path), compression="detect") as opened:
            lines, last = 0, b"\n"
            while chunk := opened.read(1 << 20):
                lines += chunk.count(b"\n")
                last = chunk[-1:]
            lines += last != b"\n"
        return max(lines - (kind == "text" and header), 0)
    except (OSError, pa.ArrowException):
        return 0


def _rows_of_arrow(path: Path) -> int:
    with pa.memory_map(str(path)) as opened:
        try:
            table = pa.ipc.open_file(opened).read_all()
        except pa.ArrowInvalid:  # a stream
            opened.seek(0)
            table = pa.ipc.open_stream(opened).read_all()
        return int(table.num_rows)


def _order(name: str) -> list[Any]:
    """Natural order: ``day-2`` stands before ``day-10``."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part) if place % 2 else part) for place, part in enumerate(parts)] + [name]


def _record(path: Path, **more: Any) -> dict[str, Any]:
    return {"name": path.name, **more}


def _spooled_name(name: str) -> str:
    """What a file is called in the spool: a name of JSON that folders of tables may have.

    Of a very long name it is the end, which says the format.
    """
    return _JSON.sub(".jsonl", name).encode()[-_LONGEST:].decode(errors="ignore")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _copy_folder(path: Path, into: Path, stamp: tuple[int, int]) -> None:
    """Copy the visible files of a day's folder.

    Raises:
        CadcError: one cannot be read, such as a link that leads nowhere.
        _NotWholeError: one went, or changed since the folder's `stamp`.
    """
    try:
        shutil.copytree(path, into, dirs_exist_ok=True, ignore=_hidden)
    except shutil.Error as error:
        failed = [(Path(file), why) for file, _, why in error.args[0]]
        gone = any(not os.path.lexists(file) for file, _ in failed)
        if gone or _stamp(path) != stamp:
            raise _NotWholeError(path.name) from None
        file, why = failed[0]
        raise CadcError(
            f"{file}: cannot be copied ({why}); mend it, or leave the folder out with --skip "
            f"{path.name}."
        ) from None


def _hidden(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith((".", "_"))]


def _is_log(file: Path, folder: Path) -> bool:
    """Whether a file of a day's folder holds interactions: not users, not items."""
    return file.relative_to(folder).parts[0].split(".")[0] not in ("users", "items")


def _stamp(path: Path) -> tuple[int, int]:
    """Bytes, and the time of the last change in ns; of a folder those of its files."""
    stats = [file.stat() for file in (files_in(path) if path.is_dir() else [path])]
    return sum(one.st_size for one in stats), max((one.st_mtime_ns for one in stats), default=0)
