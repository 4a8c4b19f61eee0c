"""What a benchmark of quality against CPU seconds measured, as JSON that a later run goes on with.

A file is of one dataset on one machine. A run is one contender with one seed: its points, or why it
cannot. It counts as done if it is whole and was asked for with the same settings and checkpoints.
One that failed, or said by itself that it cannot, is tried again: what it lacked may be there now.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cadc_rec.errors import CadcError


@dataclass
class Run:
    """One contender with one seed.

    Attributes:
        contender: its name on the command line; `title` is that on the page.
        settings: a peer's, or the method and overrides of ours.
        checkpoints: CPU seconds at which it was to be ranked.
        limits: of memory and CPU time, at which it would have been stopped.
        commit: of the code; None outside a checkout.
        points: ``cpu_seconds``, ``validation``, ``test``; of a peer ``epochs``, of ours ``stages``
            and ``kept``.
        cannot: why there are no points, or no more; a sentence with the numbers that show it.
        cpu_seconds: of the whole process, with reading and ranking.
        peak_bytes: of its memory.
        whole: whether it had all its points, or was stopped at a limit.
    """

    contender: str
    title: str
    seed: int
    settings: dict[str, Any]
    checkpoints: list[float]
    limits: dict[str, float]
    commit: str | None = None
    points: list[dict[str, Any]] = field(default_factory=list)
    cannot: str | None = None
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    whole: bool = False

    def asked_as(self, other: Run) -> bool:
        """Whether both were asked for the same."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("contender", "seed", "settings", "checkpoints")
        )


@dataclass
class Record:
    """A file's content: `about` is the dataset and the machine."""

    about: dict[str, Any]
    runs: list[Run] = field(default_factory=list)

    def done(self, wanted: Run) -> bool:
        """Whether there is such a run, and it is whole; one that was stopped, at these limits.

        Where the wanted one cannot even be asked for, a whole one of its seed is kept.
        """
        for run in self.runs:
            if run.whole and (run.contender, run.seed) == (wanted.contender, wanted.seed):
                limited = run.cannot is not None and run.limits != wanted.limits
                return wanted.cannot is not None or (run.asked_as(wanted) and not limited)
        return False

    def put(self, run: Run) -> None:
        """Add a run, in place of the one of this contender and seed, and of any asked otherwise.

        Seeds of one contender are averaged, so they must have been asked for with one setting. One
        that could not even be asked for has none, and replaces that of its seed alone.
        """
        self.runs = [
            one
            for one in self.runs
            if one.contender != run.contender
            or (
                one.seed != run.seed
                and (not run.settings or replace(one, seed=run.seed).asked_as(run))
            )
        ]
        self.runs.append(run)

    def write(self, file: Path) -> None:
        """Write the file, whole or not at all."""
        document = {**self.about, "runs": [asdict(run) for run in self.runs]}
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(file.name + ".part")
        draft.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        os.replace(draft, file)


def read(file: Path) -> Record:
    """What a file has.

    Raises:
        CadcError: it is not of this benchmark.
    """
    try:
        document = json.loads(file.read_text("utf-8"))
        runs = [Run(**run) for run in document.pop("runs")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CadcError(f"{file}: is no record of benchmarks.time_to_quality ({error}).") from error
    return Record(document, runs)


def go_on(file: Path, about: Mapping[str, Any]) -> Record:
    """The record of `file`, or a new one where there is no file.

    Raises:
        CadcError: the file is of another dataset, other settings or another machine.
    """
    if not file.exists():
        return Record(dict(about))
    record = read(file)
    if "settings" in about:
        record.about.setdefault("settings", about["settings"])  # older files do not tell them
    differ = [key for key in about if record.about.get(key) != about[key]]
    if differ:
        raise CadcError(f"{file}: is of another {differ[0]}; name another --out.")
    return record


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are read back: lists in place of tuples."""
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def in_turns(names: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Contender and seed of each turn: all with one seed, then all with the next.

    With each seed another one is first, so that none always has the machine at the same time.
    """
    turns = []
    for turn, seed in enumerate(seeds):
        first = turn % len(names)
        turns += [(name, seed) for name in [*names[first:], *names[:first]]]
    return turns
