"""The journal of a stream: which files or messages each batch holds, and what became of it.

In: a folder. Out: its batches in order. A batch has a file of its own, written whole before the
update is made (``planned``) and replaced after it (``made``), so a kill leaves one or the other.
Only the last batch may be planned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cadc_rec import strict_json
from cadc_rec.errors import CadcError
from cadc_rec.store.atomic import write_atomically
from cadc_rec.store.manifest import digest

_FORMAT = 1
State = Literal["planned", "made", "nothing new"]


@dataclass(frozen=True)
class Batch:
    """Rows of a stream that are learned together.

    Attributes:
        number: from 1.
        name: of its folder, and of the update; a digest of the rows' files is a part of it.
        rows: how many it holds; of text files the number of lines.
        taken: what it holds, and what was left out on the way, in the stream's own terms.
        state: whether its update is made; ``nothing new`` had no interaction to learn.
        update: number of the update.
    """

    number: int
    name: str
    rows: int
    taken: tuple[Mapping[str, Any], ...]
    state: State = "planned"
    update: int | None = None


class Journal:
    """The batches of one stream.

    Raises:
        CadcError: a batch's file is damaged, or one in the middle is missing; says what to do.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        files = sorted(folder.glob("[0-9]*.json"))
        for file, number in zip(files, range(1, len(files) + 1), strict=True):
            if file != self._file(number):
                raise CadcError(f"{self._file(number)}: is missing, and later ones are there; "
                                f"{self._remedy(number)}")  # fmt: skip
        self.batches = [self._read(number) for number in range(1, len(files) + 1)]

    @property
    def planned(self) -> Batch | None:
        """The batch whose update may or may not be made; None where none is under way."""
        last = self.batches[-1] if self.batches else None
        return last if last is not None and last.state == "planned" else None

    def plan(self, batch: Batch) -> None:
        """Write down what the next batch holds."""
        assert batch.number == len(self.batches) + 1
        self._write(batch)
        self.batches.append(batch)

    def close(self, state: State, update: int | None = None) -> Batch:
        """Write down what became of the last batch."""
        closed = replace(self.batches[-1], state=state, update=update)
        self._write(closed)
        self.batches[-1] = closed
        return closed

    def drop(self) -> None:
        """Take the last batch back: nothing of it was learned."""
        assert self.planned is not None
        self._file(self.batches[-1].number).unlink(missing_ok=True)
        self.batches.pop()

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.json"

    def _write(self, batch: Batch) -> None:
        body = json.loads(strict_json.dumps({"format": _FORMAT, **asdict(batch)}))
        text = strict_json.dumps({**body, "digest": digest(body)}, indent=1)
        write_atomically(self._file(batch.number), text + "\n")

    def _read(self, number: int) -> Batch:
        file = self._file(number)
        try:
            body = json.loads(file.read_bytes())
            sound = body.pop("digest") == digest(body)
            version = body.pop("format")
            body["taken"] = tuple(body["taken"])
            batch = Batch(**body)
        except OSError as error:
            raise CadcError(
                f"{file}: cannot be read ({error.strerror}); mend its rights."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            sound = False
        if not sound or batch.number != number:
            raise CadcError(f"{file}: changed since it was written; {self._remedy(number)}")
        if version != _FORMAT:
            raise CadcError(f"{file}: is of another version of cadc-rec; go on with that one.")
        return batch

    def _remedy(self, number: int) -> str:
        return (
            f"delete {self._file(number).name} and the files after it in {self._folder}, and run "
            "again: batches that were learned are known by their contents, and not learned twice."
        )
