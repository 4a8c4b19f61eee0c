"""The commands that run one stage and every stage before it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadc_rec import strict_json
from cadc_rec.cli.options import (
    NEWEST,
    WORKDIR,
    AsJson,
    Cache,
    Config,
    DataDir,
    Debug,
    Force,
    Method,
    NoWait,
    Profile,
    Resume,
    Sets,
    Update,
    Workdir,
    is_speaker,
    stopped_gently,
    wanted_update,
)
from cadc_rec.errors import CadcError

if TYPE_CHECKING:
    from cadc_rec.pipeline.pipeline import Pipeline


def register(app: typer.Typer) -> None:
    """Add the commands to `app`, in the order of the stages."""
    for stage, summary in (
        (
            "prepare",
            "Make the dataset: read the raw data, number the ids, hold out items for evaluation.",
        ),
        ("pretrain", "Learn id vectors from every training interaction."),
        ("transitions", "Learn which item follows which from every training interaction."),
        ("prior", "Choose on validation how much each of the tables' scores counts."),
    ):
        app.command(name=stage)(_command(stage, summary))
    app.command()(select)
    app.command()(train)
    app.command()(evaluate)


def _command(stage: str, summary: str) -> Callable[..., None]:
    """The command of a stage that has no options of its own."""

    def command(
        config: Config,
        workdir: Workdir = WORKDIR,
        cache: Cache = None,
        data_dir: DataDir = None,
        method: Method = None,
        sets: Sets = None,
        force: Force = False,
        no_wait: NoWait = False,
        json: AsJson = False,
        debug: Debug = False,
    ) -> None:
        _run_stage(stage, config, workdir, data_dir, method, sets, force, json, wait=not no_wait)

    command.__doc__ = summary
    return command


def select(
    config: Config,
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    method: Method = None,
    ratios: Annotated[
        str,
        typer.Option(
            help="Select for several filtering ratios in one pass, instead of the config's.",
            metavar="R,R,...",
        ),
    ] = "",
    sets: Sets = None,
    force: Force = False,
    no_wait: NoWait = False,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Choose the interactions that the two towers are trained on."""
    if not ratios:
        _run_stage("select", config, workdir, data_dir, method, sets, force, json, wait=not no_wait)
        return
    from cadc_rec.config.file import load_experiment
    from cadc_rec.pipeline.job import opened
    from cadc_rec.pipeline.summary import stage_document, stage_lines

    experiment = load_experiment(config, method=method, overrides=sets or ())
    wanted = _filtering_ratios(ratios)
    with (
        stopped_gently("stages"),
        opened(
            experiment,
            workdir,
            data_dir,
            force=("select",) if force else (),
            wait=not no_wait,
        ) as pipeline,
    ):
        _require_stage("select", pipeline)
        artifacts = pipeline.selections(wanted)
    if not is_speaker():
        return
    made = list(zip(wanted, artifacts, strict=True))
    if json:
        print(strict_json.dumps([{"ratio": r, **stage_document("select", a)} for r, a in made]))
        return
    for _, artifact in made:
        print(stage_lines("select", artifact))


def train(
    config: Config,
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    force: Force = False,
    profile: Profile = False,
    resume: Resume = None,
    no_wait: NoWait = False,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train the two towers on the selected interactions."""
    wait = not no_wait
    _run_stage("train", config, workdir, data_dir, method, sets, force, json, profile, resume, wait)


def evaluate(
    config: Config,
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    update: Update = NEWEST,
    force: Force = False,
    no_wait: NoWait = False,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Rank each held-out item of a trained run among all items and print the metrics."""
    from cadc_rec.config.file import load_experiment
    from cadc_rec.pipeline.job import opened
    from cadc_rec.pipeline.summary import stage_document, stage_lines
    from cadc_rec.updates.chain import take_update

    experiment = load_experiment(config, method=method, overrides=sets or ())
    wanted = wanted_update(update)
    forced = ("evaluate",) if force else ()
    with (
        stopped_gently("stages"),
        opened(experiment, workdir, data_dir, force=forced, wait=not no_wait) as base,
    ):
        taken = take_update(base, wanted, until="train")
        artifact = taken.pipeline.run()["evaluate"]
    if not is_speaker():
        return
    if json:
        document = {"update": taken.document(), **stage_document("evaluate", artifact)}
        print(strict_json.dumps(document))
    else:
        print(stage_lines("evaluate", artifact))


def _run_stage(
    stage: str,
    config: Path,
    workdir: Path,
    data_dir: Path | None,
    method: str | None,
    sets: list[str] | None,
    force: bool,
    json: bool,
    profile: bool = False,
    resume: Path | None = None,
    wait: bool = True,
) -> None:
    """Run one stage and every stage before it; print its result."""
    from cadc_rec.config.file import load_experiment
    from cadc_rec.pipeline.job import opened
    from cadc_rec.pipeline.summary import stage_document, stage_lines

    experiment = load_experiment(config, method=method, overrides=sets or ())
    forced = (stage,) if force else ()
    with (
        stopped_gently("stages"),
        opened(
            experiment,
            workdir,
            data_dir,
            force=forced,
            profile=profile,
            resume=resume,
            wait=wait,
        ) as pipeline,
    ):
        _require_stage(stage, pipeline)
        artifact = pipeline.run(until=stage)[stage]
    if not is_speaker():
        return
    if json:
        print(strict_json.dumps(stage_document(stage, artifact)))
    else:
        print(stage_lines(stage, artifact))


def _require_stage(stage: str, pipeline: "Pipeline") -> None:
    """Raise if the method does not have this stage."""
    if stage in pipeline.stages():
        return
    remedy = "choose a method that has one, such as --method cadc"
    if stage == "transitions":
        remedy = "set transitions.window above 0"
    if stage == "prior":
        remedy = "set prior.fit = 'validation' (with --method prior)"
    raise CadcError(f"method {pipeline.experiment.method!r} has no {stage} stage; {remedy}.")


def _filtering_ratios(text: str) -> list[float]:
    """The ratios of ``--ratios 10,20,50``.

    Raises:
        CadcError: one is not a number of at least 1.
    """
    ratios = []
    for part in text.split(","):
        try:
            ratio = float(part)
        except ValueError:
            ratio = math.nan
        if not (math.isfinite(ratio) and ratio >= 1):
            raise CadcError(
                f"--ratios {text}: {part.strip()!r} is not a filtering ratio; give numbers of at "
                "least 1, separated by commas."
            )
        ratios.append(ratio)
    return ratios
