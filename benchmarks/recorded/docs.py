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
from benchmarks.recorded.studies import FOLDER, Noted, Recorded, read, write
from cadc_rec.errors import CadcError
from cadc_rec.study.report.groups import Comparisons
from cadc_rec.study.report.study_data import load_studies
from cadc_rec.study.report.updated import as_updated

Texts = Mapping[str, str]


@dataclass(frozen=True)
class Written:
    """The part of the docs that recorded results make; `Docs` of studies, `Measured` of others.

    Attributes:
        marks: of each table the page that it stands on, relative to the repository.
    """

    marks: Mapping[str, str]

    def texts(self, folder: Path) -> tuple[Texts, Texts] | None:
        """Tables (Markdown by mark) and pictures (SVG by path); None without recorded results."""
        raise NotImplementedError

    def written(self, root: Path = ROOT, folder: Path = FOLDER) -> dict[Path, str]:
        """The files of the docs as recorded results make them; none without such results.

        Args:
            root: of the repository.
            folder: of the recorded results.

        Raises:
            CadcError: results cannot be used, or a page has not the marks.
        """
        found = self.texts(folder)
        if found is None:
            return {}
        tables, pictures = found
        files = {root / name: svg for name, svg in pictures.items()}
        for mark, table in tables.items():
            page = root / self.marks[mark]
            text = files.get(page) or page.read_text("utf-8")
            files[page] = between(text, mark, table, page)
        return files

    def write(self, root: Path = ROOT, folder: Path = FOLDER) -> list[Path]:
        """Write these files; returns those that changed."""
        changed = []
        for path, text in self.written(root, folder).items():
            if not path.is_file() or path.read_text("utf-8") != text:
                path.write_text(text, "utf-8")
                changed.append(path)
        return changed


def _none(_: Any) -> Texts:
    return {}


@dataclass(frozen=True)
class Docs(Written):
    """What studies write.

    Attributes:
        studies: that are recorded.
        tables: Markdown by mark, of their page.
        pictures: SVG by path, relative to the repository.
        beside: studies of other commands that the tables compare with, where they were run.
    """

    studies: tuple[str, ...]
    tables: Callable[[Comparisons], Texts]
    pictures: Callable[[Comparisons], Texts] = _none
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
        """Their recorded results; None where there are none.

        Raises:
            CadcError: a file cannot be used.
        """
        names = [n for n in (*self.studies, *self.beside) if (folder / f"{n}.json").is_file()]
        return read(names, folder) if set(names) & set(self.studies) else None

    def texts(self, folder: Path) -> tuple[Texts, Texts] | None:
        """As of `Written`."""
        found = self.recorded(folder)
        return None if found is None else (self.tables(found), self.pictures(found))


@dataclass(frozen=True)
class Measured(Written):
    """What another benchmark writes, of the JSON that it recorded.

    Attributes:
        file: its name in the folder, without ending.
        tables: Markdown by mark, of the content.
        pictures: SVG by path, relative to the repository.
    """

    file: str
    tables: Callable[[Any], Texts]
    pictures: Callable[[Any], Texts] = _none

    def texts(self, folder: Path) -> tuple[Texts, Texts] | None:
        """As of `Written`."""
        path = folder / f"{self.file}.json"
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise CadcError(f"{path}: is not JSON ({error}); record it again.") from error
        return self.tables(content), self.pictures(content)
