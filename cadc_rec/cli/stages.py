"""The commands that make one stage and what comes before it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadc_rec import strict_json
from cadc_rec.cli.options import (
    WORKDIR,
    AsJson,
    Config,
    DataDir,
    Debug,
    Force,
    Method,
    Profile,
    Resume,
    Sets,
    Workdir,
    is_speaker,
    stopped_gently,
)
from cadc_rec.errors import CadcError

if TYPE_CHECKING:
    from cadc_rec.pipeline.pipeline import Pipeline


def register(app: typer.Typer) -> None:
    """Add the commands to `app`, in the order of the stages."""
    for stage, summary in (
        ("prepare", "Read the raw data: dense ids, attributes, the leave-last-two split."),
        ("pretrain", "Learn id vectors from every training interaction."),
        ("transitions", "Learn which item follows which from every training interaction."),
    ):
        app.command(name=stage)(_command(stage, summary))
    app.command()(select)
    app.command()(train)
    app.command(name="evaluate")(
        _command("evaluate", "Rank the held-out items over all items and measure.")
    )


def _command(stage: str, summary: str) -> Callable[..., None]:
    """A stage's command, where it has no options of its own."""

    def command(
        config: Config,
        workdir: Workdir = WORKDIR,
        data_dir: DataDir = None,
        method: Method = None,
        sets: Sets = None,
        force: Force = False,
        json: AsJson = False,
        debug: Debug = False,
    ) -> None:
        _run_stage(stage, config, workdir, data_dir, method, sets, force, json)

    command.__doc__ = summary
    return command


def select(
    config: Config,
    workdir: Workdir = WORKDIR,
    data_dir: DataDir = None,
    method: Method = None,
    ratios: Annotated[
        str,
        typer.Option(
            help="Several filtering ratios in one pass, instead of the config's.",
            metavar="R,R,...",
        ),
    ] = "",
    sets: Sets = None,
    force: Force = False,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Choose the interactions the two towers are trained on."""
    if not ratios:
        _run_stage("select", config, workdir, data_dir, method, sets, force, json)
        return
    from cadc_rec.config.file import load_experiment
    from cadc_rec.pipeline.job import opened
    from cadc_rec.pipeline.summary import stage_document, stage_lines

    experiment = load_experiment(config, method=method, overrides=sets or ())
    wanted = _filtering_ratios(ratios)
    with (
        stopped_gently("stages"),
        opened(experiment, workdir, data_dir, force=("select",) if force else ()) as pipeline,
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
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    force: Force = False,
    profile: Profile = False,
    resume: Resume = None,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train the two towers on the selected interactions."""
    _run_stage("train", config, workdir, data_dir, method, sets, force, json, profile, resume)


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
) -> None:
    """Make one stage and what comes before it; say what came of it."""
    from cadc_rec.config.file import load_experiment
    from cadc_rec.pipeline.job import opened
    from cadc_rec.pipeline.summary import stage_document, stage_lines

    experiment = load_experiment(config, method=method, overrides=sets or ())
    forced = (stage,) if force else ()
    with (
        stopped_gently("stages"),
        opened(
            experiment, workdir, data_dir, force=forced, profile=profile, resume=resume
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
    """Refuse a stage that the method does not have."""
    if stage in pipeline.stages():
        return
    remedy = "choose one that has with --method, such as cadc"
    if stage == "transitions":
        remedy = "set transitions.window"
    raise CadcError(f"method {pipeline.experiment.method!r} has no {stage} stage; {remedy}.")


def _filtering_ratios(text: str) -> list[float]:
    """The ratios of ``--ratios 10,20,50``.

    Raises:
        CadcError: one is no number from 1 on.
    """
    ratios = []
    for part in text.split(","):
        try:
            ratio = float(part)
        except ValueError:
            ratio = math.nan
        if not (math.isfinite(ratio) and ratio >= 1):
            raise CadcError(
                f"--ratios {text}: {part.strip()!r} is no filtering ratio; give numbers from 1 on, "
                "with commas between them."
            )
        ratios.append(ratio)
    return ratios
