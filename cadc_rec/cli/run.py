"""The command that runs a whole experiment, and the hidden one of its training workers."""

import typer

from cadc_rec import strict_json
from cadc_rec.cli.options import (
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
    Workdir,
    is_speaker,
    stopped_gently,
)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(run)
    app.command(hidden=True)(worker)


def run(
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
    """Run all stages of one method and print its accuracy and times."""
    from rich.console import Console

    from cadc_rec import api
    from cadc_rec.config.file import load_experiment
    from cadc_rec.pipeline.summary import run_table

    experiment = load_experiment(config, method=method, overrides=sets or ())
    with stopped_gently("stages"):
        done = api.run(
            experiment,
            workdir=workdir,
            data_dir=data_dir,
            force=force,
            profile=profile,
            resume=resume,
            wait=not no_wait,
        )
    if not is_speaker():
        return
    if json:
        print(strict_json.dumps(done.result))
    else:
        Console().print(run_table(done.result, done.artifacts))


def worker(debug: Debug = False) -> None:
    """Train as one of the local processes that another command started."""
    from cadc_rec.pipeline.job import train_as_worker

    with stopped_gently("stages"):
        train_as_worker()
