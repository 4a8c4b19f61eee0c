"""The sets of a study: where each is from, what is genuine, what was left out, size and gaps.

    python -m benchmarks.sets --workdir work --data-dir DATA                # prepares, then prints
    python -m benchmarks.sets --workdir work --data-dir DATA --only beauty globo
    python -m benchmarks.sets ... --out benchmarks/recorded/sets.json       # and records it
    python -m benchmarks.sets --docs                                        # docs/study.md anew

In: the datasets of a study's file (`configs/study/scale.toml`). Out: a row for each as Markdown and
as JSON. Preparing is the study's own first stage, so the study finds what is made here. A gap is
the time between two events of one user that follow each other; of times that are only an order it
says nothing, and of a set without times there is none. A set that is not at hand is named with its
reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.marks import ROOT
from benchmarks.recorded.docs import Measured
from benchmarks.recorded.files import FOLDER, with_commit
from cadc_rec import strict_json
from cadc_rec.config.data import DataConfig
from cadc_rec.data.sources.raw_tables import PER_SECOND
from cadc_rec.errors import CadcError
from cadc_rec.log import log, set_up_logging
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import Artifact
from cadc_rec.study.run.budget import absence
from cadc_rec.study.run.cells import data_folder
from cadc_rec.study.run.grid import Cell, read_study

STUDY = ROOT / "configs" / "study" / "scale.toml"
NAME = "sets"
RECORDED = FOLDER / f"{NAME}.json"
PAGE = "docs/study.md"

_GAPS = """
WITH events AS (
    SELECT "user", timestamp,
        timestamp - lag(timestamp) OVER (PARTITION BY "user" ORDER BY timestamp) AS gap
    FROM read_parquet($files)
)
SELECT
    avg((gap = 0)::INT), median(gap), quantile_cont(gap, 0.9),
    min(timestamp), max(timestamp)
FROM events
"""
_EACH = """
SELECT median(n) FROM (SELECT count(*) AS n FROM read_parquet($files) GROUP BY "user")
"""


def described(name: str, cell: Cell, about: str, artifact: Artifact) -> dict[str, Any]:
    """What is to be said of one prepared set.

    Args:
        name: the study's, of the set.
        cell: one of its cells.
        about: where it comes from, and what is genuine.
        artifact: of its prepare stage.

    Returns:
        Counts by name; ``gaps`` in seconds, None where times are no clock's.
    """
    info = artifact.info
    files = [str(file) for file in sorted(artifact.path.glob("train/*.parquet"))]
    files += [str(artifact.path / f"{part}.parquet") for part in ("val", "test")]
    with duckdb.connect() as engine:
        (median,) = _row(engine, _EACH, files)
        gaps = None
        if info["timestamp_kind"] == "clock":
            equal, middle, ninth, first, last = _row(engine, _GAPS, files)
            second = PER_SECOND.get(info["time_unit"], 1)
            gaps = {
                "equal_share": equal,
                "median_seconds": middle / second,
                "ninth_decile_seconds": ninth / second,
                "days": (last - first) / second / 86_400,
            }
    return {
        "set": name,
        "title": cell.dataset_title,
        "about": about,
        "filters": filters(cell.experiment.data),
        "rows_read": artifact.manifest["rows"],
        "repeats_dropped": info["duplicates_dropped"],
        "removed_by_k_core": info["removed_by_k_core"],
        "users": info["users"],
        "items": info["items"],
        "train": info["train"],
        "validation": info["val"],
        "test": info["test"],
        "median_per_user": median,
        "times": info["timestamp_kind"],
        "gaps": gaps,
    }


def _row(engine: duckdb.DuckDBPyConnection, query: str, files: list[str]) -> tuple[Any, ...]:
    row = engine.execute(query, {"files": files}).fetchone()
    assert row is not None, "an aggregate has one row"
    return row


def filters(data: DataConfig) -> str:
    """What is left out of the raw rows, and what is held out, in a few words."""
    parts = [f"{data.k_core}-core"] if data.k_core > 1 else []
    parts += [f"at most {data.max_per_user} a user"] if data.max_per_user else []
    parts += [f"{data.cold_items:.0%} of the items new"] if data.cold_items else []
    parts.append("the first of a repeated pair" if data.duplicates == "first" else data.duplicates)
    parts.append("split by time" if data.split == "time" else "leave-last-two")
    if not data.has_time:
        parts.append("in a drawn order")
    return ", ".join(parts)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each set, then where each is from, as Markdown."""
    head = ["set", "rows read", "left out: repeats, k-core", "users", "items", "trained on"]
    head += [
        "median of a user",
        "held out",
        "times",
        "equal times",
        "gap: median, nine of ten below",
    ]
    head += ["days"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        if row.get("absent"):
            lines.append(f"| {row['title']} | not available |" + " |" * (len(head) - 2))
            continue
        gaps = row["gaps"]
        cells = [
            row["title"],
            f"{row['rows_read']:,}",
            f"{row['repeats_dropped']:,}, {row['removed_by_k_core']:,}",
            f"{row['users']:,}",
            f"{row['items']:,}",
            f"{row['train']:,}",
            f"{row['median_per_user']:g}",
            f"{row['validation']:,} and {row['test']:,}",
            _TIMES[row["times"]],
            f"{gaps['equal_share']:.1%}" if gaps else "",
            ", ".join(_duration(gaps[f"{part}_seconds"]) for part in _PARTS) if gaps else "",
            f"{gaps['days']:,.0f}" if gaps else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for row in rows:
        reason = (
            f" Not available: {row['absent'].rstrip('.')}."
            if row.get("absent")
            else f" Filters: {row['filters']}."
        )
        lines.append(f"- **{row['title']}.** {row['about']}{reason}")
    return "\n".join(lines)


_PARTS = ("median", "ninth_decile")
_TIMES = {"clock": "a clock's", "order": "an order", "none": "none"}


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def rows_of(
    study: Path, workdir: Path, data_dir: Path | None, only: Sequence[str]
) -> list[dict[str, Any]]:
    """A description of each set, in the order of the study's file.

    Args:
        study: the study's file.
        workdir: where datasets are prepared, or found.
        data_dir: folder with the raw data.
        only: names of sets; empty takes all.

    Raises:
        CadcError: the study cannot be read, or has no such set.
    """
    read = read_study(study)
    wanted = only or list(read.file.datasets)
    unknown = sorted(set(wanted) - set(read.file.datasets))
    if unknown:
        known = ", ".join(read.file.datasets)
        raise CadcError(f"{study}: has no set {unknown[0]!r}; choose from {known}.")
    # Features change the columns that are prepared: the first cell without them tells of the data.
    cells = {cell.dataset: cell for cell in sorted(read.cells, key=lambda c: c.variant == "")}
    rows = []
    for name in (name for name in read.file.datasets if name in wanted and name in cells):
        cell, about = cells[name], read.file.datasets[name].about
        reason = absence(cell, data_dir)
        if reason:
            log.warning("%s is not available: %s", cell.dataset_title, reason)
            rows.append(
                {"set": name, "title": cell.dataset_title, "about": about, "absent": reason}
            )
            continue
        made = Pipeline(cell.experiment, workdir, data_dir).run("prepare")["prepare"]
        rows.append(described(name, cell, about, made))
    return rows


DOCS = Measured(
    marks={NAME: PAGE}, file=NAME, tables=lambda content: {NAME: table(content["sets"])}
)
"""What is recorded, into the page."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, describe the sets, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("study", type=Path, nargs="?", default=STUDY)
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--data-dir", type=Path, help="folder with the raw data")
    parser.add_argument("--only", nargs="+", default=[], metavar="SET", help="these sets alone")
    parser.add_argument("--out", type=Path, help="write the rows as JSON, too")
    parser.add_argument("--docs", action="store_true", help="of recorded rows, docs/study.md")
    asked = parser.parse_args(arguments)
    set_up_logging()
    try:
        if asked.docs:
            rows = json.loads(RECORDED.read_text("utf-8"))["sets"]
            DOCS.write()
        else:
            # A mistyped folder is no reason to write that nothing is at hand.
            data_dir = data_folder(asked.data_dir)
            rows = rows_of(asked.study, asked.workdir, data_dir, asked.only)
            if asked.out is not None:
                asked.out.parent.mkdir(parents=True, exist_ok=True)
                document = strict_json.dumps(
                    with_commit({"schema_version": 1, "sets": rows}), indent=2
                )
                asked.out.write_text(document + "\n", "utf-8")
    except (CadcError, OSError) as error:
        sys.exit(f"error: {error}")
    print(table(rows))


if __name__ == "__main__":
    main()
