"""The commands that update an experiment with new interactions, and list its updates."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    NoWait,
    Sets,
    Workdir,
    is_speaker,
    stopped_gently,
)
from cadc_rec.errors import CadcError
from cadc_rec.log import log

if TYPE_CHECKING:
    from cadc_rec.updates.prune import Holders


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(update)
    app.command()(updates)
    app.command()(prune)


def update(
    config: Config,
    new: Annotated[
        Path | None,
        typer.Option(help="Folder with the new tables.", metavar="DIR", show_default=False),
    ] = None,
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    forget_users: Annotated[
        Path | None,
        typer.Option(
            help="In place of --new: forget the users whose ids stand in this file, one a line.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    forget_items: Annotated[
        Path | None,
        typer.Option(help="Likewise these items.", metavar="FILE", show_default=False),
    ] = None,
    purge: Annotated[
        bool,
        typer.Option("--purge", help="Also remove the older artifacts that hold the forgotten."),
    ] = False,
    no_wait: NoWait = False,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Add a day's new interactions, or forget users and items, without training all again."""
    from cadc_rec.config.file import load_experiment
    from cadc_rec.versions import require_trio

    experiment = load_experiment(config, method=method, overrides=sets or ())
    forgets = forget_users is not None or forget_items is not None
    if forgets == (new is not None) or (purge and not forgets):
        raise CadcError(
            "update: give either --new DIR, or --forget-users or --forget-items FILE (and --purge "
            "with these alone)."
        )
    require_trio()
    with stopped_gently("stages"):
        from cadc_rec.updates.report import day_lines, update_lines
        from cadc_rec.updates.update import carry_on

        outcome = carry_on(
            experiment,
            workdir,
            new,
            data_dir,
            forget={"user": forget_users, "item": forget_items} if forgets else None,
            purge_holders=purge,
            wait=not no_wait,
        )
    if not is_speaker():
        return
    if outcome.holders:
        _tell_of(outcome.holders, purge)
    if json:
        document: dict[str, Any] = {"kept": outcome.kept, "day": dict(outcome.counts)}
        if outcome.update is not None:
            document["record"] = str(outcome.update.path.resolve())
            document["artifacts"] = {
                stage: str((workdir / folder).resolve())
                for stage, folder in outcome.update.artifacts.items()
            }
            document["report"] = dict(outcome.update.report)
        if outcome.holders is not None:
            document["purged"] = purge
            document["holders"] = {
                name: [str(path.resolve()) for path in paths]
                for name, paths in asdict(outcome.holders).items()
            }
        print(strict_json.dumps(document))
        return
    if outcome.update is None:
        print(f"{new}: holds no new interaction; nothing was changed.")
        lines = day_lines(outcome.counts)
    else:
        lines = update_lines(outcome.update.report)
    for line in lines:
        print(line)
    if outcome.update is not None:
        print(outcome.update.path.resolve())


def _tell_of(holders: "Holders", purged: bool) -> None:
    """Name what holds the forgotten still."""
    if not purged:
        for path in (*holders.own, *holders.checkpoints):
            log.warning("holds the forgotten still: %s (--purge removes it)", path)
    for path in holders.others:
        log.warning(
            "holds the forgotten still, and another experiment needs it: %s (forget them there, "
            "too)",
            path,
        )


def updates(
    config: Config,
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    draw: Annotated[
        Path | None,
        typer.Option(help="Also draw them over the days, into this folder.", metavar="DIR"),
    ] = None,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the updates of an experiment and where their artifacts are."""
    from cadc_rec.config.file import load_experiment

    experiment = load_experiment(config, method=method, overrides=sets or ())
    with stopped_gently("stages"):
        from cadc_rec.pipeline.finished import require_finished
        from cadc_rec.pipeline.pipeline import Pipeline
        from cadc_rec.updates.chain import line_of, updates_of

        line = line_of(require_finished(Pipeline(experiment, workdir, data_dir)))
        found = updates_of(workdir, line)
    page = None
    if draw is not None:
        from cadc_rec.study.report.days import write_days

        page = write_days(found, draw)
    if json:
        listed = [
            {
                "number": one.number,
                "name": one.name,
                "record": str(one.path.resolve()),
                "day": one.report["day"],
                "metrics": one.report["metrics"],
                "rebuild": one.report["rebuild"],
                "artifacts": {s: str((workdir / f).resolve()) for s, f in one.artifacts.items()},
            }
            for one in found
        ]
        print(strict_json.dumps(listed))
        return
    for one in found:
        day, metrics = one.report["day"], one.report["metrics"]
        reached = ", ".join(f"{name.upper()} {100 * value:.2f}%" for name, value in metrics.items())
        named = f"{one.name}, " if one.name else ""
        print(f"{named}update {one.number}: {day['interactions']:,} new interactions, {reached}")
        print(f"  {one.path.resolve()}")
    if not found:
        print("no updates yet; make one with cadc-rec update")
    if page is not None:
        print(page.resolve())


def prune(
    config: Config,
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest updates to keep.")] = 1,
    with_run: Annotated[
        bool, typer.Option("--with-run", help="Also remove the run that the updates are of.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; else only show them.")] = False,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show the artifacts that no kept update needs, and with --yes remove them."""
    from cadc_rec.config.file import load_experiment

    experiment = load_experiment(config, method=method, overrides=sets or ())
    with stopped_gently("removals"):
        from cadc_rec.pipeline.finished import require_finished
        from cadc_rec.pipeline.pipeline import Pipeline
        from cadc_rec.store.atomic import empty_folder
        from cadc_rec.store.pruned import freed_bytes
        from cadc_rec.updates import chain
        from cadc_rec.updates.prune import prunable, remove, require_alone

        base = require_finished(Pipeline(experiment, workdir, data_dir))
        # No update of the experiment is at work meanwhile.
        line = chain.line_of(base)
        with empty_folder(workdir, chain.STAGE, f"line-{line}"):
            if yes:
                require_alone(workdir, line)
            paths = prunable(workdir, base, keep, with_run)
            freed = freed_bytes(paths)
            if yes:
                remove(paths, "pruned, for no kept update needs them")
    if json:
        artifacts = [str(path.resolve()) for path in paths]
        print(strict_json.dumps({"removed": yes, "bytes": freed, "artifacts": artifacts}))
        return
    for path in paths:
        print(path)
    if not paths:
        print("nothing to remove: kept updates and runs need everything there is")
    elif yes:
        print(f"removed the files of {len(paths)} artifacts, {freed / 1e6:,.1f} MB")
    else:
        print(f"{len(paths)} artifacts, {freed / 1e6:,.1f} MB; --yes removes their files")
