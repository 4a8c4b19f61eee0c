"""Follows a stream: gathers a batch, writes it down, makes its update, writes that down.

In: a stream, an experiment that was run, a work folder. Out: one `Told` a batch. What is on disk,
in `WORKDIR/follow/KEY/`: ``stream.json`` (of what stream), ``batches/`` (the journal) and
``spool/``, which holds a batch's rows until its update is made.

A batch's folder is complete before the journal names it, the journal names it before the update is
made, and the update's record bears the batch's name, which holds a digest of its rows. So whoever
comes after a kill at any point knows whether the batch was learned.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cadc_rec import strict_json
from cadc_rec.config.experiment import Experiment
from cadc_rec.errors import BusyError, CadcError
from cadc_rec.follow.journal import Batch, Journal
from cadc_rec.follow.stream import Bounds, Gathered, Stop, Stream, digest_of
from cadc_rec.log import log
from cadc_rec.pipeline.finished import require_finished
from cadc_rec.pipeline.pipeline import Pipeline, launched
from cadc_rec.store.atomic import (
    commit,
    disk_error,
    empty_folder,
    locked,
    make_folder,
    write_atomically,
)
from cadc_rec.store.remote.origin import origin_of
from cadc_rec.updates.chain import STAGE, Update, line_of, updates_of
from cadc_rec.updates.prune import prunable, remove, require_alone
from cadc_rec.updates.update import Outcome, carry_on

FOLDER = "follow"
_LOOK_SECONDS = 1.0
_BUSY_SECONDS = 5.0


@dataclass(frozen=True)
class Told:
    """What came of a batch.

    Attributes:
        batch: which.
        text: what it holds, for people.
        update: the update it became; None where it held no new interaction.
        counts: what became of its rows.
        seconds: of its update.
    """

    batch: Batch
    text: str
    update: Update | None
    counts: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Until:
    """When to end.

    Attributes:
        once: after everything that was there at the start.
        idle_minutes: after so long without anything new.
        stop: when it is set, after the batch at hand.
    """

    once: bool = False
    idle_minutes: float | None = None
    stop: Stop = field(default_factory=Stop)


def follow(
    experiment: Experiment,
    workdir: Path,
    stream: Stream,
    bounds: Bounds,
    until: Until,
    data_dir: Path | None = None,
    begun: Callable[[], object] = lambda: None,
) -> Iterator[Told]:
    """Update the latest state of `experiment` in `workdir` by each batch of a stream.

    `begun` is called once no other process can follow for the experiment.

    Raises:
        CadcError: there is no finished run of it, another process follows for it, a launcher
            started this one, a batch cannot be learned (nothing of it is then), or what the journal
            says was made is gone.
    """
    if launched():
        raise CadcError("follow runs in one process; start cadc-rec follow without a launcher.")
    if origin_of(workdir) is not None:
        raise CadcError("follow works on a work folder of this machine; name one with --workdir.")
    workdir = workdir.absolute()
    line = line_of(require_finished(Pipeline(experiment, workdir, data_dir)))
    folder = workdir / FOLDER / _key(line, stream.identity)
    make_folder(folder / "batches", workdir)
    with locked(folder.parent / f"{line}.lock") as mine:
        if not mine:
            raise BusyError(
                f"{workdir}: another process follows a stream for this experiment; wait for it, or "
                "give this one a work folder of its own with --workdir."
            )
        about = {"stream": stream.identity, "run": f"evaluate/{line}"}
        write_atomically(folder / "stream.json", strict_json.dumps(about, indent=1) + "\n")
        begun()
        follower = Follower(
            folder,
            stream,
            bounds,
            until,
            update=lambda batch: carry_on(experiment, workdir, batch, data_dir),
            made=lambda: updates_of(workdir, line),
        )
        try:
            yield from follower.run()
        except OSError as error:
            explained = disk_error(error, workdir)
            if explained is None:
                raise
            raise explained from error


def remove_old(
    experiment: Experiment, workdir: Path, keep: int, data_dir: Path | None = None
) -> None:
    """Remove what no one of the newest `keep` updates needs, as `cadc-rec prune` does.

    Where another job is at work in the folder it is left to the next time.
    """
    base = require_finished(Pipeline(experiment, workdir, data_dir))
    line = line_of(base)
    try:
        with empty_folder(workdir, STAGE, f"line-{line}"):
            paths = prunable(workdir, base, keep)
            if paths:
                require_alone(workdir, line)
                remove(paths, "pruned, for no kept update needs them")
    except BusyError as busy:
        log.info("%s", busy)


def _key(line: str, identity: str) -> str:
    return hashlib.sha256(f"{line}\0{identity}".encode()).hexdigest()[:16]


class Follower:
    """One stream at work.

    Args:
        folder: its state.
        stream: where batches come from.
        bounds: how large they are.
        until: when to end.
        update: makes the update of a folder of rows.
        made: the updates that were made so far, in order.
    """

    def __init__(
        self,
        folder: Path,
        stream: Stream,
        bounds: Bounds,
        until: Until,
        update: Callable[[Path], Outcome],
        made: Callable[[], Sequence[Update]],
    ) -> None:
        self._folder, self._stream, self._bounds, self._until = folder, stream, bounds, until
        self._update, self._made = update, made
        self._spool, self._draft = folder / "spool", folder / "spool" / ".draft"
        self._journal = Journal(folder / "batches")

    def run(self) -> Iterator[Told]:
        """What came of each batch, one after the other."""
        self._sweep()
        self._stream.begin(self._journal.batches)
        if (planned := self._journal.planned) is not None:
            yield from self._learned(planned, self._text_of(planned))
        stop, idle = self._until.stop, self._until.idle_minutes
        while not stop.is_set():
            waited = time.monotonic() - self._stream.moved
            idled = idle is not None and waited >= 60 * idle
            flush = self._until.once or idled
            gathered = self._stream.gather(self._draft, self._bounds, flush)
            if gathered is not None:
                batch = self._planned(gathered)
                if batch is not None:
                    yield from self._learned(batch, gathered.text)
            elif flush and self._stream.exhausted():
                if idled and not self._until.once:
                    log.info("%s: nothing came for %g minutes", self._stream.text, idle)
                return
            else:
                self._stream.wait(_LOOK_SECONDS, stop)

    def _planned(self, gathered: Gathered) -> Batch | None:
        """The batch in the draft, written down; None where it has no rows to learn."""
        number = len(self._journal.batches) + 1
        taken = tuple(gathered.taken)
        if not any(path.is_file() for path in self._draft.rglob("*")):
            nothing = Batch(number, f"batch-{number:06d}", 0, taken, "nothing new")
            self._journal.plan(nothing)
            self._stream.took(nothing)
            return None
        label = re.sub(r"[^\w.-]+", "_", f"-{gathered.label}")[:40] if gathered.label else ""
        name = f"batch-{number:06d}-{digest_of(self._draft)[:12]}{label}"
        commit(self._draft, self._spool / name)
        batch = Batch(number, name, gathered.rows, taken)
        self._journal.plan(batch)
        self._stream.took(batch)
        return batch

    def _learned(self, batch: Batch, text: str) -> Iterator[Told]:
        """Make the update of a planned batch, or find it made by a process that was killed."""
        began = time.monotonic()
        outcome = self._found(batch)
        if outcome is None:
            folder = self._spool / batch.name
            if not folder.is_dir() or digest_of(folder)[:12] != batch.name.split("-")[2]:
                log.warning("%s: its rows are damaged, so they are taken anew", folder)
                self._take_back()
                return
            outcome = self._made_of(folder, batch, text)
            if outcome is None:
                return
        update = outcome.update
        state, number = ("nothing new", None) if update is None else ("made", update.number)
        closed = self._journal.close(state, number)  # type: ignore[arg-type]  # one of its words
        shutil.rmtree(self._spool / batch.name, ignore_errors=True)
        yield Told(closed, text, update, outcome.counts, time.monotonic() - began)

    def _found(self, batch: Batch) -> Outcome | None:
        """The update of a batch, if it was made.

        Raises:
            CadcError: the update of an earlier one is gone.
        """
        updates = self._made()
        for earlier in reversed(self._journal.batches):
            if earlier.update is None:
                continue
            if len(updates) < earlier.update:
                raise CadcError(
                    f"{self._folder}: {earlier.name} became update {earlier.update}, and there are "
                    f"only {len(updates)}; bring its folder of updates back, or delete "
                    f"{self._folder} to take the stream from its beginning."
                )
            break
        for update in reversed(updates):
            if update.name == batch.name:
                return Outcome(update, update.report["day"], kept=True)
        return None

    def _made_of(self, folder: Path, batch: Batch, text: str) -> Outcome | None:
        """Make the update; None where the stream is to end first.

        Raises:
            CadcError: it cannot be made; the batch is taken back.
        """
        waiting = False
        while True:
            try:
                return self._update(folder)
            except BusyError as busy:
                if not waiting:
                    log.warning("%s Waiting.", busy)
                waiting = True
                if self._until.stop.wait(_BUSY_SECONDS):
                    return None
            except CadcError as error:
                about = f"{folder}" in str(error)
                told = self._stream.told(str(error), folder, batch)
                self._take_back()
                out = f" Nothing of it was learned; {self._stream.way_out(batch)}." if about else ""
                raise CadcError(f"batch {batch.number} ({text}): {told}{out}") from error

    def _take_back(self) -> None:
        """Forget a batch of which nothing was learned; its rows are gathered anew."""
        name = self._journal.batches[-1].name
        self._journal.drop()
        shutil.rmtree(self._spool / name, ignore_errors=True)
        self._stream.begin(self._journal.batches)

    def _sweep(self) -> None:
        """Remove what a killed process left: drafts, and batches that are not written down."""
        planned = self._journal.planned
        for draft in (self._folder / "batches").glob("*.draft"):
            draft.unlink(missing_ok=True)
        self._spool.mkdir(exist_ok=True)
        for path in self._spool.iterdir():
            if planned is None or path.name != planned.name:
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    @staticmethod
    def _text_of(batch: Batch) -> str:
        """A batch of an earlier process, for people."""
        named = [str(one.get("name", "")) for one in batch.taken if "left_out" not in one]
        return named[0] if len(named) == 1 and named[0] else batch.name
