"""An evaluated experiment fitted again on all rows, held-out ones too: the model for production.

In: the pipeline of a finished run, or of its newest update. Out: a pipeline over a dataset in which
nothing is held out. Its stages are the run's own, but for three: the dataset is made of the
evaluated one, the towers take as many steps as the evaluated ones, and vectors are written where
there is nothing to rank. What was chosen on validation stands: the epoch, the prior, whether the
towers are kept.

Every stage leaves an artifact, so a killed command goes on and a second one finds all done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cadc_rec.config.experiment import Experiment
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.pipeline.pipeline import Pipeline, tell_of
from cadc_rec.pipeline.stage import Alone, Job, Stage, Together
from cadc_rec.pipeline.table import EVALUATE, PREPARE, TABLE, TRAIN, training_of
from cadc_rec.store.artifact import Artifact

if TYPE_CHECKING:
    from cadc_rec.training.repeat import Repeat


def refit(evaluated: Pipeline, built: Mapping[str, Artifact]) -> Pipeline:
    """The pipeline that fits an experiment again; its stages run in this process.

    Args:
        evaluated: its artifacts are there.
        built: those of the full build that its updates go back to, or its own. Its towers are
            repeated: those of an update go on from it, by days that are now learned with the rest.

    Raises:
        CadcError: of the data's held-out rows something is not kept.
    """
    from cadc_rec.data.prepare.whole_log import require_whole

    made = evaluated.run()
    require_whole(made["prepare"])
    repeat = _repeated(made, built)
    e = _by_one_process(evaluated.experiment, built, repeat)
    alone = replace(
        evaluated,
        experiment=e,
        given={"prior": made["prior"]} if "prior" in made else {},
        processes=None,
        launch=None,
        table=_table(repeat),
    )
    job = Job(_DATASET, e, {"dataset_before": made["prepare"]}, alone.workdir, 1, 1, alone.opened)
    dataset = alone.runner.make(job)
    tell_of(dataset, alone.tell)
    return replace(alone, given={**alone.given, "prepare": dataset})


def _repeated(made: Mapping[str, Artifact], built: Mapping[str, Artifact]) -> Repeat | None:
    """The training of the full build; None where tables alone score."""
    from cadc_rec.training.choice import TABLES
    from cadc_rec.training.repeat import Repeat

    if "train" not in made:
        return None
    if made["train"].info.get("kept") == TABLES:
        log.info("the towers were found to add nothing: the tables alone are fitted")
        return None
    if "train" not in built:
        raise CadcError("the run that was updated has no towers to repeat; leave --refit out.")
    return Repeat.of(built["train"].info)


def _by_one_process(
    e: Experiment, built: Mapping[str, Artifact], repeat: Repeat | None
) -> Experiment:
    """The settings, with the batch size of the training that is repeated."""
    changed: dict[str, Any] = {"compute": e.compute.model_copy(update={"processes": 1})}
    if repeat is not None:  # which may follow from the rows
        changed["train"] = e.train.sized(int(built["train"].info["positives"]))
    return e.model_copy(update=changed)


def _dataset(job: Job) -> Alone:
    from cadc_rec.data.prepare.whole_log import build_whole_log

    return lambda draft: build_whole_log(job.artifact("dataset_before"), draft)


def _vectors(job: Job) -> Together:
    from cadc_rec.pipeline.stages.vectors import build_vectors

    checkpoint = job.artifact("checkpoint") if "checkpoint" in job.inputs else None
    return lambda processes, draft: build_vectors(
        job.experiment,
        job.open_dataset(),
        checkpoint,
        job.open_pretrained(),
        processes,
        draft,
        job.open_fitted(),
    )


_DATASET = replace(
    PREPARE,
    version=1,
    reads=lambda _: ["dataset_before"],
    settings=lambda _: {"refit": 1},
    alone=_dataset,
)
_VECTORS = replace(
    EVALUATE,
    version=2,
    settings=lambda job: {**EVALUATE.settings(job), "refit": 1},
    together=_vectors,
)


def _table(repeat: Repeat | None) -> Mapping[str, Stage]:
    """The stages: those of a run, without towers where there are none to repeat."""
    stages = {**TABLE, EVALUATE.name: _VECTORS}
    if repeat is None:
        return {name: stage for name, stage in stages.items() if name not in ("select", "train")}
    stages[TRAIN.name] = replace(
        TRAIN,
        version=1,
        settings=lambda job: {**TRAIN.settings(job), "repeats": repeat.as_json()},
        together=lambda job: training_of(job, repeat),
    )
    return stages
