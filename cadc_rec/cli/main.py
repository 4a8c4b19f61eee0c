"""The command line: each command parses, calls stages, prints.

Results go to standard output; progress, warnings and errors to standard error. Exit codes: 0 done,
1 a defect of ours (or, for ``doctor``, a machine that cannot run), 2 something the user can mend,
130 interrupted.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cadc_rec import __version__
from cadc_rec.cli import data as cli_data
from cadc_rec.cli import export as cli_export
from cadc_rec.cli import plan as cli_plan
from cadc_rec.cli import serve as cli_serve
from cadc_rec.cli import study as cli_study
from cadc_rec.cli import update as cli_update
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
    filtering_ratios,
    read_experiment,
    stopped_gently,
    worker_arguments,
)
from cadc_rec.distributed.launch import (
    end_with_parent,
    is_child,
    is_local_worker,
    run_workers,
)
from cadc_rec.errors import CadcError, SpokenError
from cadc_rec.log import console, keep_interrupts, log, set_up_logging
from cadc_rec.versions import require_trio

if TYPE_CHECKING:
    from cadc_rec.config.experiment import Experiment
    from cadc_rec.pipeline.pipeline import Pipeline

app = typer.Typer(
    help="Train two-tower recommenders on a small sample of the interactions (CADC).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_RANK_0_FIRST_SECONDS = 10.0  # an interpreter full of libraries takes seconds to end


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
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
    """Run all stages for one method and print what it reached and took."""
    from cadc_rec.pipeline.pipeline import STAGES
    from cadc_rec.pipeline.summary import run_result, run_table

    experiment = read_experiment(config, method, sets)
    arguments = worker_arguments(config, workdir, data_dir, experiment, sets)
    forced = STAGES if force else ()
    with _pipeline(experiment, workdir, data_dir, forced, arguments, profile, resume) as pipeline:
        artifacts = pipeline.run()
    if not _speaks():
        return
    result = run_result(experiment, artifacts)
    if json:
        print(jsonlib.dumps(result))
    else:
        Console().print(run_table(result, artifacts))


def _stage_command(stage: str, summary: str) -> None:
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
    app.command(name=stage)(command)


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
    from cadc_rec.pipeline.summary import stage_document, stage_lines

    experiment = read_experiment(config, method, sets)
    arguments = worker_arguments(config, workdir, data_dir, experiment, sets)
    forced = (stage,) if force else ()
    with _pipeline(experiment, workdir, data_dir, forced, arguments, profile, resume) as pipeline:
        _require_stage(stage, pipeline)
        artifact = pipeline.run(until=stage)[stage]
    if not _speaks():
        return
    if json:
        print(jsonlib.dumps(stage_document(stage, artifact)))
    else:
        print(stage_lines(stage, artifact))


def _require_stage(stage: str, pipeline: Pipeline) -> None:
    """Refuse a stage that the method has not."""
    if stage in pipeline.stages():
        return
    cure = "choose one that has with --method, such as cadc"
    if stage == "transitions":
        cure = "set transitions.window"
    raise CadcError(f"method {pipeline.experiment.method!r} has no {stage} stage; {cure}.")


_stage_command("prepare", "Read the raw data: dense ids, attributes, the leave-last-two split.")
_stage_command("pretrain", "Learn id vectors from every training interaction.")
_stage_command("transitions", "Learn which item follows which from every training interaction.")


@app.command()
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
    from cadc_rec.pipeline.summary import stage_document, stage_lines

    experiment = read_experiment(config, method, sets)
    wanted = filtering_ratios(ratios)
    forced = ("select",) if force else ()
    with _pipeline(experiment, workdir, data_dir, forced, []) as pipeline:
        _require_stage("select", pipeline)
        artifacts = pipeline.selections(wanted)
    if not _speaks():
        return
    told = list(zip(wanted, artifacts, strict=True))
    if json:
        print(jsonlib.dumps([{"ratio": r, **stage_document("select", a)} for r, a in told]))
        return
    for _, artifact in told:
        print(stage_lines("select", artifact))


@app.command()
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


_stage_command("evaluate", "Rank the held-out items over all items and measure.")


cli_data.register(app)
cli_update.register(app)
cli_plan.register(app)
cli_study.register(app)
cli_serve.register(app)
cli_export.register(app)


@app.command()
def doctor(
    workdir: Workdir = WORKDIR,
    data_dir: DataDir = None,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what this machine has, what is wrong with it and how to mend that."""
    from cadc_rec.cli.doctor import diagnose, render

    report = diagnose(workdir, data_dir)
    if json:
        print(jsonlib.dumps(report.to_dict()))
    else:
        Console().print(render(report))
    if not report.ok:
        raise typer.Exit(1)


@contextlib.contextmanager
def _pipeline(
    experiment: Experiment,
    workdir: Path,
    data_dir: Path | None,
    force: tuple[str, ...],
    arguments: list[str],
    profile: bool = False,
    resume: Path | None = None,
) -> Iterator[Pipeline]:
    """A pipeline, joined to its peers when launched among them."""
    from cadc_rec.pipeline.pipeline import Pipeline, launched

    def launch(force_train: bool) -> None:
        extra = [*(["--force"] if force_train else []), *(["--profile"] if profile else [])]
        extra += ["--resume", str(resume)] if resume else []
        run_workers(["train", *arguments, *extra], experiment.compute.processes)

    with stopped_gently("stages"):
        if launched():
            require_trio()
            from cadc_rec.distributed.processes import processes

            with processes(experiment.compute) as joined:
                # A local worker's stages are named by the process that started it.
                tell = log.debug if is_local_worker() else log.info
                yield Pipeline(
                    experiment,
                    workdir,
                    data_dir,
                    force,
                    joined,
                    tell=tell,
                    profile=profile,
                    resume=resume,
                )
        else:
            several = experiment.compute.processes > 1
            yield Pipeline(
                experiment,
                workdir,
                data_dir,
                force,
                launch=launch if several else None,
                profile=profile,
                resume=resume,
            )


def _speaks() -> bool:
    """Results are printed once: by the process a person started, not by local workers."""
    from cadc_rec.pipeline.pipeline import launched

    return not launched() or (os.environ.get("RANK") == "0" and not is_local_worker())


def main() -> None:
    """Entry point of ``cadc-rec`` and ``python -m cadc_rec``."""
    debug = "--debug" in sys.argv
    set_up_logging(debug=debug)
    keep_interrupts()
    if is_child():
        end_with_parent()
    code = 0
    try:
        app()  # usage errors and --help end in SystemExit, with typer's own text
    except CadcError as error:
        code = _report(error, f"error: {error}", 2, debug)
    except Exception as error:
        text = f"unexpected error: {type(error).__name__}: {error}"
        code = _report(error, f"{text}\nThis is a defect of ours; --debug shows where.", 1, debug)
    sys.exit(code)


def _report(error: Exception, text: str, code: int, debug: bool) -> int:
    if debug:
        console.print_exception()
    agreed = isinstance(error, SpokenError)
    if os.environ.get("RANK", "0") != "0" and isinstance(error, CadcError) and not agreed:
        # Refused before the ranks met: most likely rank 0 says the same and its launcher ends us
        # now; if not, it is ours to say.
        time.sleep(_RANK_0_FIRST_SECONDS)
    print(text, file=sys.stderr, flush=True)
    if isinstance(error, SpokenError):
        error.said()
    return code


if __name__ == "__main__":
    main()
