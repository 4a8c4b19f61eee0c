"""Sixteen real days of Globo.com: what updates reach beside a rebuild, no update and popularity.

    python -m benchmarks.days --workdir work/days           # hours; goes on where it was stopped
    python -m benchmarks.days --workdir work/days --docs    # what is measured, into the docs

Days go from midnight to midnight of Brazil. The first two are learned at once; each further day is
judged before it is learned. `benchmarks.days.judge` judges all contenders on the same clicks.
``--share`` takes some of the users alone, all clicks of each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.days.cells import START, Cell, Period, Study, removed
from benchmarks.days.clicks import Log
from benchmarks.days.page import DOCS
from benchmarks.days.results import Results
from benchmarks.recorded.files import FOLDER, small, write_json
from cadc_rec.errors import CadcError
from cadc_rec.log import keep_interrupts, set_up_logging
from cadc_rec.updates.chain import every_update

MIDNIGHT = 1_506_826_800_000  # 2017-10-01, 00:00 in Brazil
_HOURS = 24
_PARTS = ("days", "half", "hours", "seeds")
_UPDATED = {"days": "work", "half": "work-half"}
_OF_FIT = ("factors", "users", "ndcg", "alone")


def base(study: Study) -> None:
    """The run of the first days, and what it reaches on all others, never updated."""
    folder = study.workdir / "work"
    first = study.day(START + 1)

    def run() -> tuple[Cell, dict[str, Any]]:
        cell = study.run(folder)
        found, ranks = study.judged_state(first, study.state(folder, 0))
        return cell | found, ranks

    study.cell(f"rebuild-{first.name}-seed-0", run)


def never(study: Study, day: int) -> None:
    """The two-day model on a day."""
    period, folder = study.day(day), study.workdir / "work"
    made = study.state(folder, 0)
    study.cell(f"none-{period.name}", lambda: study.judged_state(period, made))


def popularity(study: Study, period: Period) -> None:
    """Recent popularity on a period."""
    study.cell(f"popularity-{period.name}", lambda: study.judged_popularity(period))


def updated(
    study: Study, folder: Path, name: str, learned: Period, period: Period, number: int, *sets: str
) -> None:
    """The update that learns a period, judged on the next one.

    Args:
        study: the study.
        folder: with the run and the updates before.
        name: of the cell.
        learned: what the update takes in.
        period: what it is judged on.
        number: of the update.
        sets: of the experiment.
    """

    def update() -> tuple[Cell, dict[str, Any]]:
        cell = study.update(folder, learned, *sets)
        found, ranks = study.judged_state(period, study.state(folder, number, *sets))
        return cell | found, ranks

    study.cell(name, update)


def made_anew(study: Study, first: int) -> None:
    """Remove the updates that were judged on a day or later, and what they reached.

    The study then makes them again, on top of those before.
    """
    folder = study.workdir / "work"
    for _, update in every_update(folder):
        if update.number >= first - 1 - START:
            shutil.rmtree(update.path)  # first: it is what makes the others an update
            for place in update.artifacts.values():
                shutil.rmtree(folder / place, ignore_errors=True)
    for file in (study.workdir / "results").glob("update-*"):
        if int(file.stem.split("-")[1]) >= first:
            file.unlink()


def rebuilt(study: Study, day: int, seed: int) -> None:
    """A run on all days before one; its artifacts are removed when it was judged."""
    period = study.day(day)
    name = f"rebuild-{period.name}-seed-{seed}"
    folder = study.workdir / name

    def run() -> tuple[Cell, dict[str, Any]]:
        table = study.log.write(removed(folder) / "tables", study.midnight, period.start)
        sets = (f"data.tables.interactions.path={table.resolve()}", f"seed={seed}")
        cell = study.run(folder / "work", *sets)
        found, ranks = study.judged_state(period, study.state(folder / "work", 0, *sets))
        removed(folder)
        return cell | found, ranks

    study.cell(name, run)


def half(study: Study, days: int, share: float) -> None:
    """Updates with tables of a share of the rows that all ids of these days need."""
    users, items = study.log.known(study.day(days).start)
    sets = (
        f"data.ids.user_rows={round(share * users.sum())}",
        f"data.ids.item_rows={round(share * items.sum())}",
    )
    folder, first = study.workdir / "work-half", study.day(START + 1)

    def run() -> tuple[Cell, dict[str, Any]]:
        cell = study.run(folder, *sets)
        found, ranks = study.judged_state(first, study.state(folder, 0, *sets))
        return cell | found | {"sets": sets}, ranks

    study.cell(f"half-{first.name}", run)
    for day in range(START + 2, days + 1):
        learned, period = study.day(day - 1), study.day(day)
        updated(study, folder, f"half-{period.name}", learned, period, day - 1 - START, *sets)


def branch(study: Study, day: int) -> Path:
    """The work folder of hourly updates: that of the days as it stood when a day began.

    Raises:
        CadcError: the days went on without it.
    """
    whole, folder = study.workdir / "work", study.workdir / f"work-hours-{day:02d}"
    if not folder.exists():
        if (study.workdir / "results" / f"update-{study.day(day + 1).name}.json").exists():
            raise CadcError(f"{whole}: has learned day {day} already; give another --workdir.")
        draft = removed(folder.with_name(f".{folder.name}"))
        shutil.copytree(whole, draft, copy_function=os.link)  # no artifact is changed in place
        draft.rename(folder)
    return folder


def hours(study: Study, day: int, most: int) -> None:
    """Updates after each hour of a day, beside the model that learned all days before it."""
    folder, number = branch(study, day), day - 1 - START
    daily = study.state(study.workdir / "work", number)
    for hour in range(most):
        period = study.hour(day, hour)
        popularity(study, period)
        study.cell(f"daily-{period.name}", partial(study.judged_state, period, daily))
        if hour:
            learned, name = study.hour(day, hour - 1), f"hourly-{period.name}"
            updated(study, folder, name, learned, period, number + hour)


def main(words: Sequence[str] | None = None) -> None:
    """Run the study, or write its page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("work/days"))
    parser.add_argument("--data", type=Path, help="the table of clicks; default: Globo.com's")
    parser.add_argument("--method", default="prior")
    parser.add_argument("--share", type=float, default=1.0, help="of the users")
    parser.add_argument("--days", type=int, default=16)
    parser.add_argument("--midnight", type=int, default=MIDNIGHT, help="of the first, milliseconds")
    parser.add_argument("--seeds", type=int, default=3, help="of some rebuilds")
    parser.add_argument("--seeds-on", type=int, nargs="*", default=[3, 8, 16])
    parser.add_argument("--hours-of", type=int, default=10, help="the day of hourly updates")
    parser.add_argument("--hours", type=int, default=_HOURS)
    parser.add_argument("--rows", type=float, default=0.5, help="share of the rows, in part half")
    parser.add_argument("--parts", nargs="*", choices=_PARTS, default=_PARTS)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--anew", type=int, metavar="DAY", help="make the updates from it on again")
    parser.add_argument("--docs", action="store_true", help="run nothing; write the docs")
    asked = parser.parse_args(words)
    set_up_logging()
    keep_interrupts()
    torch.set_num_threads(1)
    try:
        if asked.docs:
            record(asked.workdir)
            print(*DOCS.write(), sep="\n")
        else:
            measure(asked)
    except CadcError as error:
        sys.exit(f"error: {error}")


def record(workdir: Path) -> None:
    """Write what was measured into the file that is committed."""
    found = Results.read(workdir / "results").record()
    fits = {name: fitted(workdir / folder) for name, folder in _UPDATED.items()}
    write_json(FOLDER / "days.json", small({**found, "fits": fits}))


def fitted(folder: Path) -> dict[str, Any]:
    """What the first run and each update of a work folder fitted, by the day it was judged on."""
    updates = {update.artifacts["prior"]: update.number for _, update in every_update(folder)}
    found = {}
    for file in sorted(folder.glob("prior/*/fitted_prior.json")):
        number = updates.get(str(file.parent.relative_to(folder)), 0)
        fit = json.loads(file.read_text("utf-8"))
        found[f"{number + 1 + START:02d}"] = {name: fit[name] for name in _OF_FIT}
    return dict(sorted(found.items()))


def measure(asked: argparse.Namespace) -> None:
    """Make all cells that are not there."""
    data = asked.data
    if data is None:
        data = Path(os.environ.get("CADC_REC_DATA", ".")) / "globo" / "interactions.parquet"
    log = Log.read(data, asked.share)
    study = Study(log, asked.workdir, asked.method, asked.midnight, tuple(asked.set))
    if asked.anew is not None:
        made_anew(study, asked.anew)
    if "days" in asked.parts:
        base(study)
        for day in range(START + 1, asked.days + 1):
            period = study.day(day)
            popularity(study, period)
            never(study, day)
            if day > START + 1:
                learned = study.day(day - 1)
                name, number = f"update-{period.name}", day - 1 - START
                updated(study, study.workdir / "work", name, learned, period, number)
                if day == asked.hours_of and "hours" in asked.parts:
                    branch(study, day)
                rebuilt(study, day, 0)
    if "half" in asked.parts:
        half(study, asked.days, asked.rows)
    if "hours" in asked.parts:
        hours(study, asked.hours_of, asked.hours)
    if "seeds" in asked.parts:
        for day in asked.seeds_on:
            for seed in range(1, asked.seeds):
                rebuilt(study, day, seed)


if __name__ == "__main__":
    main()
