"""What goes on around a training: its curves, its recording, its checkpoints.

In: a job of the train stage. Out: the stage's files; beside them event files under
``WORKDIR/tensorboard``, traces under ``WORKDIR/profiles``, checkpoints while it runs.

torch is imported by what trains alone: a run that finds its model made ends without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadc_rec.distributed.launch import restarted
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.pipeline.stage import Job, OnEpoch
from cadc_rec.store.artifact import Draft, artifact_key
from cadc_rec.store.checkpoints.store import CheckpointStore
from cadc_rec.tracking.runs import run_folder, tracked, tracker_for
from cadc_rec.tracking.steps import StepCurves

if TYPE_CHECKING:
    from cadc_rec.distributed.processes import Processes
    from cadc_rec.tracking.tracker import Tracker
    from cadc_rec.training.checkpoints import SavedTraining, Training
    from cadc_rec.training.repeat import Repeat


def run_training(
    job: Job, processes: Processes, draft: Draft, repeat: Repeat | None = None
) -> None:
    """Fill the draft of the train stage; see `build_checkpoint`.

    Raises:
        CadcError: ``compute.processes`` asks for processes that nobody launched.
    """
    from cadc_rec.pipeline.stages.train import build_checkpoint

    if job.readers != processes.world_size:  # its key says so: it must be true
        raise CadcError(
            f"compute.processes = {job.readers} needs a launcher; use cadc-rec, torchx or "
            "torchrun, or set it to 1."
        )
    tracker = _tracker(job, processes.rank)
    with (
        tracked(tracker) as tracked_epoch,
        _recorded(job, processes.rank, tracked_epoch) as on_epoch,
        saved_training(job, processes, job.resume).opened() as saved,
    ):

        def epoch_ended(entry: dict[str, float]) -> None:
            on_epoch(entry)
            job.on_epoch(entry)

        build_checkpoint(
            job.experiment,
            job.open_dataset(),
            job.artifact("selection"),
            job.open_pretrained(),
            processes,
            draft,
            epoch_ended,
            saved,
            fitted=job.open_fitted(),
            told=StepCurves(tracker, processes.world_size == 1),
            repeat=repeat,
        )


def saved_training(
    job: Job, processes: Processes, named: Path | None = None, background: bool = True
) -> SavedTraining:
    """The checkpoints of a job's training, or pre-training.

    Args:
        job: which.
        processes: the ranks.
        named: the checkpoint to resume from; None looks for the newest good one.
        background: whether ``checkpoint.background`` has a say.
    """
    from cadc_rec.training.checkpoints import SavedTraining

    config = job.experiment.checkpoint
    if job.stage.name != "train":
        # An epoch of a factorization may take seconds, and a save as long: the clock alone decides.
        config = config.model_copy(update={"every_epochs": 0})
    return SavedTraining(
        job.workdir,
        identity_of(job),
        config if background else config.model_copy(update={"background": False}),
        processes,
        job.experiment.compute.timeout_seconds,
        named=named,
        anew=job.anew and not restarted(),
    )


def end_checkpoints(job: Job, cached: bool) -> None:
    """Remove the checkpoints of a training whose artifact is there. One rank calls it."""
    if cached and job.resume is not None and job.stage.name == "train":
        log.info(
            "--resume was ignored: this training is already finished; --force trains again from "
            "that checkpoint"
        )
    if not job.experiment.checkpoint.keep_finished:
        CheckpointStore(job.workdir, _name(job)).clear()


def identity_of(job: Job) -> Training:
    """Names a training for its checkpoints, and says how large its tables are."""
    from cadc_rec.training.checkpoints import Training

    settings, inputs = _decisive(job)
    info = job.artifact("dataset").info
    return Training(
        _name(job),
        {"settings": settings, "inputs": inputs},
        {"users": info["users"], "items": info["items"]},
    )


def _name(job: Job) -> str:
    """Of the folder of a training's checkpoints, or a pre-training's."""
    key = artifact_key(job.stage.name, *_decisive(job))
    return key if job.stage.name == "train" else f"{job.stage.name}-{key}"


def _decisive(job: Job) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and inputs that decide a training: all but processes and sharding.

    What a frozen table is stored as counts, for it rounds what is looked up.
    """
    settings = {k: v for k, v in job.settings.items() if k not in ("processes", "sharding")}
    if job.stage.name == "train":
        settings["frozen_storage"] = job.experiment.sharding.frozen_storage
    return settings, job.fingerprints


@contextlib.contextmanager
def _recorded(job: Job, rank: int, on_epoch: OnEpoch) -> Iterator[OnEpoch]:
    """Record the training within, where that is asked for; yields what to call with each epoch."""
    if not job.profile:
        yield on_epoch
        return
    from cadc_rec.pipeline.stages.profile import profiled

    folder = job.workdir / "profiles" / job.key
    with profiled(folder, rank, job.experiment.train.epochs, on_epoch) as epoch_ended:
        yield epoch_ended


def _tracker(job: Job, rank: int) -> Tracker:
    """Where the curves of this training go."""
    e = job.experiment
    settings = e.model_dump(mode="json", exclude={"tracking"})  # an address may hold a password
    folder = run_folder(job.workdir, e.method, e.seed, job.key)
    return tracker_for(e.tracking, folder, settings, rank)
