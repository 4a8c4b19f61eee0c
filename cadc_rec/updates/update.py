"""Runs an update: each stage from the artifacts before it and the new tables, then the drift.

In: an experiment, a work folder, a folder of new tables. Out: one artifact a stage, like those of
`cadc-rec run`, and the record that makes them an update. The record is written last: a killed
update has no effect, the artifacts before it stay as they were, and the same command goes on after
the stages that were finished.

Ranks of a launcher make the stages together, as in a run. What is in proportion to the day rank 0
does while the others wait: the dataset, what was foreseen, the report.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cadc_rec import strict_json
from cadc_rec.config.experiment import Experiment
from cadc_rec.evaluation.validation import validation_sample
from cadc_rec.log import log
from cadc_rec.pipeline.finished import require_finished
from cadc_rec.pipeline.job import opened
from cadc_rec.pipeline.pipeline import Pipeline, launched, tell_of
from cadc_rec.pipeline.runner import StageRunner
from cadc_rec.pipeline.stage import Input, Job, Opened, Stage
from cadc_rec.pipeline.table import MAKER
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.store.artifact import (
    Artifact,
    Draft,
    Group,
    SoloGroup,
    committed,
    open_on_nodes,
    run_stage,
)
from cadc_rec.store.atomic import empty_folder
from cadc_rec.store.pruned import is_pruned
from cadc_rec.store.remote.origin import origin_of
from cadc_rec.store.remote.trees import local_tree
from cadc_rec.updates import chain
from cadc_rec.updates.changes import SIDES
from cadc_rec.updates.dataset import NothingNew
from cadc_rec.updates.day import Day, find_day, require_folder, require_updatable
from cadc_rec.updates.forget import Request, read_request
from cadc_rec.updates.learning import divisors
from cadc_rec.updates.progressive import fell, norms, progressive
from cadc_rec.updates.prune import Holders, holders_of, purge, require_alone
from cadc_rec.updates.report import State, update_report
from cadc_rec.updates.served import served_vectors
from cadc_rec.updates.table import UPDATE_TABLE, changes_between

if TYPE_CHECKING:
    from cadc_rec.distributed.processes import Processes

T = TypeVar("T")
REPORT = "update.json"


@dataclass(frozen=True)
class Outcome:
    """What came of the command.

    Attributes:
        update: the update; None where the day holds nothing new.
        counts: what became of the day's rows.
        kept: whether it had been carried out before.
    """

    update: chain.Update | None
    counts: Mapping[str, int]
    kept: bool = False
    holders: Holders | None = None
    """What holds the forgotten still, where the update forgot any."""


def carry_on(
    experiment: Experiment,
    workdir: Path,
    folder: Path | None,
    data_dir: Path | None = None,
    *,
    forget: Mapping[str, Path | None] | None = None,
    purge_holders: bool = False,
    wait: bool = True,
) -> Outcome:
    """Update the latest state of `experiment` in `workdir` by the tables in `folder`.

    With `forget` in their place, files of ids by side (``user``, ``item``), these users and items
    are forgotten; `purge_holders` then removes what held them before. A day that was carried out
    before is not again. `wait` is for another job that makes one of its artifacts; another update
    of the same experiment is never waited for.

    Raises:
        CadcError: there is no finished run of it, settings or tables that cannot be carried on, or
            another update of the same experiment is at work in the same folder.
    """
    require_updatable(experiment.data)
    origin = origin_of(workdir)
    with _joined(experiment, workdir, data_dir) as processes, contextlib.ExitStack() as held:
        group: Group = processes or SoloGroup()

        def by_chief(work: Callable[[], T]) -> T:
            return _by_chief(group, work)

        def begin() -> _Begun:
            ranks = 1 if processes is None else processes.world_size
            base = _base_of(experiment, workdir, data_dir, ranks)
            line = chain.line_of(base)
            # Holds its lock; stays empty.
            held.enter_context(empty_folder(workdir, chain.STAGE, f"line-{line}", origin=origin))
            if purge_holders:
                require_alone(workdir, line)  # and again before anything is removed
            done = chain.updates_of(workdir, line)
            latest = chain.artifacts_of(workdir, done[-1]) if done else base
            day: Day | Request
            if forget is not None:
                day = read_request(forget, experiment.data.id_forms, latest["prepare"], workdir)
            else:
                assert folder is not None
                there = local_tree(folder)  # of an address, a copy
                require_folder(there)
                day = find_day(experiment.data, there, latest["prepare"])
            return _Begun(base, done, latest, day)

        begun = by_chief(begin).here(workdir)
        read = {made.path for made in (*begun.base.values(), *begun.latest.values())}
        open_on_nodes(sorted(read), group, origin)
        line, day = chain.line_of(begun.base), begun.day

        def left(since: list[chain.Update]) -> Holders | None:
            return by_chief(lambda: _held(workdir, line, since, day, purge_holders))

        for update in begun.done:
            if update.day == day.fingerprint:
                log.info("%s: already taken in, as update %d", day.name, update.number)
                holders = left(begun.done[update.number - 1 :])
                return Outcome(update, update.report["day"], kept=True, holders=holders)
        work = _Update(experiment, workdir, begun, processes, wait)
        try:
            update = work.run()
        except NothingNew as nothing:
            return Outcome(None, nothing.counts)
        return Outcome(update, work.made["prepare"].info["update"], holders=left([update]))


@contextlib.contextmanager
def _joined(
    experiment: Experiment, workdir: Path, data_dir: Path | None
) -> Iterator[Processes | None]:
    """The ranks of a launched job; None when this process is alone."""
    if not launched():
        yield None
        return
    with opened(experiment, workdir, data_dir) as pipeline:
        yield pipeline.processes


def _by_chief(group: Group, work: Callable[[], T]) -> T:
    """What rank 0's `work` gave, on every rank; the others wait."""
    found: T = group.broadcast(group.together(work if group.rank == 0 else None))
    return found


def _base_of(
    experiment: Experiment, workdir: Path, data_dir: Path | None, ranks: int
) -> dict[str, Artifact]:
    """The run that the updates are of: the config's own, which commands of one process know.

    Several ranks also take one of as many processes, if it is the only one. Where there are both,
    it is the one that was updated last: else what was learned so far would be left out.
    """
    own = Pipeline(experiment, workdir, data_dir)
    if ranks == 1 or not committed(workdir, "prepare"):
        return require_finished(own)
    compute = experiment.compute.model_copy(update={"processes": ranks})
    of_ranks = experiment.model_copy(update={"compute": compute})
    both = own.found(), Pipeline(of_ranks, workdir, data_dir).found()
    runs = {chain.line_of(run): run for run in both if run is not None}
    if len(runs) < 2:
        return next(iter(runs.values()), None) or require_finished(own)
    lines = [line for line, _ in chain.every_update(workdir) if line in runs]  # the newest first
    line = next(iter(lines or runs))
    log.info(
        "of this experiment's two runs the update goes on from the one of compute.processes = %d",
        experiment.compute.processes if line == next(iter(runs)) else ranks,
    )
    return runs[line]


@dataclass(frozen=True)
class _Begun:
    """What an update goes on from.

    Attributes:
        base: the run's artifacts.
        done: the updates of it so far.
        latest: the newest artifacts.
        day: what comes on top of them.
    """

    base: Mapping[str, Artifact]
    done: list[chain.Update]
    latest: Mapping[str, Artifact]
    day: Day | Request

    def here(self, workdir: Path) -> _Begun:
        """The same in the work folder of this rank, whose node may have it by another path."""
        base, latest = (
            {stage: _here(made, workdir) for stage, made in of.items()}
            for of in (self.base, self.latest)
        )
        done = [replace(one, path=workdir / chain.STAGE / one.path.name) for one in self.done]
        return _Begun(base, done, latest, self.day)


def _here(made: Artifact, workdir: Path) -> Artifact:
    """An artifact that rank 0 told of, in the work folder of this rank."""
    return replace(made, path=workdir / made.path.parent.name / made.path.name)


def _held(
    workdir: Path, line: str, since: list[chain.Update], day: Day | Request, purged: bool
) -> Holders | None:
    """What holds the forgotten still; the experiment's own is removed where that is asked for."""
    if not isinstance(day, Request):
        return None
    holders = holders_of(workdir, line, since, day)
    if purged:
        purge(workdir, line, holders)
    return holders


class _Update:
    """One update at work; every rank makes the same calls."""

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        begun: _Begun,
        processes: Processes | None,
        wait: bool,
    ) -> None:
        # Without a launcher an update runs in one process.
        alone = experiment.compute.model_copy(update={"processes": 1})
        self.experiment = experiment.model_copy(update={"compute": alone})
        self.workdir, self.base, self.done = workdir, begun.base, begun.done
        self.latest, self.day = begun.latest, begun.day
        self.number = len(self.done) + 1
        self.made: dict[str, Artifact] = {}
        self.rebuilt = ""
        self.opened = Opened()
        self.wait, self.processes = wait, processes
        self.ranks = 1 if processes is None else processes.world_size
        self.runner = StageRunner(workdir, alone, processes, wait)

    def run(self) -> chain.Update:
        """Make every stage and the record."""
        first, *others = UPDATE_TABLE
        self._make_dataset(first)
        foreseen = _by_chief(self.runner.group, self._foreseen)  # predict, then learn
        self.rebuilt = self._cannot_carry_on()
        if self.rebuilt:
            log.info("%s, so all stages are made from the start", self.rebuilt)
        else:
            for stage in others:
                if stage.name in self.latest and stage.wanted(self.experiment):
                    self.made[stage.name] = self.runner.make(self._job(stage))
                    tell_of(self.made[stage.name])
        self.made = self._pipeline().run()
        return self._record(foreseen)

    def _make_dataset(self, stage: Stage) -> None:
        """Make the dataset, on rank 0; the other ranks take it from there.

        Raises:
            NothingNew: on every rank.
        """
        job, group = self._job(stage), self.runner.group

        def make() -> Artifact | NothingNew:
            try:
                return StageRunner(self.workdir, self.runner.compute, wait=self.wait).make(job)
            except NothingNew as nothing:
                return nothing

        made = _by_chief(group, make)
        if isinstance(made, NothingNew):
            raise made
        made = _here(made, self.workdir)
        open_on_nodes([made.path], group, origin_of(self.workdir))
        self.made[stage.name] = made
        tell_of(made)

    def _foreseen(self) -> dict[str, Any]:
        """How well the model before the update foresees what came."""
        before, after = self.latest["prepare"], self.made["prepare"]
        return progressive(
            self.latest,
            self.opened.dataset(before),
            self.opened.dataset(after),
            changes_between(self.opened, before, after),
            self.experiment.evaluate.k,
            self._sample,
        )

    def _sample(self, held_out: NDArray[np.int32]) -> NDArray[np.int64] | None:
        """Users whose held-out items an update ranks; None is all who have one."""
        most, seed = self.experiment.update.users, self.experiment.data.split_seed
        return validation_sample(held_out, most, seed)

    def _pipeline(self) -> Pipeline:
        """Makes what has no warm start of its own, by the ordinary stages."""
        return Pipeline(
            self.experiment,
            self.workdir,
            processes=self.processes,
            given=dict(self.made),
            opened=self.opened,
            wait=self.wait,
        )

    def _job(self, stage: Stage) -> Job:
        """A stage of the update, which an update that was killed may have made."""
        names = stage.reads(self.experiment)
        inputs = {name: made for name in names if (made := self._input(name)) is not None}
        return Job(
            stage,
            self.experiment,
            inputs,
            self.workdir,
            ranks=self.ranks,
            readers=self.ranks,
            opened=self.opened,
            update=self.number,
        )

    def _input(self, name: str) -> Input | None:
        """What a stage reads under this name; None where the experiment does not have it."""
        if name == "day":
            return self.day
        before = name.removesuffix("_before")
        if before != name:
            return self.latest[MAKER[before]]
        pipeline, stage = self._pipeline(), MAKER[name]
        if stage not in pipeline.stages():
            return None
        # Noted, so that the next stage that reads it does not compare its files once more.
        return self.made.setdefault(stage, pipeline.artifact(stage))

    def _cannot_carry_on(self) -> str:
        """Why the vectors have no warm start; empty where they have one."""
        pretrain, form = self.experiment.pretrain, self.experiment.transitions.form
        if pretrain.model == "mlp":
            return "pretrain.model = 'mlp' moves all vectors at once"
        factorized = ["pretrain"] if pretrain.model in ("mf", "als") else []
        factorized += ["transitions"] if form == "factors" else []
        for stage in factorized:
            if stage in self.latest and divisors(self.latest[stage], pretrain.scale) is None:
                return (
                    f"the vectors of {stage} were brought to pretrain.scale = {pretrain.scale!r} "
                    "in a way that cannot be undone"
                )
        return ""

    def _record(self, foreseen: Mapping[str, Any]) -> chain.Update:
        """Measure the drift and write what makes all this an update."""
        line, group = chain.line_of(self.base), self.runner.group
        places = {s: f"{a.path.parent.name}/{a.path.name}" for s, a in self.made.items()}

        def build(draft: Draft) -> None:
            report = self._report() | {"progressive": foreseen, "norms": self._norms()}
            first = self._first_since_full_build()
            fallen = fell(self.experiment.update, first, foreseen)
            if fallen and not self.rebuilt:
                report["rebuild"].append(fallen)
            text = strict_json.dumps(report, indent=2) + "\n"
            (draft.path / REPORT).write_text(text, "utf-8")
            draft.info = {
                "line": line,
                "number": self.number,
                "day": self.day.fingerprint,
                "name": self.day.name,
                "artifacts": places,
                "report": report,
            }

        limits = {"advise_new_share", "advise_cosine", "advise_hit_rate"}
        record = run_stage(
            self.workdir,
            chain.STAGE,
            {
                "code": 2,  # raised when a record comes to hold something else
                "line": line,
                "number": self.number,
                "update": self.experiment.update.model_dump(mode="json", include=limits),
            },
            {**self.made, "day": self.day.fingerprint},
            lambda draft: _by_chief(group, lambda: build(draft)),
            group=group,
        )
        tell_of(record)
        info = record.info
        return chain.Update(
            self.number,
            record.path,
            info["day"],
            info["name"],
            info["artifacts"],
            info["report"],
        )

    def _report(self) -> dict[str, Any]:
        full, since = self._last_full_build()
        any_pruned = any(is_pruned(full[stage].path) for stage in ("prepare", "evaluate"))
        before, after = self.latest["prepare"], self.made["prepare"]
        return update_report(
            self.experiment.update,
            self.experiment.evaluate.k,
            self.number,
            State(self.latest, self.opened.dataset(before)),
            State(self.made, self.opened.dataset(after)),
            changes_between(self.opened, before, after),
            full,
            None if any_pruned else self.opened.dataset(full["prepare"]),
            since,
            self.rebuilt,
            None if self.rebuilt else self._sample(self.opened.dataset(after).test_item),
        )

    def _norms(self) -> dict[str, Any]:
        """Mean lengths of the pre-trained and the served vectors, by side, before and after."""
        old, new = self.latest, self.made
        found: dict[str, Any] = {"tables": {}, "vectors": {}}
        for side in SIDES:
            if "pretrain" in old and "pretrain" in new:
                was, now = (IdTables.open(of["pretrain"]) for of in (old, new))
                found["tables"][side] = norms(getattr(was, side), getattr(now, side))
            of_both = (served_vectors(of["evaluate"], side) for of in (old, new))
            found["vectors"][side] = norms(*of_both)
        return found

    def _first_since_full_build(self) -> Mapping[str, Any] | None:
        """What was foreseen of the first update after the last full build; None if this is it.

        Of those that had a user to come back: where somebody is forgotten, nobody does.
        """
        first = None
        for update in reversed(self.done):
            if update.report["rebuilt"]:
                break
            foreseen = update.report.get("progressive")  # older records have none
            if foreseen is not None and foreseen["metrics"] is not None:
                first = foreseen
        return first

    def _last_full_build(self) -> tuple[Mapping[str, Artifact], int]:
        """The artifacts of the last full build, and the interactions of the updates since."""
        since = 0
        for update in reversed(self.done):
            if update.report["rebuilt"]:
                return chain.records_of(self.workdir, update), since
            since += int(update.report["day"]["interactions"])
        return self.base, since
