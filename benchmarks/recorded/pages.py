"""The pages that recorded results make, and those whose every figure is held by a test.

In: recorded results, and the pages. Out: what is wrong with them, or the pages renewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import beyond, cold, compression, paper
from benchmarks.marks import ROOT
from benchmarks.recorded.docs import Written
from benchmarks.recorded.prose import Allowed, Prose
from benchmarks.recorded.studies import FOLDER
from benchmarks.recorded.values import Values

DOCS: tuple[Written, ...] = (
    paper.DOCS,
    *compression.DOCS.values(),
    *beyond.DOCS.values(),
    *cold.DOCS.values(),
)
"""What writes tables and pictures, in the order of writing."""

HELD: tuple[str, ...] = ()
"""The pages of which every figure is checked; a page joins when all that it shows is recorded."""


def problems(pages: Sequence[str] = HELD, root: Path = ROOT, folder: Path = FOLDER) -> list[str]:
    """What is wrong: tables and pictures that results would make otherwise, and figures of `pages`.

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
    for page in pages:
        prose = Prose.read(page, (root / page).read_text("utf-8"), allowed)
        found += [
            f"{page}: no recorded results make what stands between the marks {mark}; record it "
            "with the --docs of its command"
            for mark in prose.marks
            if (page, mark) not in made
        ]
        found += prose.problems(values)
    return found


def renew(pages: Sequence[str], root: Path = ROOT, folder: Path = FOLDER) -> list[str]:
    """Write the figures of `pages` as they are recorded; returns a line for each that changed."""
    values, allowed = Values(folder), Allowed.read(folder / "allowed.toml")
    changes = []
    for page in pages:
        path = root / page
        text, changed = Prose.read(page, path.read_text("utf-8"), allowed).renewed(values)
        if changed:
            path.write_text(text, "utf-8")
            changes += changed
    return changes
