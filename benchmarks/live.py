"""What live counts are worth: a day's clicks replayed through a bundle, told of them or not.

    python -m benchmarks.live --workdir work/live          # Globo.com, a minute or two of one core

The bundle is exported of the first two days, as `benchmarks.days` learns them. Then the third day's
clicks come in the order of time. Of those on items that the bundle has, up to ``--requests`` ask
first what it recommends; the click itself is told afterwards, where clicks are told at all. A click
is a hit if its item is among the ten. Items that a user took before are left out, so all items that
the bundle knows and the user has not taken are candidates.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.days.__main__ import MIDNIGHT, base
from benchmarks.days.cells import START, Study
from benchmarks.days.clicks import Log
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.log import set_up_logging
from cadc_rec.serving.predict.events import Event
from cadc_rec.serving.predict.predictor import Predictor

K = 10


@dataclass(frozen=True)
class Asked:
    """Which clicks of the day ask first what is recommended, as rows of the log.

    Attributes:
        some: clicks on items that the bundle has, at even distances.
        first: the first click of each user who came back, if its item was known: the requests of
            `benchmarks.days`.
    """

    some: NDArray[np.int64]
    first: NDArray[np.int64]


def asked_of(study: Study, most: int) -> Asked:
    """The third day's.

    Args:
        study: with the log.
        most: of `Asked.some`.
    """
    log, day = study.log, study.day(START + 1)
    first, last = np.searchsorted(log.time, [day.start, day.end])
    rows = np.arange(first, last)
    users, items = log.known(day.start)
    known = rows[items[log.item[rows]]]
    some = known[np.linspace(0, len(known) - 1, min(most, len(known))).astype(int)]
    came, place = np.unique(log.user[rows], return_index=True)
    back = rows[place[users[came]]]
    return Asked(some, back[items[log.item[back]]])


def exported(study: Study) -> Path:
    """The bundle of the first days, for production; made if it is not there."""
    folder = study.workdir / "bundle"
    if not folder.exists():
        base(study)
        made = study.state(study.workdir / "work", 0)
        write_bundle(replace(made, state="production"), folder, Wanted(precisions=()))
    return folder


def replay(
    predictor: Predictor, study: Study, asked: Asked, told: bool, users: bool
) -> NDArray[np.int64]:
    """A day's clicks in the order of time.

    Args:
        predictor: of the first days; clicks are told to it.
        study: with the log.
        asked: the clicks that ask.
        told: whether clicks are told.
        users: whether they are told with who clicked.

    Returns:
        The rows of the hits.
    """
    log, day = study.log, study.day(START + 1)
    hits, waiting = [], int(np.searchsorted(log.time, day.start))
    for row in np.union1d(asked.some, asked.first).tolist():
        if told:  # all that came strictly before
            until = int(np.searchsorted(log.time, log.time[row]))
            predictor.count(_events(log, range(waiting, until), users))
            waiting = until
        found = predictor.recommend([int(log.users[log.user[row]])], K)
        if int(log.items[log.item[row]]) in found.lists()[0]:
            hits.append(row)
    return np.array(hits, np.int64)


def _events(log: Log, rows: range, users: bool) -> list[Event]:
    return [
        Event(
            int(log.items[log.item[row]]),
            log.time[row] / 1000.0,
            int(log.users[log.user[row]]) if users else None,
        )
        for row in rows
    ]


def main(words: Sequence[str] | None = None) -> None:
    """Replay the day in three ways, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("work/live"))
    parser.add_argument("--data", type=Path, help="the table of clicks; default: Globo.com's")
    parser.add_argument("--method", default="prior")
    parser.add_argument("--share", type=float, default=0.1, help="of the users")
    parser.add_argument("--midnight", type=int, default=MIDNIGHT, help="of the first, milliseconds")
    parser.add_argument("--requests", type=int, default=5000)
    asked = parser.parse_args(words)
    set_up_logging()
    torch.set_num_threads(1)
    data = asked.data
    if data is None:
        data = Path(os.environ.get("CADC_REC_DATA", ".")) / "globo" / "interactions.parquet"
    study = Study(Log.read(data, asked.share), asked.workdir, asked.method, asked.midnight)
    folder, clicks = exported(study), asked_of(study, asked.requests)
    print(f"| the bundle is told | HR@10 of {len(clicks.some):,} clicks | HR@10 of the first click "
          f"of {len(clicks.first):,} users |")  # fmt: skip
    print("|---|---|---|")
    for name, told, users in (
        ("nothing", False, False),
        ("clicks", True, False),
        ("clicks, and who clicked", True, True),
    ):
        hits = replay(Predictor.load(folder), study, clicks, told, users)
        rates = [np.isin(rows, hits).mean() for rows in (clicks.some, clicks.first)]
        print(f"| {name} | {rates[0]:.2%} | {rates[1]:.2%} |", flush=True)


if __name__ == "__main__":
    main()
