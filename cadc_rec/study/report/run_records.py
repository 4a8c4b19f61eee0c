"""The record and settings of every cell, as the page carries them.

In: studies. Out: JSON for the page's script. Cells of a grid share nearly all sections of their
settings, so each different one stands there once: hundreds of cells take a few hundred kilobytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from cadc_rec import strict_json
from cadc_rec.study.report.groups import label
from cadc_rec.study.report.page_table import Sets, cell_key
from cadc_rec.study.report.study_data import Cell, Study

# The history is drawn; paths say nothing elsewhere; the others stand apart.
_LEFT_OUT = {"history", "artifacts", "config", "versions", "machine", "schema_version"}


class Records:
    """Numbers every cell of a page, and writes what the page's script shows of it.

    Attributes:
        numbers: of every cell, by `cell_key`.
    """

    def __init__(self, studies: Iterable[Study], sets: Sets) -> None:
        self.numbers: dict[tuple[str, str], int] = {}
        self._parts: dict[str, int] = {}
        self._runs: list[dict[str, Any]] = []
        for place, study in enumerate(studies):
            for cell in study.cells:
                self.numbers[cell_key(study, cell)] = len(self._runs)
                self._runs.append(self._run(study, place, cell, sets))

    def _run(self, study: Study, place: int, cell: Cell, sets: Sets) -> dict[str, Any]:
        said = cell.model_dump(mode="json", exclude=_LEFT_OUT)
        record = {name: value for name, value in said.items() if value not in (None, "", {}, [])}
        if cell.history:
            record["epochs_measured"] = len(cell.history)
        machine = cell.machine.model_dump(mode="json")
        return {
            "name": label(study, cell.contender),
            "study": place,
            "set": sets.number(cell.dataset),
            "record": record,
            "shared": {
                name: self._part(value)
                for name, value in (("machine", machine), ("versions", dict(cell.versions)))
                if any(value.values())
            },
            "config": {section: self._part(value) for section, value in cell.config.items()},
        }

    def _part(self, value: Any) -> int:
        """The number of a value that many cells have."""
        return self._parts.setdefault(strict_json.dumps(value), len(self._parts))

    def as_json(self) -> Markup:
        """JSON for an element ``<script type="application/json">``.

        No text of it can end the element or begin another.
        """
        runs = strict_json.dumps(self._runs)
        text = f'{{"parts":[{",".join(self._parts)}],"runs":{runs}}}'
        for sign in "<>&":
            text = text.replace(sign, f"\\u{ord(sign):04x}")
        return Markup(text)
