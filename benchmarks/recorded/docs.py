"""What a command writes into the docs: tables and pictures of its studies, from recorded results.

In: studies that were run, to be recorded, or recorded results. Out: the text between the marks of
the pages, and pictures beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.marks import ROOT, between
from benchmarks.recorded.files import FOLDER
from benchmarks.recorded.studies import Noted, Recorded, read, write
from cadc_rec.errors import CadcError
from cadc_rec.study.report.study_data import load_studies
from cadc_rec.study.report.updated import as_updated

Texts = Mapping[str, str]


def _none(_: Any) -> Texts:
    return {}


@dataclass(frozen=True, kw_only=True)
class Written:
    """The part of the docs that recorded results make: of studies `Docs`, of others `Measured`.

    Attributes:
        marks: of each table the page that it stands on, relative to the repository.
        tables: Markdown by mark, of the results.
        pictures: SVG by path, relative to the repository, of the results.
    """

    marks: Mapping[str, str]
    tables: Callable[[Any], Texts]
    pictures: Callable[[Any], Texts] = _none

    def recorded(self, folder: Path = FOLDER) -> Any:
        """The recorded results; None where there are none.

        Raises:
            CadcError: a file cannot be used.
        """
        raise NotImplementedError

    def pages(self, root: Path = ROOT, folder: Path = FOLDER) -> dict[Path, str]:
        """The pages with the tables that recorded results make; none without such results.

        Args:
            root: of the repository.
            folder: of the recorded results.

        Raises:
            CadcError: results cannot be used, or a page has not the marks.
        """
        found, files = self.recorded(folder), dict[Path, str]()
        for mark, table in {} if found is None else self.tables(found).items():
            page = root / self.marks[mark]
            text = files.get(page) or page.read_text("utf-8")
            files[page] = between(text, mark, table, page)
        return files

    def written(self, root: Path = ROOT, folder: Path = FOLDER) -> dict[Path, str]:
        """These pages, and the pictures."""
        found = self.recorded(folder)
        drawn = {} if found is None else self.pictures(found)
        return self.pages(root, folder) | {root / name: svg for name, svg in drawn.items()}

    def write(self, root: Path = ROOT, folder: Path = FOLDER) -> list[Path]:
        """Write these files; returns those that changed."""
        changed = [
            (path, text)
            for path, text in self.written(root, folder).items()
            if not path.is_file() or path.read_text("utf-8") != text
        ]
        for path, text in changed:
            path.write_text(text, "utf-8")
        return [path for path, _ in changed]


@dataclass(frozen=True, kw_only=True)
class Docs(Written):
    """What studies write; their results are `Recorded`.

    Attributes:
        studies: that are recorded.
        beside: studies of other commands that the tables compare with, where they were run.
    """

    studies: tuple[str, ...]
    beside: tuple[str, ...] = ()

    def record(self, studies: Path, folder: Path = FOLDER) -> list[Path]:
        """Write what was run into files that are committed.

        Args:
            studies: the folder with a folder a study.
            folder: of the recorded results.

        Returns:
            The files.

        Raises:
            CadcError: none of them was run, or their results cannot be read.
        """
        names = [n for n in (*self.studies, *self.beside) if (studies / n / "study.json").is_file()]
        if not set(names) & set(self.studies):
            raise CadcError(f"{studies}: has none of the studies {', '.join(self.studies)}.")
        found = [study for name in names for study in load_studies(studies / name)]
        noted = Noted(as_updated(found))
        self.tables(noted)
        self.pictures(noted)
        return [
            write(study, noted, folder) for study in noted.studies if study.name in self.studies
        ]

    def recorded(self, folder: Path = FOLDER) -> Recorded | None:
        """As of `Written`."""
        names = [n for n in (*self.studies, *self.beside) if (folder / f"{n}.json").is_file()]
        return read(names, folder) if set(names) & set(self.studies) else None


@dataclass(frozen=True, kw_only=True)
class Measured(Written):
    """What another benchmark writes; its results are what its file holds.

    Attributes:
        file: its name in the folder, without ending.
    """

    file: str

    def recorded(self, folder: Path = FOLDER) -> Any:
        """As of `Written`."""
        path = folder / f"{self.file}.json"
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise CadcError(f"{path}: is not JSON ({error}); record it again.") from error


@dataclass(frozen=True, kw_only=True)
class MeasuredApart(Written):
    """What a benchmark writes that has a file a dataset; its results are the files' paths.

    Attributes:
        files: a pattern of their names in the folder.
    """

    files: str

    def recorded(self, folder: Path = FOLDER) -> Any:
        """As of `Written`."""
        return sorted(folder.glob(self.files)) or None
