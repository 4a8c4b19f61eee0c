"""The command that measures speed."""

from __future__ import annotations

from typing import Annotated

import typer

from cadc_rec.cli_options import WORKDIR, AsJson, DataDir, Debug, Workdir, stopped_gently
from cadc_rec.progress import log


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(bench)


def bench(
    workdir: Workdir = WORKDIR,
    data_dir: DataDir = None,
    section: Annotated[
        list[str] | None,
        typer.Option(help="Measure this section only; may be repeated.", metavar="NAME"),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Alternating rounds that count.")] = 5,
    rows: Annotated[
        int,
        typer.Option(min=0, help="Rows of the world that is prepared and selected; 0: 3 million."),
    ] = 0,
    threads: Annotated[
        int, typer.Option(min=0, help="Of every contender; 0: one for each core.")
    ] = 0,
    short: Annotated[
        bool, typer.Option("--short", help="A tiny generated world and few steps.")
    ] = False,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure speed beside what people would use instead and what the machine can do."""
    from cadc_rec.bench.sections import results_path, run
    from cadc_rec.bench.tables import report_text
    from cadc_rec.bench.workload import Workload
    from cadc_rec.versions import require_trio

    require_trio()
    workload = Workload(workdir, short, repeats, data_dir, rows, threads)
    with stopped_gently("sections"):
        report = run(workload, section or ())
    print(report.model_dump_json() if json else report_text(report))
    log.info("kept in %s", results_path(workdir, short).resolve())
    broken = report.broken()
    for sentence in broken:
        log.error("%s", sentence)
    if broken:  # ratios of different work mean nothing
        raise typer.Exit(1)
