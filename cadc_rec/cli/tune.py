"""The command that searches an experiment's settings on validation."""

from pathlib import Path
from typing import Annotated

import typer

from cadc_rec import strict_json
from cadc_rec.cli.options import (
    WORKDIR,
    AsJson,
    Cache,
    Config,
    DataDir,
    Debug,
    Method,
    Sets,
    Workdir,
    stopped_gently,
)
from cadc_rec.errors import CadcError
from cadc_rec.log import log


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(tune)


def tune(
    config: Config,
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    minutes: Annotated[
        float,
        typer.Option(min=0, help="Minutes of trials, once the data are prepared."),
    ] = 10.0,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="End after this many trials in all, those of earlier calls included.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The config to write. Default: CONFIG with -tuned in its name, in this folder.",
            metavar="CONFIG",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out, whatever wrote it.")
    ] = False,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Search the settings on validation, and write a config; run it again to continue."""
    from cadc_rec.pipeline.pipeline import launched
    from cadc_rec.tuning.report import write_results
    from cadc_rec.tuning.search import Search

    if launched():
        raise CadcError("a search trains in one process; start cadc-rec tune without torchrun.")
    target = out or Path(f"{config.stem}-tuned.toml")
    with stopped_gently("trials"):
        search = Search(config, workdir, data_dir, method, sets or ())
        search.require_writable(target, overwrite)
        try:
            search.run(60 * minutes, trials)
        finally:  # a Ctrl-C, too, leaves what was found so far
            if search.record.trials:
                written = write_results(search.record, search.asked, target, overwrite)
                log.info("%s", written.verdict)
                log.info("what was tried: %s", written.page)
                log.info("run the best settings: cadc-rec run %s", target)
    if not search.record.trials:
        raise CadcError(
            f"the {minutes:g} minutes ended before the file's own settings did; give more "
            "--minutes (what is finished is kept)."
        )
    print(strict_json.dumps(written.result) if json else target.resolve())
