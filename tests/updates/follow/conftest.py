"""A folder of files that arrive, and an update that keeps a ledger of what it learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.follow.folder import FolderStream
from cadc_rec.follow.follow import Follower, Until
from cadc_rec.follow.stream import Bounds
from cadc_rec.updates.chain import Update
from cadc_rec.updates.update import Outcome


class Ledger:
    """Stands in for updates: each batch's rows are kept under the name of its folder.

    As real updates do, it sees nothing new in rows that it has learned, and refuses a bad row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def update(self, batch: Path) -> Outcome:
        rows = []
        for file in sorted((batch / "interactions").iterdir()):
            if file.name.startswith("_"):
                continue
            for number, line in enumerate(file.read_text().splitlines(), start=1):
                if file.suffix == ".csv" and number == 1:
                    continue
                if "bad" in line:
                    raise CadcError(f"{file}, line {number}: is bad.")
                rows.append(line)
        known = {row for one in self.made() for row in one.report["rows"]}
        if not set(rows) - known:
            return Outcome(None, {"interactions": 0})
        number = len(self.made()) + 1
        record = {"name": batch.name, "rows": rows}
        draft = self.folder / "draft"
        draft.write_text(json.dumps(record))
        draft.rename(self.folder / f"{number:03d}.json")
        return Outcome(self.made()[-1], {"interactions": len(rows)})

    def made(self) -> list[Update]:
        found = []
        for number, file in enumerate(sorted(self.folder.glob("*.json")), start=1):
            record = json.loads(file.read_text())
            report = {"rows": record["rows"], "day": {"interactions": len(record["rows"])}}
            found.append(Update(number, file, "", record["name"], {}, report))
        return found

    @property
    def rows(self) -> list[list[str]]:
        """What each update learned."""
        return [one.report["rows"] for one in self.made()]


class World:
    """A folder of files, a ledger, and the state of a follower."""

    def __init__(self, folder: Path) -> None:
        self.inbox, self.state = folder / "inbox", folder / "state"
        self.inbox.mkdir(parents=True)
        (self.state / "batches").mkdir(parents=True)
        self.ledger = Ledger(folder / "ledger")

    def put(self, name: str, rows: list[str], header: bool = True) -> Path:
        """Let a CSV file arrive as it should: by a rename."""
        lines = (["user_id,item_id"] if header else []) + rows
        draft = self.inbox / f"{name}.tmp"
        draft.write_text("".join(f"{line}\n" for line in lines))
        return draft.rename(self.inbox / name)

    def follower(self, stream=None, rows=None, minutes=None, until=None, **given) -> Follower:
        stream = stream or FolderStream(self.inbox, **given)
        return Follower(
            self.state,
            stream,
            Bounds(rows, minutes),
            until or Until(once=True),
            self.ledger.update,
            self.ledger.made,
        )

    def run(self, **given):
        """Take what is there; what was told of each batch."""
        return list(self.follower(**given).run())

    def spooled(self) -> list[str]:
        return sorted(path.name for path in (self.state / "spool").iterdir())


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "world")
