"""Whether an answer is the one that the files say.

The rule: a score agrees within 1e-5 of the largest one in the answer, and items whose scores lie
closer than that may stand in either order, for a service adds float32 numbers up in other ways than
NumPy does. Everything else must be the same: which items, how many, in which order, what the answer
is based on. Scores by popularity are counts; there nothing may differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.exactness.files import Expected, Files, Question

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Answer:
    """What one user got: items, the best first, their scores, and what it is based on."""

    items: list[Any]
    scores: list[float]
    source: str


@dataclass
class Tally:
    """What was found.

    Attributes:
        users: whose answers were compared.
        swapped: of whom items with close scores stand in another order.
        wrong: a sentence for each answer that differs.
        largest: difference of a score, as a share of the largest in its answer.
    """

    users: int = 0
    swapped: int = 0
    wrong: list[str] = field(default_factory=list)
    largest: float = 0.0

    def add(self, files: Files, asked: Question, expected: Expected, got: list[Answer]) -> None:
        """Compare the answers to a question."""
        for line, answer in enumerate(got):
            self.users += 1
            why = self._differs(files, asked, expected, line, answer)
            if why:
                self.wrong.append(f"user {asked.users[line]!r}: {why}")

    def _differs(
        self, files: Files, asked: Question, expected: Expected, line: int, got: Answer
    ) -> str:
        """Why an answer is not what is expected; empty where it is."""
        source, may = expected.sources[line], expected.may[line]
        ours = np.where(may, expected.scores[line], -np.inf)
        strict = listed(files, asked, ours, source)
        if got.source != source:
            return f"is based on {got.source}, not {source}"
        if len(got.items) != len(strict):
            return f"has {len(got.items)} items, not {len(strict)}"
        rows = np.array([files.item_row.get(item, -1) for item in got.items], np.int64)
        if (rows < 0).any() or len(np.unique(rows)) < len(rows):
            return "names an item twice, or one that does not exist"
        if not may[rows].all():
            item = got.items[int(np.argmin(may[rows]))]
            return f"has item {item!r}, which is none of the candidates"
        scores = np.array(got.scores, np.float64)
        scale = float(np.abs(ours[strict]).max(initial=0.0)) or 1.0
        off = np.abs(scores - ours[rows]) / scale
        self.largest = max(self.largest, float(off.max(initial=0.0)))
        room = 0.0 if source == "popularity" else TOLERANCE
        if (off > room).any():
            place = int(off.argmax())
            return (
                f"scores item {got.items[place]!r} {scores[place]:.9g}, not {ours[rows[place]]:.9g}"
            )
        if rows.tolist() == strict:
            return ""
        # The answer's own scores, which lie close to ours, decide; all others are a bit lower.
        close = ours - room * scale
        close[rows] = scores
        place_of = np.full(len(ours), len(rows))
        place_of[rows] = np.arange(len(rows))
        if room and listed(files, asked, close, source, place_of) == rows.tolist():
            self.swapped += 1
            return ""
        first = next(
            n
            for n, pair in enumerate(zip(rows.tolist(), strict, strict=True))
            if pair[0] != pair[1]
        )
        return (
            f"has item {got.items[first]!r} in place {first + 1}, where "
            f"{files.item_ids[strict[first]]!r} is expected"
        )


def listed(
    files: Files,
    asked: Question,
    scores: NDArray[np.float64],
    source: str,
    order: NDArray[np.int64] | None = None,
) -> list[int]:
    """The rows of a list: the best first, of equal scores the lower row, as the rules have it.

    Args:
        files: of the bundle.
        asked: with ``max_per`` and ``min_score``.
        scores: of all items, minus infinity where one may not be an answer.
        source: of the answer.
        order: what comes before the row among equal scores.
    """
    floor = asked.parameter("min_score", -np.inf) if source != "popularity" else -np.inf
    max_per: Mapping[str, int] = asked.parameter("max_per", {})
    rows = np.flatnonzero((scores > -np.inf) & (scores >= floor))
    if not max_per and len(rows) > asked.k:  # all that may stand in the list; ties at its end, too
        rows = rows[scores[rows] >= np.partition(scores[rows], -asked.k)[-asked.k]]
    ranked = rows[np.lexsort((rows, rows if order is None else order[rows], -scores[rows]))]
    if not max_per:
        found: list[int] = ranked[: asked.k].tolist()
        return found
    counts: dict[str, Counter[Any]] = {name: Counter() for name in max_per}
    chosen: list[int] = []
    for row in ranked.tolist():
        mine: list[tuple[str, Sequence[Any]]]
        mine = [(name, list(files.values[name][row])) for name in max_per]
        if any(counts[name][value] >= max_per[name] for name, values in mine for value in values):
            continue
        chosen.append(row)
        for name, values in mine:
            counts[name].update(values)
        if len(chosen) == asked.k:
            break
    return chosen
