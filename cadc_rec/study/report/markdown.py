"""The tables of a report as Markdown.

In: an overview, or a table. Out: text. A column that is empty everywhere is left out with its
explanation, and what stands twice among the heads is told apart.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from cadc_rec.study.report.formatting import STATUS
from cadc_rec.study.report.overview import Overview
from cadc_rec.study.report.study_data import Study
from cadc_rec.study.report.table_view import Column, Entry, TableView
from cadc_rec.study.report.tables import absent

_ABSENT = STATUS["unavailable"]


def markdown_overview(first: Overview) -> str:
    """The sentences, and a row a set."""
    lines = [f"- **{one.lead}.** {_plain(one.text)}" for one in first.sentences]
    heads = ["set", "method", *_heads(list(first.columns))]
    lines += ["", _line(heads), "|" + "---|" * len(heads)]
    for one, entries in first.rows:
        texts = [one.title, one.method]
        for column, entry in zip(first.columns, entries, strict=True):
            texts += [entry.text, _second(entry)] if column.second else [entry.text]
        lines.append(_line(texts))
    lines.append("")
    lines += dict.fromkeys(f"- {column.title}: {column.explanation}." for column in first.columns)
    return "\n".join(lines) + "\n"


def markdown_table(study: Study, table: TableView) -> str:
    """One table a dataset, each entry's second line, if it can have one, in its own column."""
    shown = _shown(table)
    heads = [table.corner, *_heads([column for _, column in shown])]
    lines = [f"**{_plain(study.title)}**", ""]
    for place, dataset in enumerate(table.datasets):
        # The others are no part of the grid on this dataset.
        rows = [row for row in table.rows if row.entries[place] != absent(table)]
        if rows and all(row.entries[place][0].text == _ABSENT for row in rows):
            lines += [f"{_plain(dataset)}: {_ABSENT}.", ""]
            continue
        lines += [f"{_plain(dataset)}:", "", _line(heads), "|" + "---|" * len(heads)]
        for row in rows:
            texts = [row.label]
            for at, column in shown:
                entry = row.entries[place][at]
                texts += [entry.text, _second(entry)] if column.second else [entry.text]
            lines.append(_line(texts))
        lines.append("")
    lines += [f"- {_plain(note)}" for note in table.notes]
    # Two columns may share a heading; what differs is said once.
    lines += dict.fromkeys(f"- {column.title}: {column.explanation}." for _, column in shown)
    return "\n".join(lines) + "\n"


def _shown(table: TableView) -> list[tuple[int, Column]]:
    """The places of the columns that have something, each without an empty second line."""
    found = []
    for at, column in enumerate(table.columns):
        entries = [entry for row in table.rows for entry in (each[at] for each in row.entries)]
        second = column.second if any(map(_second, entries)) else ""
        if second or any(entry.text not in ("", "–") for entry in entries):
            found.append((at, replace(column, second=second)))
    return found


def _heads(columns: list[Column]) -> list[str]:
    """Titles and second titles; one that stands twice has that of its column before it."""
    count = Counter(column.second for column in columns)
    heads = []
    for column in columns:
        heads.append(column.title)
        if column.second:
            twice = count[column.second] > 1
            heads.append(f"{column.title}: {column.second}" if twice else column.second)
    return heads


def _second(entry: Entry) -> str:
    return f"{entry.second} ({entry.interval})" if entry.interval else entry.second


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(map(_plain, texts)) + " |"


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    return re.sub(r"([\\`*_\[\]|<>])", r"\\\1", " ".join(text.split()))
