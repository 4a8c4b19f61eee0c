"""Writes the report of a study: a page, Markdown tables, pictures, and every cell as a row.

In: the folder a study was run into. Out: a folder that is whole or absent; an earlier report in
its place is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cadc_rec.errors import CadcError
from cadc_rec.log import track
from cadc_rec.store.atomic import commit
from cadc_rec.study.prices import Prices
from cadc_rec.study.report.cold import cold_table
from cadc_rec.study.report.costs import costs_table
from cadc_rec.study.report.features import features_table
from cadc_rec.study.report.figures import Figure, study_figures
from cadc_rec.study.report.groups import Comparisons, datasets
from cadc_rec.study.report.markdown import markdown_overview, markdown_table
from cadc_rec.study.report.overview import Overview, overview
from cadc_rec.study.report.page import GENERATOR, Section, render_page
from cadc_rec.study.report.study_data import Cell, Study, load_studies, told_apart
from cadc_rec.study.report.table_view import TableView
from cadc_rec.study.report.tables import study_table
from cadc_rec.study.report.updated import as_updated
from cadc_rec.updates.chain import Wanted

PAGE = "index.html"
_MORE = {"Costs": "costs-table", "Cold items": "cold-table", "What features add": "features-table"}


@dataclass(frozen=True)
class Report:
    """What was written, and how many cells of the grids have no results.

    Attributes:
        page: the file to open.
        files: all files, the page first.
        done: cells with results.
        failed: cells that ended with an error.
        missing: cells that were not run yet.
        unavailable: cells whose data is not there.
    """

    page: Path
    files: list[Path]
    done: int
    failed: int
    missing: int
    unavailable: int


def write_report(
    folder: Path,
    out: Path | None = None,
    update: Wanted = "newest",
    prices: Prices | None = None,
) -> Report:
    """Write the report of a study, or of all studies in the folders right below `folder`.

    Args:
        folder: what a study was run into.
        out: where the report goes; ``folder/report`` by default. A report there is replaced.
        update: which update of the cells' runs to report.
        prices: what dollars are computed with, in place of the studies' own.

    Raises:
        CadcError: `folder` holds no study or one that cannot be read, not all cells have the
            update, or `out` holds something else than a report or cannot be written.
    """
    out = (folder / "report" if out is None else out).resolve()
    with _writable(out):
        _refuse_other(out)
    studies = told_apart(as_updated(load_studies(folder), update))
    if prices is not None:
        studies = [study.model_copy(update={"prices": prices}) for study in studies]
    comparisons = Comparisons(studies)
    sections = _sections(comparisons)
    first = overview(comparisons)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with _writable(out):
            shutil.rmtree(draft, ignore_errors=True)  # of a killed process with this number
            draft.mkdir(parents=True)
            names = _fill(draft, comparisons.studies, sections, first)
            commit(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    states = [cell.status for study in comparisons.studies for cell in study.cells]
    return Report(
        page=out / PAGE,
        files=[out / name for name in names],
        done=states.count("done"),
        failed=states.count("failed"),
        missing=states.count("missing"),
        unavailable=states.count("unavailable"),
    )


def _sections(comparisons: Comparisons) -> list[Section]:
    """Tables and figures of every study; figures of all its sets together, and of each alone."""
    alone: dict[tuple[Path, str], list[Figure]] = {}
    keys = list(dict.fromkeys(cell.dataset for s in comparisons.studies for cell in s.cells))
    found = []
    with track("report", len(keys) + len(comparisons.studies), "sets and studies") as ticker:
        for dataset in keys:
            having = [_only(dataset, study) for study in comparisons.studies]
            of_set = Comparisons([study for study in having if study.cells])
            for study in of_set.studies:
                whole = next(s for s in comparisons.studies if s.folder == study.folder)
                if len(study.cells) < len(whole.cells):
                    alone[study.folder, dataset] = study_figures(study, of_set)
            ticker.advance(1, dataset)
        for study in comparisons.studies:
            figures = study_figures(study, comparisons)
            drawings = [
                (dataset, figure)
                for dataset in datasets(study)
                for figure in alone.get((study.folder, dataset), figures)
            ]
            table, more = study_table(study, comparisons), _more(study, comparisons)
            found.append(Section(study, table, more, tuple(figures), tuple(drawings)))
            ticker.advance(1, study.name)
    return found


def _only(dataset: str, study: Study) -> Study:
    """The study without its other sets."""
    cells = tuple(cell for cell in study.cells if cell.dataset == dataset)
    return study.model_copy(update={"cells": cells})


def _more(study: Study, comparisons: Comparisons) -> tuple[tuple[str, TableView], ...]:
    """The tables that only some studies have."""
    tables = (
        costs_table(study, comparisons),
        cold_table(study, comparisons),
        features_table(study, comparisons),
    )
    found = zip(_MORE, tables, strict=True)
    return tuple((heading, table) for heading, table in found if table is not None)


@contextlib.contextmanager
def _writable(out: Path) -> Iterator[None]:
    """Inside, what the disk refuses is a sentence."""
    try:
        yield
    except OSError as error:
        raise CadcError(
            f"{error.filename or out}: cannot be written ({error.strerror}); free some space, or "
            "choose another folder with --out."
        ) from error


def _refuse_other(out: Path) -> None:
    """Raise if `out` holds anything but a report, which would be replaced."""
    if not out.exists():
        return
    page = out / PAGE
    if out.is_dir() and not any(out.iterdir()):
        return
    if not page.is_file() or GENERATOR not in page.read_text("utf-8", errors="replace")[:2000]:
        raise CadcError(
            f"{out} exists and is not a report of a study; choose another folder with --out."
        )


def _fill(
    folder: Path, studies: Sequence[Study], sections: Sequence[Section], first: Overview
) -> list[str]:
    """Write all files; their names, the page first."""
    written = {PAGE: render_page(sections, first)}
    if first.figure is not None:
        written |= {
            f"{first.figure.name}.svg": first.figure.svg,
            f"{first.figure.name}.md": markdown_overview(first),
        }
    for section in sections:
        study = section.study
        table = study.layout if study.layout in ("table1", "table2") else f"{study.layout}-table"
        files = {f"{table}.md": markdown_table(study, section.table)}
        for heading, more in section.more:
            files[f"{_MORE[heading]}.md"] = markdown_table(study, more)
        files |= {f"{figure.name}.svg": figure.svg for figure in section.figures}
        for name, content in files.items():
            # The first study has the plain names; the tables come first.
            written[name if name not in written else f"{_file_name(study)}-{name}"] = content
    for name, content in written.items():
        (folder / name).write_text(content, "utf-8")
    pq.write_table(results_table(studies), folder / "results.parquet")
    return [*written, "results.parquet"]


def _file_name(study: Study) -> str:
    """The study's folder, which no other study of the page has."""
    return study.folder.resolve().name


def results_table(studies: Sequence[Study]) -> pa.Table:
    """One row a cell, run or not; metrics are fractions, nothing is rounded.

    The columns of a part are named after it, such as ``seconds.train``; ``config`` is JSON.
    """
    rows = [_flat(study, cell) for study in studies for cell in study.cells]
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


_PARTS = ("metrics", "validation", "validation_sample", "seconds", "rows")


def _flat(study: Study, cell: Cell) -> dict[str, Any]:
    row: dict[str, Any] = {"study": study.name, "layout": study.layout}
    for name, value in cell.model_dump(
        exclude={"history", "config", "schema_version", "artifacts"}
    ).items():
        if name == "costs":
            parts = ((stage, of.items()) for stage, of in value.items())
            row |= {f"costs.{stage}.{key}": part for stage, of in parts for key, part in of}
        elif isinstance(value, dict):
            row |= {f"{name}.{key}": part for key, part in value.items()}
        elif name not in (
            "metrics",
            "validation",
            "seconds",
            "rows",
            "validation_sample",
            "cold",
        ):  # absent parts: no column
            row[name] = value
    return row | {"config": json.dumps(cell.config) if cell.config else None}
