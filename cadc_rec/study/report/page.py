"""The report's page: one HTML file with its style, scripts, figures and every run's record within.

In: studies, their tables and figures. Out: HTML. The template escapes every text; figures come as
SVG that is escaped where it is drawn. The page's policy lets it run its own script and no other,
and load nothing. Without a script all of it stands below one another.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cadc_rec.study.report import formatting
from cadc_rec.study.report.doubts import doubts
from cadc_rec.study.report.figures import Figure
from cadc_rec.study.report.groups import label
from cadc_rec.study.report.overview import Overview
from cadc_rec.study.report.page_table import (
    PageRow,
    PageTable,
    Sets,
    cell_key,
    methods,
    page_table,
    runs_table,
)
from cadc_rec.study.report.paper import METHOD_ABOUT
from cadc_rec.study.report.run_records import Records
from cadc_rec.study.report.sentences import Sentence
from cadc_rec.study.report.study_data import Cell, Status, Study
from cadc_rec.study.report.table_view import TableView

# How a page is recognised as ours, and so may be replaced.
GENERATOR = "cadc-rec study report"
_SCRIPTS = ("theme.js", "tables.js", "views.js", "tips.js", "runs.js")


@dataclass(frozen=True)
class Section:
    """What the report has of one study.

    Attributes:
        more: further tables, and what heads each.
        figures: of all sets of the study together, for files.
        drawings: figures of one set, with its key, for the page.
    """

    study: Study
    table: TableView
    more: tuple[tuple[str, TableView], ...]
    figures: tuple[Figure, ...]
    drawings: tuple[tuple[str, Figure], ...]

    def of_status(self, status: Status) -> list[Cell]:
        """The cells in a state, in the order of the grid."""
        return [cell for cell in self.study.cells if cell.status == status]

    def name(self, cell: Cell) -> str:
        """The cell's method as the table calls it."""
        return label(self.study, cell.contender)


@dataclass(frozen=True)
class _SetFacts:
    """What stands above the tables of a set."""

    number: int
    title: str
    about: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    doubts: tuple[str, ...]
    sentences: tuple[Sentence, ...]


def render_page(sections: Sequence[Section], overview: Overview) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("cadc_rec.study.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    studies = [section.study for section in sections]
    cells = [cell for study in studies for cell in study.cells]
    sets = Sets.of(studies)
    records = Records(studies, sets)

    def table(study: Study, view: TableView) -> PageTable:
        return page_table(view, study, sets, records.numbers)

    def asset(name: str) -> str:
        assert environment.loader is not None
        return environment.loader.get_source(environment, name)[0]

    style = "\n" + asset("page.css")
    script = "\n" + "\n".join(map(asset, _SCRIPTS))
    titles = [study.title for study in studies]
    return environment.get_template("page.html").render(
        generator=GENERATOR,
        title=titles[0] if len(titles) == 1 else "A study of data compression for two towers",
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        records=records.as_json(),
        overview=overview,
        overview_table=_overview_table(overview, sets, records),
        sections=sections,
        table=table,
        runs=runs_table(studies, sets, records.numbers),
        numbers=sets,
        sets=[_facts(key, sets, studies, overview) for key in sets.titles],
        methods=methods(studies),
        about_methods=METHOD_ABOUT,
        counts=Counter(cell.status for cell in cells),
        status_titles=formatting.STATUS,
        total=len(cells),
        machines=_machines(cells),
        versions=_versions(cells),
        finished=max((cell.finished for cell in cells), default=""),
        svg=Markup,
    )


def _policy(style: str, script: str) -> str:
    """A content security policy: no network, and no script or style but the page's own."""
    hashes = [
        base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        for content in (style, script)
    ]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _overview_table(overview: Overview, sets: Sets, records: Records) -> PageTable:
    """A row a set, whose runs are those of the sample that it shows."""
    rows = []
    for place, (one, entries) in enumerate(overview.rows):
        group = one.shown.group
        numbers = tuple(records.numbers[cell_key(group.study, cell)] for cell in group.cells)
        set_number = sets.number(one.dataset)
        rows.append(PageRow(one.method, place, set_number, group.method, numbers, entries))
    return PageTable("method", overview.columns, tuple(rows))


def _facts(key: str, sets: Sets, studies: Sequence[Study], overview: Overview) -> _SetFacts:
    """What is known of a set: its size, its split, and how many runs are done."""
    cells = [cell for study in studies for cell in study.cells if cell.dataset == key]
    done = [cell for cell in cells if cell.status == "done"]
    facts = {
        "test users": _each(cell.users for cell in done),
        "items": _each(cell.items for cell in done),
        "training interactions": _each(cell.rows.train for cell in done if cell.rows),
        "order of a user's interactions": "; ".join(
            dict.fromkeys(cell.split for cell in done if cell.split)
        ),
        "runs": f"{len(done)} of {len(cells)} done",
    }
    return _SetFacts(
        sets.number(key),
        sets.titles[key],
        tuple(dict.fromkeys(s.about[key] for s in studies if s.about.get(key))),
        tuple((name, text) for name, text in facts.items() if text),
        doubts(cells),
        overview.of_set.get(key, ()),
    )


def _each(values: Iterable[int | None]) -> str:
    """Every different number once, such as ``6,040``; cold items give a set several."""
    return " or ".join(f"{value:,}" for value in dict.fromkeys(values) if value is not None)


def _machines(cells: Sequence[Cell]) -> list[str]:
    """Every machine the finished cells ran on, in words."""
    found = dict.fromkeys(cell.machine for cell in cells if cell.status == "done")
    lines = []
    for machine in found:
        parts = [machine.cpu or "a machine that was not noted"]
        if machine.cores:
            parts.append(f"{machine.cores} cores")
        if machine.memory_bytes:
            parts.append(formatting.memory(machine.memory_bytes))
        if machine.device:
            parts.append(f"on {machine.device}")
        if machine.threads:
            parts.append(f"{machine.threads} thread{'s' if machine.threads > 1 else ''}")
        lines.append(", ".join(parts))
    return lines


def _versions(cells: Sequence[Cell]) -> dict[str, str]:
    """Every library with every version that made a finished cell."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        for name, version in cell.versions.items() if cell.status == "done" else ():
            found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in found.items()}
