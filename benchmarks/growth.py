"""How each stage's time and memory grow with the rows, of a study of generated logs.

    cadc-rec study configs/study/scale-generated.toml --workdir work
    python -m benchmarks.growth work/studies/scale-generated
    python -m benchmarks.growth work/studies/scale-generated --rounds 3    # makes stages again
    python -m benchmarks.growth work/studies/scale-generated --on-paper 1B
    python -m benchmarks.growth ... --out benchmarks/recorded/growth.json

In: the records of the study's finished cells, and rounds in which stages were made again. Out: a
row for each stage, as Markdown and as JSON, of the medians of all rounds. A row's cost is what the
larger of two sizes takes more, over the rows that it has more, so starting does not count; *growth*
is that of the last two sizes over that of the first two of the last three: 1.05 and less is linear.
It is a difference over a difference, which a slow minute of the machine moves by much more, so the
least and the most of single rounds stand beside it. What a log takes that nobody ran is the largest
size and, for every further row, that cost: by arithmetic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.growth_rounds import STAGES, make_rounds, read_rounds
from benchmarks.recorded.docs import Measured
from cadc_rec import strict_json
from cadc_rec.config.types import parse_number
from cadc_rec.errors import CadcError
from cadc_rec.log import set_up_logging
from cadc_rec.study.run.estimates import measured_seconds

LINEAR = 1.05
ON_PAPER = 1e9
"""Rows of the size that the page has and nobody ran."""
_ORDER = ("prepare", "pretrain", "transitions", "prior", "select", "train", "evaluate")
_GIB = 2**30


@dataclass(frozen=True)
class Point:
    """One stage at one size.

    Attributes:
        rows: of the log.
        seconds: of a core, the median of `rounds`.
        peak_bytes: the most memory that the process held in this stage; None if not measured.
        commit: of the code that the study ran; None if not known.
        rounds: seconds each time that it was made, that of the study first.
    """

    rows: int
    seconds: float
    peak_bytes: int | None
    commit: str | None = None
    rounds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Growth:
    """One stage at all sizes, which ascend.

    Attributes:
        stage: its name.
        methods: those that have this stage with the same result.
        points: of each size.
    """

    stage: str
    methods: tuple[str, ...]
    points: tuple[Point, ...]

    @property
    def costs(self) -> list[float]:
        """Seconds of each row more, between sizes that follow each other."""
        return [(b.seconds - a.seconds) / (b.rows - a.rows) for a, b in pairwise(self.points)]

    @property
    def growth(self) -> float | None:
        """A row's cost between the last two sizes over that between the two before.

        None of fewer than three sizes, and where more rows took no more.
        """
        if len(self.points) < 3 or min(self.costs[-2:]) <= 0:
            return None
        return self.costs[-1] / self.costs[-2]

    @property
    def of_rounds(self) -> list[float]:
        """`growth` of each round that has the last three sizes and took more for more rows."""
        found = []
        for seconds in zip(*(point.rounds for point in self.points[-3:]), strict=False):
            points = (
                Point(p.rows, s, None) for p, s in zip(self.points[-3:], seconds, strict=True)
            )
            grown = Growth(self.stage, self.methods, tuple(points)).growth
            found += [] if grown is None else [grown]
        return found

    def at(self, rows: float) -> tuple[float, float | None] | None:
        """Seconds and bytes of so many rows, by the last two sizes; None of a single size."""
        if len(self.points) < 2:
            return None
        before, last = self.points[-2:]
        further = rows - last.rows
        seconds = last.seconds + max(self.costs[-1], 0.0) * further
        if before.peak_bytes is None or last.peak_bytes is None:
            return seconds, None
        each = (last.peak_bytes - before.peak_bytes) / (last.rows - before.rows)
        return seconds, last.peak_bytes + max(each, 0.0) * further


def read_growth(study: Path) -> list[Growth]:
    """The stages of a study's finished cells on generated logs.

    Raises:
        CadcError: there is no such cell, or a method has two at a size.
    """
    # What each method's stage was, by rows: methods that share its result share the series.
    made: dict[tuple[str, str], dict[int, tuple[str, Point]]] = {}
    again = read_rounds(study)
    for file in sorted(study.glob("cells/*.json")):
        record = json.loads(file.read_text("utf-8"))
        if record.get("status") != "done" or record["config"]["data"]["source"] != "generated":
            continue
        rows = int(record["config"]["data"]["generated"]["interactions"])
        for stage, seconds in measured_seconds(record).items():
            peak = record.get("costs", {}).get(stage, {}).get("peak_memory_bytes")
            peak = None if peak is None else int(peak)
            rounds = (seconds, *again.get(record["artifacts"][stage], ()))
            point = Point(rows, statistics.median(rounds), peak, record.get("commit"), rounds)
            made_here = record["artifacts"][stage], point
            known = made.setdefault((stage, record["method"]), {}).setdefault(rows, made_here)
            if known[0] != made_here[0]:
                raise CadcError(
                    f"{file}: a second {stage} of {record['method']} on {rows:,} rows, with other "
                    "settings; a study whose growth is measured has one cell a method and size."
                )
    if not made:
        raise CadcError(f"{study}: has no finished cell of a generated log; run the study first.")
    grown = []
    for stage in {stage for stage, _ in made}:
        series = [({method}, of_rows) for (one, method), of_rows in made.items() if one == stage]
        for methods, of_rows in _merged(series):
            points = tuple(of_rows[rows][1] for rows in sorted(of_rows))
            grown.append(Growth(stage, tuple(sorted(methods)), points))
    return sorted(grown, key=lambda one: (_ORDER.index(one.stage), one.methods))


_Series = tuple[set[str], dict[int, tuple[str, Point]]]


def _merged(series: Sequence[_Series]) -> list[_Series]:
    """One series in place of those whose results are the same wherever both were measured.

    A cell that is missing at one size takes no method out of its series.
    """
    found: list[_Series] = []
    for methods, of_rows in series:
        for others, theirs in found:
            common = of_rows.keys() & theirs.keys()
            if common and all(of_rows[rows][0] == theirs[rows][0] for rows in common):
                others |= methods
                theirs |= of_rows
                break
        else:
            found.append((set(methods), dict(of_rows)))
    return found if len(found) == len(series) else _merged(found)  # one may join two others


def table(grown: Sequence[Growth], on_paper: float | None) -> str:
    """A row for each stage, as Markdown; with the time and memory of a size that nobody ran."""
    sizes = sorted({point.rows for one in grown for point in one.points})
    head = ["stage", "methods", *(f"{_size(rows)}: s, GiB" for rows in sizes), "ns a row", "growth"]
    head += [f"{_size(on_paper)} on paper: h, GiB"] if on_paper else []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in grown:
        by_rows = {point.rows: point for point in one.points}
        row = [one.stage, ", ".join(one.methods)]
        row += [_point(by_rows.get(rows)) for rows in sizes]
        row.append(f"{1e9 * one.costs[-1]:,.0f}" if one.costs and one.costs[-1] > 0 else "–")
        row.append(_growth(one))
        if on_paper:
            found = one.at(on_paper)
            row.append("" if found is None else f"{found[0] / 3600:,.2f}{_memory(found[1])}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _growth(one: Growth) -> str:
    if one.growth is None:
        return "–"
    value = f"{one.growth:.2f}" if one.growth <= LINEAR else f"**{one.growth:.2f}**"
    of = one.of_rounds
    return f"{value} ({min(of):.2f} to {max(of):.2f})" if len(of) > 1 else value


def _point(point: Point | None) -> str:
    return "" if point is None else f"{point.seconds:,.1f}{_memory(point.peak_bytes)}"


def _memory(peak: float | None) -> str:
    return "" if peak is None else f", {peak / _GIB:,.2f}"


def _size(rows: float) -> str:
    return f"{rows / 1e9:g}B" if rows >= 1e9 else f"{rows / 1e6:g}M"


def document(grown: Sequence[Growth]) -> Mapping[str, Any]:
    """The same as JSON values."""
    return {
        "schema_version": 1,
        "stages": [
            asdict(one)
            | {"growth": one.growth, "least": min(of, default=None), "most": max(of, default=None)}
            for one in grown
            for of in [one.of_rounds]
        ],
    }


def from_document(content: Mapping[str, Any]) -> list[Growth]:
    """What `document` made these JSON values of."""
    return [
        Growth(one["stage"], tuple(one["methods"]), tuple(map(_read_point, one["points"])))
        for one in content["stages"]
    ]


def _read_point(content: Mapping[str, Any]) -> Point:
    return Point(**{**content, "rounds": tuple(content.get("rounds", ()))})


DOCS = Measured(
    file="growth",
    marks={"growth": "docs/performance.md"},
    tables=lambda content: {"growth": table(from_document(content), ON_PAPER)},
)
"""What is recorded, into the page."""


def _rows(text: str) -> float:
    """A number of rows, as a command line has it."""
    try:
        return parse_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, read the records, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("study", type=Path, help="the study's folder, WORKDIR/studies/NAME")
    parser.add_argument(
        "--on-paper", type=_rows, metavar="ROWS", help="a size that was not run, such as 1B"
    )
    parser.add_argument("--out", type=Path, help="write the stages as JSON, too")
    parser.add_argument("--rounds", type=int, default=0, help="make stages again, so often")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="of --rounds")
    parser.add_argument("--methods", nargs="+", default=[], help="of --rounds")
    asked = parser.parse_args(arguments)
    set_up_logging()
    try:
        read_growth(asked.study)
        make_rounds(asked.study, asked.rounds, asked.methods, asked.stages)
        grown = read_growth(asked.study)
    except CadcError as error:
        sys.exit(f"error: {error}")
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(strict_json.dumps(document(grown), indent=2) + "\n", "utf-8")
    print(table(grown, asked.on_paper))


if __name__ == "__main__":
    main()
