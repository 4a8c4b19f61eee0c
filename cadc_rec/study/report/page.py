"""The report's page: one HTML file with its style, script and figures within.

In: studies. Out: HTML. The template escapes every text; figures come as SVG that is escaped where
it is drawn. The page's policy lets it run its own script and no other, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cadc_rec.study.report import formatting
from cadc_rec.study.report.figures import Figure
from cadc_rec.study.report.groups import Comparisons, label
from cadc_rec.study.report.study_data import Cell, Status, Study
from cadc_rec.study.report.tables import TableView

_ASSETS = Path(__file__).parent / "assets"
# How a page is recognised as ours, and so may be replaced.
GENERATOR = "cadc-rec study report"


@dataclass(frozen=True)
class Section:
    """What the page shows of one study."""

    study: Study
    table: TableView
    more: tuple[tuple[str, TableView], ...]
    """Further tables, and what heads each."""
    figures: tuple[Figure, ...]

    def of_status(self, status: Status) -> list[Cell]:
        """The cells in a state, in the order of the grid."""
        return [cell for cell in self.study.cells if cell.status == status]

    def name(self, cell: Cell) -> str:
        """The cell's method as the table calls it."""
        return label(self.study, cell.contender)


def render_page(comparisons: Comparisons, sections: Sequence[Section]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cells = [cell for study in comparisons.studies for cell in study.cells]
    style = "\n" + _asset("page.css")
    script = "\n" + _asset("page.js")
    titles = [study.title for study in comparisons.studies]
    return environment.get_template("page.html").render(
        generator=GENERATOR,
        title=titles[0] if len(titles) == 1 else "A study of data compression for two towers",
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        sections=sections,
        counts=Counter(cell.status for cell in cells),
        status_titles=formatting.STATUS,
        total=len(cells),
        machines=_machines(cells),
        versions=_versions(cells),
        splits=_splits(cells),
        finished=max((cell.finished for cell in cells), default=""),
        svg=Markup,
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text("utf-8")


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


def _machines(cells: Sequence[Cell]) -> list[str]:
    """Every machine the finished cells ran on, in formatting."""
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


def _splits(cells: Sequence[Cell]) -> dict[str, str]:
    """How each dataset's held-out items were chosen."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.split:
            found.setdefault(cell.dataset_title, {})[cell.split] = None
    return {title: ", ".join(splits) for title, splits in found.items()}
