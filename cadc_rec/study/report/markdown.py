"""The report's tables as Markdown, for documents: what the page shows on hovering has a cell."""

from __future__ import annotations

import re

from cadc_rec.study.report.study_data import Study
from cadc_rec.study.report.tables import Entry, TableView, absent


def markdown_table(study: Study, table: TableView) -> str:
    """One table a dataset, each entry's second line in a column of its own."""
    heads = [table.corner]
    for column in table.columns:
        heads += [column.title, column.second]
    lines = [f"**{_plain(study.title)}**", ""]
    for place, dataset in enumerate(table.datasets):
        lines += [f"{_plain(dataset)}:", "", _line(heads), "|" + "---|" * len(heads)]
        for row in table.rows:
            if row.entries[place] == absent(table):
                continue  # no part of the grid on this dataset
            texts = [row.label]
            for entry in row.entries[place]:
                texts += [entry.text, _second(entry)]
            lines.append(_line(texts))
        lines.append("")
    # Two columns may share a heading; what differs is said once.
    lines += dict.fromkeys(f"- {column.title}: {column.explanation}." for column in table.columns)
    return "\n".join(lines) + "\n"


def _second(entry: Entry) -> str:
    return f"{entry.second} ({entry.interval})" if entry.interval else entry.second


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(map(_plain, texts)) + " |"


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    return re.sub(r"([\\`*_\[\]|<>])", r"\\\1", " ".join(text.split()))
