"""The stages in order, each made once: prepare to evaluate.

In: an experiment, a work folder. Out: one artifact a stage. What a stage is fed, and which settings
decide its result, is said here and nowhere else.

Libraries that take seconds to import are imported where a stage is really built, so that a run
which finds everything done ends at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadc_rec.config.experiment import Experiment
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.pipeline.runner import StageRunner
from cadc_rec.store.artifact import Artifact, Draft, SoloGroup

if TYPE_CHECKING:
    import numpy as np

    from cadc_rec.data.dataset import Dataset
    from cadc_rec.distributed.processes import Processes
    from cadc_rec.pretrain.id_tables import Pretrained
    from cadc_rec.tracking.tracker import Tracker
    from cadc_rec.training.checkpoints import SavedTraining
    from cadc_rec.training.identity import Training

STAGES = ("prepare", "pretrain", "transitions", "select", "train", "evaluate")


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
    _made: dict[str, Artifact] = field(default_factory=dict, init=False)

    @cached_property
    def runner(self) -> StageRunner:
        """Makes or finds a stage's artifact."""
        return StageRunner(self.experiment, self.workdir, tuple(self.force), self.processes)

    def stages(self) -> list[str]:
        """The stages this experiment has, in order."""
        skipped = set()
        if self.experiment.pretrain.model == "none":
            skipped.add("pretrain")
        if not self.experiment.transitions.window:
            skipped.add("transitions")
        if self.experiment.model.kind == "tables":
            skipped |= {"select", "train"}
            if not self.experiment.prior.use:
                skipped.add("transitions")
        return [stage for stage in STAGES if stage not in skipped]

    def run(self, until: str = "evaluate") -> dict[str, Artifact]:
        """Make every stage up to and with `until`; returns the artifacts by stage."""
        from cadc_rec.tracking.runs import require_tracking

        require_tracking(self.experiment.tracking)
        self._require_shards(until)
        for stage in self.stages():
            self.artifact(stage)
            if stage == until:
                break
        return dict(self._made)

    def _require_shards(self, until: str) -> None:
        """Refuse more launched processes than shards before any work, not after hours of it."""
        shards, stages = self.experiment.select.shards, self.stages()
        trains = "train" in stages[: stages.index(until) + 1 if until in stages else None]
        if not shards:  # as many as the processes need
            return
        if trains and self.processes is not None and self.processes.world_size > shards:
            raise CadcError(
                f"{self.processes.world_size} processes cannot share select.shards = {shards}: "
                "each reads whole shards; set select.shards to at least "
                f"{self.processes.world_size}, or start fewer processes."
            )

    def artifact(self, stage: str) -> Artifact:
        """The artifact of `stage`, made now if it is not there."""
        if stage not in self._made:
            if stage in self.given:
                return self._made.setdefault(stage, self.given[stage])
            made: Artifact = getattr(self, f"_{stage}")()
            how = "kept" if made.cached else f"made in {made.seconds:,.1f} s"
            self.tell("%s: %s, %s", stage, how, made.path)
            self._made[stage] = made
        return self._made[stage]

    def _prepare(self) -> Artifact:
        from cadc_rec.data.prepare.settings import dataset_settings
        from cadc_rec.data.sources.archives import raw_input

        config, group = self.experiment.data, self.processes or SoloGroup()

        def build(draft: Draft) -> None:
            from cadc_rec.data.prepare.build import build_dataset

            build_dataset(config, raw, draft)

        # One rank downloads and digests the archive; the others only need to know it.
        found = raw_input(config, self.data_dir, self.workdir)
        with found if group.rank == 0 else contextlib.nullcontext() as mine:
            raw = group.broadcast(mine)
            return self.runner.alone(
                "prepare",
                dataset_settings(config),
                {"raw": raw.fingerprint},
                build,
            )

    def _pretrain(self) -> Artifact:
        def build(processes: Processes, draft: Draft) -> None:
            from cadc_rec.pipeline.stages.pretrain import build_tables

            build_tables(self.experiment, self.dataset, processes, draft)

        from cadc_rec.pretrain.settings import pretrain_settings

        settings = pretrain_settings(self.experiment.pretrain, self.experiment.seed)
        if self.experiment.pretrain.model == "mlp" and self.processes is not None:
            settings["processes"] = self.processes.world_size  # its batches are dealt to ranks
        inputs = {"dataset": self.artifact("prepare")}
        return self.runner.together("pretrain", settings, inputs, build)

    def _transitions(self) -> Artifact:
        def build(processes: Processes, draft: Draft) -> None:
            from cadc_rec.pipeline.stages.transitions import build_transitions

            build_transitions(self.experiment, self.dataset, processes, draft)

        e = self.experiment
        settings = {
            "transitions": e.transitions.model_dump(mode="json"),
            "scale": e.pretrain.scale,
            "seed": e.seed,
        }
        inputs = {"dataset": self.artifact("prepare")}
        return self.runner.together("transitions", settings, inputs, build)

    def _select(self) -> Artifact:
        return self.selections([self.experiment.select.ratio])[0]

    def selections(self, ratios: Sequence[float]) -> list[Artifact]:
        """D_sel at each of these filtering ratios; what is missing is made in one pass."""
        from cadc_rec.data.select.settings import needs_vectors, selection_settings, with_shards

        e = self.experiment
        dataset = self.artifact("prepare")
        inputs: dict[str, Artifact | str] = {"dataset": dataset}
        if needs_vectors(e.select):
            inputs["tables"] = self.artifact("pretrain")
        readers = self.processes.world_size if self.processes else e.compute.processes
        total = int(dataset.info["train"])
        selects = [
            with_shards(e.select.model_copy(update={"ratio": ratio}), total, readers)
            for ratio in ratios
        ]
        told = [selection_settings(select, e.seed, e.history.length) for select in selects]
        first = [told.index(settings) for settings in told]  # of those that ask for the same
        apart = sorted(set(first))

        def scores() -> tuple[np.ndarray, np.ndarray]:
            assert self.pretrained.ids is not None
            user, item = self.pretrained.ids.as_dot_products()
            return user.numpy(), item.numpy()

        def build(drafts: dict[int, Draft]) -> None:
            from cadc_rec.data.select.build import build_selections

            asked = [(selects[apart[place]], draft) for place, draft in drafts.items()]
            build_selections(asked, e.seed, dataset, e.history.length, scores)

        made = self.runner.several_alone("select", [told[n] for n in apart], inputs, build)
        return [made[apart.index(n)] for n in first]

    def _train(self) -> Artifact:
        def build(processes: Processes, draft: Draft) -> None:
            from cadc_rec.pipeline.stages.train import build_checkpoint
            from cadc_rec.tracking.runs import tracked

            wanted = self.experiment.compute.processes
            if wanted > 1 and self.processes is None:  # its key says so: it must be true
                raise CadcError(
                    f"compute.processes = {wanted} needs a launcher; use cadc-rec, torchx or "
                    "torchrun, or set it to 1."
                )
            with (
                tracked(self._tracker(settings, inputs, processes.rank)) as tracker,
                self._profiled(settings, inputs, processes.rank, tracker) as on_epoch,
                self._saved(settings, inputs, processes) as saved,
            ):
                build_checkpoint(
                    self.experiment,
                    self.dataset,
                    self.artifact("select"),
                    self.pretrained,
                    processes,
                    draft,
                    on_epoch,
                    saved,
                )

        experiment = self.experiment
        settings = {
            **experiment.model_dump(mode="json", include={"seed", "model", "train", "sharding"}),
            "processes": self.processes.world_size
            if self.processes
            else experiment.compute.processes,
        }
        if experiment.train.precision == "float32":  # models from before there was a choice
            del settings["train"]["precision"]
        inputs = {"dataset": self.artifact("prepare"), "selection": self.artifact("select")}
        settings |= self._context_settings()
        rows = int(inputs["selection"].info["selected"])
        settings |= experiment.loader.settings(rows, experiment.history.length)
        settings |= experiment.negatives.settings()
        inputs |= self._pretrained_inputs()
        force = "train" in self.force or self.profile
        if self.launch and (force or not self.runner.exists("train", settings, inputs)):
            self.launch(force)
            return self.runner.made_by_others("train", settings, inputs)
        made = self.runner.together("train", settings, inputs, build, force=force)
        self._end_checkpoints(settings, inputs, made.cached)
        return made

    def _training(self, settings: dict[str, Any], inputs: dict[str, Artifact]) -> Training:
        """Names a training for its checkpoints: by all that decides it but processes and sharding.

        What a frozen table is stored as counts, for it rounds what is looked up.
        """
        from cadc_rec.training.identity import Training

        kept = {k: v for k, v in settings.items() if k not in ("processes", "sharding")}
        if self.experiment.sharding.frozen_storage != "fp32":
            kept["frozen_storage"] = self.experiment.sharding.frozen_storage
        info = inputs["dataset"].info
        return Training(
            self.runner.key("train", kept, inputs),
            self.runner.identity("train", kept, inputs),
            {"users": info["users"], "items": info["items"]},
        )

    @contextlib.contextmanager
    def _saved(
        self, settings: dict[str, Any], inputs: dict[str, Artifact], processes: Processes
    ) -> Iterator[SavedTraining]:
        """Where this training is saved on its way, and gone on with."""
        from cadc_rec.training.checkpoints import SavedTraining

        forced = ("train" in self.force or self.profile) and not restarted()
        with SavedTraining(
            self.workdir,
            self._training(settings, inputs),
            self.experiment.checkpoint,
            processes,
            self.experiment.compute.timeout_seconds,
            named=self.resume,
            anew=forced,
        ).opened() as saved:
            yield saved

    def _end_checkpoints(
        self, settings: dict[str, Any], inputs: dict[str, Artifact], cached: bool
    ) -> None:
        """Remove the checkpoints of a training whose artifact is there."""
        from cadc_rec.store.checkpoints.store import CheckpointStore

        if self.processes is not None and self.processes.rank != 0:
            return
        if cached and self.resume is not None:
            log.info("--resume was not needed: the training had ended; --force trains on from it")
        if not self.experiment.checkpoint.keep_finished:
            CheckpointStore(self.workdir, self._training(settings, inputs).key).clear()

    @contextlib.contextmanager
    def _profiled(
        self,
        settings: dict[str, Any],
        inputs: dict[str, Artifact],
        rank: int,
        on_epoch: Callable[[dict[str, float]], object],
    ) -> Iterator[Callable[[dict[str, float]], object]]:
        """Record the training within, where that is asked for; yields what is told of epochs."""
        if not self.profile:
            yield on_epoch
            return
        from cadc_rec.pipeline.stages.profile import profiled

        key = self.runner.key("train", settings, inputs)
        folder, epochs = self.workdir / "profiles" / key, self.experiment.train.epochs
        with profiled(folder, rank, epochs, on_epoch) as told:
            yield told

    def _tracker(self, settings: dict[str, Any], inputs: dict[str, Artifact], rank: int) -> Tracker:
        """Where the curves of this training run go."""
        from cadc_rec.tracking.runs import run_folder, tracker_for

        e = self.experiment
        key = self.runner.key("train", settings, inputs)
        told = e.model_dump(mode="json", exclude={"tracking"})  # an address may hold a password
        return tracker_for(e.tracking, run_folder(self.workdir, e.method, e.seed, key), told, rank)

    def _evaluate(self) -> Artifact:
        def build(processes: Processes, draft: Draft) -> None:
            from cadc_rec.pipeline.stages.evaluate import build_evaluation

            checkpoint = inputs.get("checkpoint")
            build_evaluation(
                self.experiment, self.dataset, checkpoint, self.pretrained, processes, draft
            )

        inputs = {"dataset": self.artifact("prepare")}
        if self.experiment.model.kind == "two_tower":
            inputs["checkpoint"] = self.artifact("train")
        settings = {
            "model": self.experiment.model.model_dump(mode="json"),
            **self.experiment.evaluate.model_dump(mode="json"),
        }
        if self.experiment.sharding.frozen_storage != "fp32":  # rounds what is looked up
            settings["frozen_storage"] = self.experiment.sharding.frozen_storage
        settings |= self._context_settings()
        inputs |= self._pretrained_inputs()
        return self.runner.together("evaluate", settings, inputs, build)

    @cached_property
    def dataset(self) -> Dataset:
        """The prepared data, opened once."""
        from cadc_rec.data.dataset import Dataset

        return Dataset.open(self.artifact("prepare"))

    @cached_property
    def pretrained(self) -> Pretrained:
        """The pre-trained vectors, opened once; empty for methods without."""
        from cadc_rec.pretrain.id_tables import IdTables, Pretrained, TransitionTables

        made = self._pretrained_inputs()
        return Pretrained(
            IdTables.open(made["tables"]) if "tables" in made else None,
            TransitionTables.open(made["transitions"]) if "transitions" in made else None,
        )

    def _pretrained_inputs(self) -> dict[str, Artifact]:
        """The artifacts that hold pre-trained vectors, by what later stages call them."""
        named = {"pretrain": "tables", "transitions": "transitions"}
        return {name: self.artifact(s) for s, name in named.items() if s in self.stages()}

    def _context_settings(self) -> dict[str, Any]:
        """What the towers are given beside ids, where there is any."""
        history = self.experiment.history
        told = {"history": history.model_dump(mode="json")} if history.length else {}
        if self.experiment.prior.use:
            told["prior"] = self.experiment.prior.model_dump(mode="json")
        return told


def launched() -> bool:
    """Whether torchrun or torchx started this process among others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def restarted() -> bool:
    """Whether a launcher started this process again after an earlier one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
