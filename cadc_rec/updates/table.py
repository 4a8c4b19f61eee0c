"""The table of an update's stages: like those of a run, but each goes on from the one before.

An input called ``..._before`` is the artifact of the run or update that this one follows. The
settings are those of the same stage in `cadc_rec.pipeline.table` and, besides, what an update does
otherwise. A stage that is missing here, or not wanted, has no warm start; the run's own row makes
it anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.pipeline.stage import Alone, Job, Opened, Stage, Together
from cadc_rec.pipeline.table import (
    EVALUATE,
    PREPARE,
    PRETRAIN,
    PRIOR,
    SELECT,
    TRAIN,
    TRANSITIONS,
    evaluation_of,
    fit_of_prior,
    sharded,
)
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.updates.changes import SIDES, Changes, reused_rows
from cadc_rec.updates.day import Day
from cadc_rec.updates.forget import Request
from cadc_rec.updates.sample import refreshed_sample, sampled_rows

_ROWS_A_USER, _FIT_USERS = 50, (1_000, 4_000)  # see `UpdateConfig.fit_users`


def changes_between(opened: Opened, before: Artifact, after: Artifact) -> Changes:
    """What a day changed of D_full; compared once for all stages."""
    return opened.once(
        ("changes", str(before.path), str(after.path)),
        lambda: Changes.between(opened.dataset(before), opened.dataset(after)),
    )


def _changes(job: Job) -> Changes:
    return changes_between(job.opened, job.artifact("dataset_before"), job.artifact("dataset"))


def _day(job: Job) -> Day | Request:
    day = job.inputs["day"]
    assert isinstance(day, Day | Request)
    return day


def _datasets(e: Experiment) -> list[str]:
    """What a stage with rows of ids reads; where these never change owners, the new dataset."""
    return ["dataset", *(["dataset_before"] if e.data.ids.living else [])]


def _reused(job: Job) -> dict[Side, NDArray[np.int64]]:
    """Rows of each side that were another's before; nothing where they never are."""
    if not job.experiment.data.ids.living:
        return {}
    before, after = job.artifact("dataset_before"), job.open_dataset()
    old = job.opened.dataset(before)
    return {side: reused_rows(old, after, side) for side in SIDES}


def _prepare_settings(job: Job) -> dict[str, Any]:
    data, day = job.experiment.data, _day(job)
    if isinstance(day, Request):
        ids = {"ids": data.ids.model_dump(mode="json")} if data.ids.living else {}
        return {"forget": 1, **ids}
    settings: dict[str, Any] = {
        "update": 1,
        "k_core": max(data.k_core, 1),
        "split_seed": data.split_seed,
    }
    if data.ids.living:
        settings["ids"] = data.ids.model_dump(mode="json")
    return {**settings, "tables": day.config.decisive()}


def _pretrain_settings(job: Job) -> dict[str, Any]:
    own = job.experiment.update.model_dump(include={"epochs", "sweeps", "polish", "round_changes"})
    return {**PRETRAIN.settings(job), "update": own}


def _transitions_settings(job: Job) -> dict[str, Any]:
    own = job.experiment.update.model_dump(include={"sweeps", "round_changes"})
    return {**TRANSITIONS.settings(job), "update": own}


def _prior_settings(job: Job) -> dict[str, Any]:
    own = {"newest": fit_users(job)}
    return {**PRIOR.settings(job), "update": own}


def _select_settings(job: Job) -> dict[str, Any]:
    return {**SELECT.settings(job), "update": job.update}


def _train_settings(job: Job) -> dict[str, Any]:
    own = job.experiment.update.model_dump(include={"towers", "round_changes"})
    return {**TRAIN.settings(_warm(job)), "update": own}


def _evaluate_settings(job: Job) -> dict[str, Any]:
    settings, most = EVALUATE.settings(_ranks_few(job)), job.experiment.update.users
    if not 0 < most < int(job.artifact("dataset").info["test"]):
        return settings
    return {**settings, "tests": {"users": most, "split_seed": job.experiment.data.split_seed}}


def _warm(job: Job) -> Job:
    """The job by the ``[train]`` that an update trains with."""
    from cadc_rec.updates.towers import warm_training

    e = job.experiment
    train = warm_training(e.train, e.update)
    return _ranks_few(replace(job, experiment=e.model_copy(update={"train": train})))


def _ranks_few(job: Job) -> Job:
    """The job with as many users for validation as an update ranks."""
    e = job.experiment
    most = min(filter(None, (e.evaluate.users, e.update.users)), default=0)
    evaluate = e.evaluate.model_copy(update={"users": most})
    return replace(job, experiment=e.model_copy(update={"evaluate": evaluate}))


def _prepare(job: Job) -> Alone:
    from cadc_rec.updates.dataset import build_updated_dataset

    before, day = job.artifact("dataset_before"), _day(job)
    if isinstance(day, Request):
        from cadc_rec.updates.forget import build_forgotten_dataset

        request, ids = day, job.experiment.data.ids
        return lambda draft: build_forgotten_dataset(ids, before, request, draft)
    return lambda draft: build_updated_dataset(job.experiment.data, before, day, draft)


def _pretrain(job: Job) -> Together:
    from cadc_rec.updates.learning import build_updated_tables

    e = job.experiment
    return lambda alone, draft: build_updated_tables(
        e.pretrain,
        e.update,
        e.seed,
        job.artifact("tables_before"),
        job.open_dataset(),
        _changes(job),
        alone,
        draft,
    )


def _transitions(job: Job) -> Together:
    from cadc_rec.updates.learning import build_updated_transitions

    e, before = job.experiment, job.artifact("transitions_before")
    return lambda alone, draft: build_updated_transitions(
        e.transitions,
        e.pretrain.scale,
        e.update,
        before,
        job.open_dataset(),
        alone,
        draft,
        _reused(job).get("item"),
    )


def _prior(job: Job) -> Alone:
    from cadc_rec.pretrain.prior_fit import FittedPrior

    before = job.artifact("prior_before")
    return fit_of_prior(job, lambda: FittedPrior.open(before.path), fit_users(job))


def fit_users(job: Job) -> int:
    """Users on whom the prior is fitted after the day."""
    came = int(job.artifact("dataset").info["update"]["interactions"])
    least, most = _FIT_USERS
    return job.experiment.update.fit_users or min(max(came // _ROWS_A_USER, least), most)


def _select(job: Job) -> Alone:
    from cadc_rec.data.select.build_selection import build_selection
    from cadc_rec.data.select.sizes import selected_rows

    def build(draft: Draft) -> None:
        e, dataset, select = job.experiment, job.artifact("dataset"), sharded(job)
        wanted = selected_rows(len(job.open_dataset().train_item), select.ratio)
        # Not keyed by the dataset's fingerprint, which depends on what is held out.
        key = (e.seed, job.update)
        sample = sampled_rows(job.artifact("selection_before").path)
        rows = refreshed_sample(sample, _changes(job), wanted, key)
        build_selection(select, e.seed, dataset, draft, e.history.length, rows=rows)

    return build


def _train(job: Job) -> Together:
    from cadc_rec.updates.towers import build_updated_towers

    e = job.experiment
    return lambda alone, draft: build_updated_towers(
        _warm(job).experiment,
        job.open_dataset(),
        job.artifact("selection"),
        job.open_pretrained(),
        job.artifact("checkpoint_before"),
        alone,
        draft,
        job.open_fitted(),
        _reused(job),
        _changes(job).came if e.update.towers == "day" else None,
        (e.seed, job.update),
    )


def _evaluate(job: Job) -> Together:
    return evaluation_of(_ranks_few(job), job.experiment.update.users)


UPDATE_TABLE = (
    Stage(
        "prepare",
        makes="dataset",
        version=2,
        reads=lambda _: ["dataset_before", "day"],
        settings=_prepare_settings,
        line=PREPARE.line,
        alone=_prepare,
    ),
    Stage(
        "pretrain",
        makes="tables",
        version=1,
        reads=lambda _: ["dataset", "dataset_before", "tables_before"],
        settings=_pretrain_settings,
        line=PRETRAIN.line,
        together=_pretrain,
        wanted=lambda e: e.pretrain.model in ("mf", "als"),  # counting starts afresh
    ),
    Stage(
        "transitions",
        makes="transitions",
        version=1,
        reads=lambda e: [*_datasets(e), "transitions_before"],
        settings=_transitions_settings,
        line=TRANSITIONS.line,
        together=_transitions,
        # Lists are counted anew: that takes less than the factors' sweeps.
        wanted=lambda e: TRANSITIONS.wanted(e) and e.transitions.form == "factors",
    ),
    Stage(
        "prior",
        makes="prior",
        version=1,
        reads=lambda _: ["dataset", "tables", "transitions", "prior_before"],
        settings=_prior_settings,
        line=PRIOR.line,
        alone=_prior,
        wanted=PRIOR.wanted,
    ),
    Stage(
        "select",
        makes="selection",
        version=1,
        reads=lambda _: ["dataset", "dataset_before", "selection_before"],
        settings=_select_settings,
        line=SELECT.line,
        alone=_select,
        # What any other kind takes depends on all rows.
        wanted=lambda e: SELECT.wanted(e) and e.select.kind == "uniform",
    ),
    Stage(
        "train",
        makes="checkpoint",
        version=1,
        reads=lambda e: [
            *(["dataset", "dataset_before"] if e.update.towers == "day" else _datasets(e)),
            "selection",
            "tables",
            "transitions",
            "prior",
            "checkpoint_before",
        ],
        settings=_train_settings,
        line=TRAIN.line,
        together=_train,
        wanted=TRAIN.wanted,
    ),
    Stage(
        "evaluate",
        makes=EVALUATE.makes,
        version=EVALUATE.version,
        reads=EVALUATE.reads,
        settings=_evaluate_settings,
        line=EVALUATE.line,
        together=_evaluate,
    ),
)
