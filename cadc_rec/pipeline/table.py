"""The table of stages: what each reads, what decides its result, and which function makes it.

A stage is one row of `TABLE`, in the order in which a run makes them; a new stage is a new row.
Above the rows stand the functions they name: the settings that enter a key where these are more
than a section's own, and those that import what a stage needs. An update's rows, which go on from
earlier artifacts, are in `cadc_rec.updates.table`.

Libraries that take seconds to import are imported where a stage is really built, so that a run
that finds everything done ends at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cadc_rec.config.experiment import Experiment
from cadc_rec.pipeline import lines
from cadc_rec.pipeline.stage import Alone, Job, Stage, Together
from cadc_rec.store.artifact import Artifact, Draft

if TYPE_CHECKING:
    import numpy as np

    from cadc_rec.config.experiment import SelectConfig
    from cadc_rec.data.select.choices import Ids, PairKeys
    from cadc_rec.data.select.ranks import Ranks
    from cadc_rec.distributed.processes import Processes
    from cadc_rec.pretrain.prior_fit import FittedPrior
    from cadc_rec.training.repeat import Repeat


# What decides a result, where it is not simply the sections the stage reads.


def _pretrain_settings(job: Job) -> dict[str, Any]:
    pretrain = job.experiment.pretrain
    settings: dict[str, Any] = {"pretrain": pretrain.decisive()}
    if pretrain.model != "popularity":  # counting draws nothing
        settings["seed"] = job.experiment.seed
    if pretrain.model == "mlp":  # its batches are dealt to ranks
        settings["processes"] = job.ranks
    return settings


def _transitions_settings(job: Job) -> dict[str, Any]:
    e = job.experiment
    scale = e.pretrain.scale
    return {"transitions": e.transitions.decisive(), "scale": scale, "seed": e.seed}


def _prior_settings(job: Job) -> dict[str, Any]:
    e = job.experiment
    history = {"length": e.history.length}
    settings = {"prior": e.prior.decisive(), "history": history, "seed": e.seed}
    return {**settings, **_times(job)}


def _times(job: Job) -> dict[str, Any]:
    """What times mean, which the dataset's bytes do not tell; of stages that read them."""
    e = job.experiment
    recent = e.prior.use and e.prior.recent
    if not (recent or (e.context.of_time and _has_towers(e))):
        return {}
    info = job.artifact("dataset").info
    return {"times": [info.get("timestamp_kind"), info.get("time_unit")]}


def _select_settings(job: Job) -> dict[str, Any]:
    e = job.experiment
    settings = {"select": sharded(job).decisive(), "history": e.history.length}
    if e.select.kind != "everything":  # it draws nothing
        settings["seed"] = e.seed
    return settings


def _train_settings(job: Job) -> dict[str, Any]:
    e = job.experiment
    sections = {
        "model": e.model,
        "train": e.train,
        "sharding": e.sharding,
        "history": e.history,
        "prior": e.prior,
        "negatives": e.negatives,
    }
    settings: dict[str, Any] = {name: section.decisive() for name, section in sections.items()}
    rows = int(job.artifact("selection").info["selected"])
    if e.context.features:
        settings["context"] = e.context.decisive()
    if e.loader.streams(rows, e.by_example):  # the buffer decides the order of the rows
        settings["stream"] = e.loader.buffer_rows
    settings |= _times(job) if e.context.features else {}
    return {**settings, **_sampled(job), "seed": e.seed, "processes": job.readers}


def _evaluate_settings(job: Job) -> dict[str, Any]:
    e = job.experiment
    sections = {"model": e.model, "evaluate": e.evaluate, "history": e.history, "prior": e.prior}
    settings: dict[str, Any] = {name: section.decisive() for name, section in sections.items()}
    if e.model.kind == "two_tower":  # rounds what is looked up
        settings["frozen_storage"] = e.sharding.frozen_storage
        if e.context.features:
            settings["context"] = e.context.decisive()
    for section, values in _sampled(job).items():
        settings[section] = {**settings.get(section, {}), **values}
    return {**settings, **_times(job)}


def _sampled(job: Job) -> dict[str, dict[str, int]]:
    """What decides whose validation items are ranked, by section; empty where all are."""
    e = job.experiment
    if not 0 < e.evaluate.users < int(job.artifact("dataset").info["val"]):
        return {}
    return {"evaluate": {"users": e.evaluate.users}, "data": {"split_seed": e.data.split_seed}}


def sharded(job: Job) -> SelectConfig:
    """``[select]`` with its number of shards, where that is left to us."""
    from cadc_rec.data.select.sizes import with_shards

    total = int(job.artifact("dataset").info["train"])
    return with_shards(job.experiment.select, total, job.readers)


# Which functions make the stages.


def _prepare(job: Job) -> Alone:
    from cadc_rec.data.prepare.build_dataset import build_dataset
    from cadc_rec.data.sources.raw_input import RawInput

    raw = job.inputs["raw"]
    assert isinstance(raw, RawInput)
    return lambda draft: build_dataset(job.experiment.data, raw, draft)


def _pretrain(job: Job) -> Together:
    from cadc_rec.evaluation.validation import sampled_validation
    from cadc_rec.pipeline.stages import pretrain
    from cadc_rec.pipeline.training_run import saved_training

    e = job.experiment
    info = job.artifact("dataset").info
    sizes = int(info["users"]), int(info["items"])
    pretrain.warm_up(e.pretrain, int(info["train"]), sizes, e.compute.device)

    def build(processes: Processes, draft: Draft) -> None:
        data = sampled_validation(job.open_dataset(), e.evaluate.users, e.data.split_seed)
        settings = (e.pretrain, e.seed, data, processes, draft, e.sharding, e.compute.mf_tables)
        if e.pretrain.model != "mf":
            pretrain.build_tables(*settings)
            return
        # On CPU the ranks wait until a checkpoint is written: a copy would take memory that tables
        # may fill, and between two epochs nothing moves.
        on_gpu = processes.device.type == "cuda"
        with saved_training(job, processes, background=on_gpu).opened() as saved:
            pretrain.build_tables(*settings, saved)

    return build


def _transitions(job: Job) -> Together:
    from cadc_rec.pipeline.stages.transitions import build_transitions

    e = job.experiment
    return lambda processes, draft: build_transitions(
        e.transitions,
        e.pretrain.scale,
        e.seed,
        job.open_dataset(),
        processes,
        draft,
        e.sharding,
        e.compute.mf_tables,
    )


def _prior(job: Job) -> Alone:
    return fit_of_prior(job, lambda: None)


def fit_of_prior(job: Job, before: Callable[[], FittedPrior | None], newest: int = 0) -> Alone:
    """The function that fits the prior.

    Args:
        job: of the prior's stage.
        before: opens an earlier fit to start from.
        newest: then, users with the newest validation items to fit it on; 0 is a sample of all.
    """
    import torch

    from cadc_rec.pretrain.prior_fit import fit_prior

    def build(draft: Draft) -> None:
        e = job.experiment
        if e.compute.threads:
            torch.set_num_threads(e.compute.threads)
        fitted = fit_prior(
            e.prior,
            e.history,
            e.seed,
            job.open_dataset(),
            job.open_pretrained(),
            before(),
            newest,
        )
        fitted.save(draft.path)
        draft.info, draft.rows = fitted.as_info(), fitted.users

    return build


def _select(job: Job) -> Alone:
    build = select_several([job])
    return lambda draft: build({0: draft})


def _select_together(job: Job) -> Together:
    build = select_several([job])
    return lambda processes, draft: build({0: draft}, processes)


class Select(Protocol):
    """Makes several selections, given the drafts of those that are missing by their place."""

    def __call__(self, drafts: Mapping[int, Draft], ranks: Ranks | None = None) -> None:
        """All `ranks` make them together; without any this process does."""


def select_several(jobs: Sequence[Job]) -> Select:
    """The function that makes several selections of one dataset in one pass.

    Args:
        jobs: of the select stage; they differ in their filtering ratio alone.

    Returns:
        It is given the drafts of those that are missing, by their place in `jobs`.
    """
    from cadc_rec.data.select.build_selection import build_selections

    first = jobs[0]

    def vectors(user: Ids, item: Ids) -> tuple[np.ndarray, np.ndarray]:
        ids = first.open_pretrained().ids
        assert ids is not None
        return ids.of_pairs(user, item)

    def build(drafts: Mapping[int, Draft], ranks: Ranks | None = None) -> None:
        e, dataset = first.experiment, first.artifact("dataset")
        asked = [(sharded(jobs[place]), draft) for place, draft in drafts.items()]
        length = e.history.length
        gradients = _gradients(first) if e.select.kind == "gradient-norm" else None
        build_selections(asked, e.seed, dataset, length, vectors, None, ranks, gradients)

    return build


def _gradients(job: Job) -> PairKeys:
    """The norm of each pair's gradient in the model whose tables the job reads."""
    from cadc_rec.pretrain.gradient_norms import GradientNorms

    ids, info = job.open_pretrained().ids, job.artifact("tables").info
    assert ids is not None
    user, item = info["divided_by"] if job.experiment.pretrain.scale == "unit" else (1.0, 1.0)
    return GradientNorms(ids, info.get("global_bias", 0.0), (user, item))


def _train(job: Job) -> Together:
    return training_of(job)


def training_of(job: Job, repeat: Repeat | None = None) -> Together:
    """The function that trains; `repeat` is a training to do again on other rows."""
    from cadc_rec.pipeline.stages import train
    from cadc_rec.pipeline.training_run import run_training

    e, interactions = job.experiment, int(job.artifact("dataset").info["train"])
    lists = e.prior.use and e.transitions.form == "lists"
    recent = e.prior.use and e.prior.recent
    train.warm_up(e.select, e.train, e.negatives, interactions, e.compute.processes, lists, recent)
    return lambda processes, draft: run_training(job, processes, draft, repeat)


def _end_checkpoints(job: Job, made: Artifact) -> None:
    from cadc_rec.pipeline.training_run import end_checkpoints

    end_checkpoints(job, made.cached)


def _evaluate(job: Job) -> Together:
    return evaluation_of(job)


def evaluation_of(job: Job, most_tests: int = 0) -> Together:
    """The function that evaluates; `most_tests` users' test items are ranked, 0 ranks all."""
    from cadc_rec.pipeline.stages.evaluate import build_evaluation

    checkpoint = job.artifact("checkpoint") if "checkpoint" in job.inputs else None
    return lambda processes, draft: build_evaluation(
        job.experiment,
        job.open_dataset(),
        checkpoint,
        job.open_pretrained(),
        processes,
        draft,
        job.open_fitted(),
        most_tests,
    )


# Which stages an experiment has.


def _has_transitions(e: Experiment) -> bool:
    read = e.model.kind == "two_tower" or e.prior.use
    return bool(e.transitions.window) and read


def _has_towers(e: Experiment) -> bool:
    return e.model.kind == "two_tower"


PREPARE = Stage(
    "prepare",
    makes="dataset",
    version=2,
    reads=lambda _: ["raw"],
    settings=lambda job: job.experiment.data.decisive(),
    line=lines.prepare_line,
    alone=_prepare,
)
PRETRAIN = Stage(
    "pretrain",
    makes="tables",
    version=2,
    reads=lambda _: ["dataset"],
    settings=_pretrain_settings,
    line=lines.pretrain_line,
    together=_pretrain,
    wanted=lambda e: e.pretrain.model != "none",
    tidy=_end_checkpoints,
)
TRANSITIONS = Stage(
    "transitions",
    makes="transitions",
    version=1,
    reads=lambda _: ["dataset"],
    settings=_transitions_settings,
    line=lambda info: f"{info['pairs']:,} pairs of items that follow each other",
    together=_transitions,
    wanted=_has_transitions,
)
PRIOR = Stage(
    "prior",
    makes="prior",
    version=3,
    reads=lambda _: ["dataset", "tables", "transitions"],
    settings=_prior_settings,
    line=lines.prior_line,
    alone=_prior,
    wanted=lambda e: e.prior.fit == "validation",
)
SELECT = Stage(
    "select",
    makes="selection",
    version=1,
    reads=lambda e: ["dataset", "tables"] if e.select.reads_tables else ["dataset"],
    settings=_select_settings,
    line=lines.select_line,
    alone=_select,
    together=_select_together,
    wanted=_has_towers,
)
TRAIN = Stage(
    "train",
    makes="checkpoint",
    version=2,
    reads=lambda _: ["dataset", "selection", "tables", "transitions", "prior"],
    settings=_train_settings,
    line=lines.train_line,
    together=_train,
    wanted=_has_towers,
    workers=True,
    tidy=_end_checkpoints,
)
EVALUATE = Stage(
    "evaluate",
    makes="evaluation",
    version=3,
    reads=lambda _: ["dataset", "checkpoint", "tables", "transitions", "prior"],
    settings=_evaluate_settings,
    line=lines.evaluate_line,
    together=_evaluate,
)

TABLE = {
    stage.name: stage for stage in (PREPARE, PRETRAIN, TRANSITIONS, PRIOR, SELECT, TRAIN, EVALUATE)
}
STAGES = tuple(TABLE)
MAKER = {stage.makes: stage.name for stage in TABLE.values()}
"""Stage by the name of its artifact."""
