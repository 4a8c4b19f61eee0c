"""One trial: an experiment made up to its last stage before evaluate, and ranked on validation.

In: an experiment. Out: a file of validation ranks. The stage evaluate, which ranks test items, is
never carried out.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cadc_rec.config.experiment import Experiment
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.stage import OnEpoch
from cadc_rec.store.artifact import Artifact


def prepare(experiment: Experiment, workdir: Path, data_dir: Path | None) -> Artifact:
    """The prepared data, which all trials share."""
    return Pipeline(experiment, workdir, data_dir).artifact("prepare")


def rank_on_validation(
    experiment: Experiment,
    workdir: Path,
    given: Mapping[str, Artifact],
    file: Path,
    on_epoch: OnEpoch,
) -> None:
    """Make what the experiment learns, and write its ranks of validation items to `file`.

    Args:
        experiment: the trial's.
        workdir: keeps what is made: other trials with the same settings of a stage find it.
        given: the prepared data.
        file: receives user_id, item_id and rank of each ranked user.
        on_epoch: called after every epoch of the towers; what it raises ends the trial.
    """
    pipeline = Pipeline(experiment, workdir, given=given, on_epoch=on_epoch, tell=lambda *_: None)
    file.parent.mkdir(parents=True, exist_ok=True)
    if "train" in pipeline.stages():
        from cadc_rec.training.validation import VALIDATION_RANKS

        shutil.copyfile(pipeline.run(until="train")["train"].path / VALIDATION_RANKS, file)
        return
    for stage in pipeline.stages():
        if stage != "evaluate":
            pipeline.artifact(stage)
    _rank_tables(experiment, pipeline, file)


def _rank_tables(experiment: Experiment, pipeline: Pipeline, file: Path) -> None:
    """Write the ranks of a method without towers."""
    from cadc_rec.distributed.processes import processes
    from cadc_rec.evaluation.on_top import LastItems
    from cadc_rec.evaluation.validation import validation_sample
    from cadc_rec.pretrain.prior_fit import FittedPrior
    from cadc_rec.training.choice import tables_scoring
    from cadc_rec.training.validation import write_ranks

    dataset, fitted = pipeline.dataset, None
    if "prior" in pipeline.stages():
        fitted = FittedPrior.open(pipeline.artifact("prior").path)
    known = LastItems(dataset, experiment.history.length)
    val_item = np.asarray(dataset.val_item)
    sample = validation_sample(val_item, experiment.evaluate.users, experiment.data.split_seed)
    with processes(experiment.compute) as alone:
        scoring = tables_scoring(experiment, dataset, pipeline.pretrained, alone, fitted, known)
        ranks = scoring.validation_ranks(dataset, sample, alone)
    users = np.flatnonzero(val_item >= 0) if sample is None else sample
    write_ranks(file, dataset, users, val_item[users], ranks)
