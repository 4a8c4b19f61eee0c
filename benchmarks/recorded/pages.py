"""The pages that recorded results make, and those whose every figure is held by a test.

In: recorded results, and the pages. Out: what is wrong with them, or the pages renewed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import beyond, cold, compression, growth, paper, sets
from benchmarks.advice import page as advice
from benchmarks.days.page import DOCS as DAYS
from benchmarks.marks import ROOT
from benchmarks.peers import page as peers
from benchmarks.recorded.docs import Written
from benchmarks.recorded.files import FOLDER
from benchmarks.recorded.prose import Allowed, Prose
from benchmarks.recorded.studies import rows_of
from benchmarks.recorded.values import Values
from benchmarks.time_to_quality import page as time_to_quality

DOCS: tuple[Written, ...] = (
    paper.DOCS,
    *compression.DOCS.values(),
    *beyond.DOCS.values(),
    *cold.DOCS.values(),
    DAYS,
    sets.DOCS,
    time_to_quality.DOCS,
    peers.IDLE,
    peers.BUSY,
    growth.DOCS,
    advice.DOCS,
)
"""What writes tables and pictures, in the order of writing."""

HELD: tuple[str, ...] = (
    "README.md",
    "docs/accuracy.md",
    "docs/advice.md",
    "docs/architecture.md",
    "docs/bad-input.md",
    "docs/compression.md",
    "docs/configuration.md",
    "docs/days.md",
    "docs/follow.md",
    "docs/glossary.md",
    "docs/launching.md",
    "docs/performance.md",
    "docs/protocol.md",
    "docs/python.md",
    "docs/recipe.md",
    "docs/results.md",
    "docs/storage.md",
    "docs/study.md",
    "docs/your-data.md",
)
"""The pages whose every figure is checked; a page joins when all that it shows is recorded. Of the
others, the figures that name a result are checked."""


def every_page(root: Path = ROOT) -> list[str]:
    """README.md and the pages of docs/, relative to the repository."""
    found = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [str(page.relative_to(root)) for page in found if page.is_file()]


def problems(held: Sequence[str] = HELD, root: Path = ROOT, folder: Path = FOLDER) -> list[str]:
    """What is wrong with the pages: tables, pictures, and figures in prose.

    Args:
        held: pages whose every figure has to be recorded; of others, those that name a result are
            checked.
        root: of the repository.
        folder: of the recorded results.

    Raises:
        CadcError: recorded results cannot be used.
    """
    found, made = [], set()
    for docs in DOCS:
        written = docs.written(root, folder)
        found += [
            f"{path.relative_to(root)}: is not what the recorded results make; write it again "
            "(python -m benchmarks.recorded)"
            for path, text in written.items()
            if not path.is_file() or path.read_text("utf-8") != text
        ]
        made |= {(page, mark) for mark, page in docs.marks.items() if written}
    values, allowed = Values(folder), Allowed.read(folder / "allowed.toml")
    for page in every_page(root):
        prose = Prose.read(page, (root / page).read_text("utf-8"), allowed)
        found += prose.problems(values, page in held)
        found += [
            f"{page}: no recorded results make what stands between the marks {mark}; record it "
            "with the --docs of its command"
            for mark in prose.marks
            if page in held and (page, mark) not in made
        ]
    return found


def commits(folder: Path = FOLDER) -> dict[str, dict[str, int]]:
    """By recorded file: how many of its results the code of each commit made.

    Those of a study are its finished cells.
    """
    found: dict[str, dict[str, int]] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text("utf-8"))
        if "of_ranks" in content:
            of = [cell.get("commit") for cell in rows_of(content) if cell["status"] == "done"]
        else:
            of = list(_commits_in(content)) or [None]
        found[path.stem] = dict(Counter(commit or "unknown" for commit in of))
    return found


def _commits_in(content: Any) -> Iterator[str | None]:
    """Those of a file that is no study's: each stands in the object of what it made."""
    if isinstance(content, Mapping) and "commit" in content:
        yield content["commit"]
    elif isinstance(content, Mapping) and "commits" in content:
        yield from content["commits"]
    elif isinstance(content, Mapping | list):
        for part in content.values() if isinstance(content, Mapping) else content:
            yield from _commits_in(part)


def renew(root: Path = ROOT, folder: Path = FOLDER) -> list[str]:
    """Write the figures of all pages as they are recorded; returns a line for each that changed."""
    values, allowed = Values(folder), Allowed.read(folder / "allowed.toml")
    changes = []
    for page in every_page(root):
        path = root / page
        text, changed = Prose.read(page, path.read_text("utf-8"), allowed).renewed(values)
        if changed:
            path.write_text(text, "utf-8")
            changes += changed
    return changes
