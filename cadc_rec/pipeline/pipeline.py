"""An experiment's stages over one work folder, each made once and in order.

In: an experiment, a work folder. Out: one artifact a stage. What a stage is fed, and which settings
decide its result, is said in `cadc_rec.pipeline.table`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cadc_rec.config.experiment import Experiment
from cadc_rec.config.running import INT8_NOT_TRAINED
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.pipeline.runner import StageRunner
from cadc_rec.pipeline.stage import Input, Job, OnEpoch, Opened, Stage
from cadc_rec.pipeline.table import MAKER, TABLE, select_several
from cadc_rec.pipeline.table import STAGES as STAGES
from cadc_rec.store.artifact import Artifact
from cadc_rec.versions import require_trio

if TYPE_CHECKING:
    from cadc_rec.data.dataset import Dataset
    from cadc_rec.distributed.processes import Processes
    from cadc_rec.pretrain.id_tables import Pretrained


@dataclass
class Pipeline:
    """An experiment's stages over one work folder.

    Args:
        experiment: all the settings.
        workdir: where artifacts live.
        data_dir: where raw archives are looked for; default: ``$CADC_REC_DATA``, then a download.
        force: stages to make anew even when they are there.
        processes: the ranks of a launched job; None when this process is alone.
        launch: carries out the train stage in local worker processes, when
            ``compute.processes`` asks for them and nobody launched us.
        tell: how a finished stage is announced.
        profile: record where the train stage's time goes; it is made anew for that, and its
            seconds are those of a recorded run.
        resume: a checkpoint for the train stage to go on with; None looks for the newest.
        given: artifacts that stand in for their stages', such as an update's.
        wait: for another job that makes the same artifact; False refuses.
        on_epoch: called after every epoch of a training in this process; what it raises ends it.
        opened: what the stages have opened.
        table: the stages, by name.
    """

    experiment: Experiment
    workdir: Path
    data_dir: Path | None = None
    force: Sequence[str] = ()
    processes: Processes | None = None
    launch: Callable[[bool], None] | None = None
    tell: Callable[..., None] = log.info
    profile: bool = False
    resume: Path | None = None
    given: Mapping[str, Artifact] = field(default_factory=dict)
    wait: bool = True
    on_epoch: OnEpoch = lambda _: None
    opened: Opened = field(default_factory=Opened)
    table: Mapping[str, Stage] = field(default_factory=lambda: TABLE)
    raw_fingerprint: str = field(default="", init=False)
    """Of the raw input, once it was looked at."""
    _made: dict[str, Artifact] = field(default_factory=dict, init=False)
    _trains: bool = field(default=False, init=False)

    @cached_property
    def runner(self) -> StageRunner:
        """Makes or finds a stage's artifact."""
        return StageRunner(self.workdir, self.experiment.compute, self.processes, self.wait)

    def stages(self) -> list[str]:
        """The stages this experiment has, in order."""
        return [stage.name for stage in self.table.values() if stage.wanted(self.experiment)]

    def run(self, until: str = "evaluate") -> dict[str, Artifact]:
        """Make every stage up to and with `until`; returns the artifacts by stage."""
        from cadc_rec.tracking.runs import require_tracking

        require_tracking(self.experiment.tracking)
        stages = self.stages()
        self._trains = "train" in stages[: stages.index(until) + 1 if until in stages else None]
        if self._trains:
            self._require_shards()
        for stage in stages:
            self.artifact(stage)
            if stage == until:
                break
        return dict(self._made)

    def artifact(self, stage: str) -> Artifact:
        """The artifact of `stage`, made now if it is not there."""
        if stage in self._made:
            return self._made[stage]
        if stage in self.given:
            return self._made.setdefault(stage, self.given[stage])
        with self._job(stage) as job:
            made = self._make(job)
        tell_of(made, self.tell)
        self._made[stage] = made
        return made

    def found(self, until: str = "evaluate") -> dict[str, Artifact] | None:
        """The artifacts up to and with `until`; None, and nothing made, where one is missing.

        One whose files were pruned is there with its manifest alone (`cadc_rec.store.pruned`).
        """
        found: dict[str, Artifact] = {}
        for stage in self.stages():
            if stage == "evaluate" and until != stage:
                break
            if stage in self._made or stage in self.given:
                found[stage] = self.artifact(stage)
            else:
                with self._job(stage) as job:
                    if self.runner.exists(job):
                        found[stage] = self._make(replace(job, anew=False))
                    elif (pruned := self.runner.pruned(job)) is not None:
                        found[stage] = pruned
                    else:
                        return None
                if not job.anew:  # else it is still to be made
                    self._made[stage] = found[stage]
                    tell_of(found[stage], self.tell)
            if stage == until:
                break
        return found

    def selections(self, ratios: Sequence[float]) -> list[Artifact]:
        """D_sel at each of these filtering ratios; what is missing is made in one pass."""
        with self._job("select") as job:
            jobs = [replace(job, experiment=_at_ratio(self.experiment, ratio)) for ratio in ratios]
            return self.runner.make_several(jobs, lambda: select_several(jobs))

    @property
    def dataset(self) -> Dataset:
        """The prepared data, opened once."""
        return self.opened.dataset(self.artifact("prepare"))

    @property
    def pretrained(self) -> Pretrained:
        """The pre-trained vectors, opened once; empty for methods without."""
        tables, transitions = (
            self.artifact(stage) if stage in self.stages() else None
            for stage in ("pretrain", "transitions")
        )
        return self.opened.pretrained(tables, transitions)

    @contextlib.contextmanager
    def _job(self, name: str) -> Iterator[Job]:
        """The stage's job, with its inputs made; raw files stay at hand within."""
        stage, processes = self.table[name], self.processes
        with contextlib.ExitStack() as held:
            inputs = {
                read: made
                for read in stage.reads(self.experiment)
                if (made := self._input(read, held)) is not None
            }
            yield Job(
                stage,
                self.experiment,
                inputs,
                self.workdir,
                ranks=processes.world_size if processes else 1,
                readers=processes.world_size if processes else self.experiment.compute.processes,
                opened=self.opened,
                anew=name in self.force or (self.profile and stage.workers),
                profile=self.profile,
                resume=self.resume,
                on_epoch=self.on_epoch,
            )

    def _input(self, name: str, held: contextlib.ExitStack) -> Input | None:
        """What a stage reads under this name; None where the experiment does not have it."""
        if name != "raw":
            return self.artifact(MAKER[name]) if MAKER[name] in self.stages() else None
        from cadc_rec.data.sources.raw_input import raw_input

        # One rank downloads and digests the archive; the others only need to know it.
        group, mine = self.runner.group, None
        if group.rank == 0:
            raw = raw_input(self.experiment.data, self.data_dir, self.workdir)
            mine = group.together(lambda: held.enter_context(raw))
        else:
            group.together()
        found: Input = group.broadcast(mine)
        self.raw_fingerprint = found.fingerprint
        return found

    def _make(self, job: Job) -> Artifact:
        if self._trains:
            self._require_trainable(job)
        if self.launch and job.stage.workers and (job.anew or not self.runner.exists(job)):
            self.launch(job.anew)
            return self.runner.made_by_others(job)
        made = self.runner.make(job)
        if self.runner.group.rank == 0:
            job.stage.tidy(job, made)
        return made

    def _require_shards(self) -> None:
        """Refuse more launched processes than shards before any work, not after hours of it."""
        shards = self.experiment.select.shards  # 0: as many as the processes need
        if shards and self.processes is not None and self.processes.world_size > shards:
            raise CadcError(
                f"{self.processes.world_size} processes cannot share select.shards = {shards}: "
                "each reads whole shards; set select.shards to at least "
                f"{self.processes.world_size}, or start fewer processes."
            )

    def _require_trainable(self, job: Job) -> None:
        """Refuse what cannot be trained, or not here, before the first stage is made for it."""
        e = self.experiment
        # What is all there can be used anywhere: trained on GPUs, say, and exported here.
        if self.runner.exists(job) and not job.anew:
            return
        if e.sharding.frozen_storage == "int8":
            raise CadcError(INT8_NOT_TRAINED)
        refused = next(e.needs_cuda(), None)
        if refused is None:  # then nobody asks for the device, which takes torch to tell
            return
        require_trio()  # before torch is imported
        from cadc_rec.distributed.processes import choose_device

        device = self.processes and self.processes.device
        if (device or choose_device(e.compute.device, 0)).type == "cpu":
            raise CadcError(refused)


def tell_of(made: Artifact, tell: Callable[..., None] = log.info) -> None:
    """Announce a stage's artifact: whether it was kept or made, and where it lies."""
    how = "kept" if made.cached else f"made in {made.seconds:,.1f} s"
    tell("%s: %s, %s", made.stage, how, made.path)


def launched() -> bool:
    """Whether torchrun or torchx started this process among others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def _at_ratio(experiment: Experiment, ratio: float) -> Experiment:
    select = experiment.select.model_copy(update={"ratio": ratio})
    return experiment.model_copy(update={"select": select})
