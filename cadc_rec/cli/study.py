"""The commands for whole studies: run a grid, write its page, advise on the sample's size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

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
    Method,
    Sets,
    Update,
    Workdir,
    stopped_gently,
    wanted_update,
)
from cadc_rec.errors import CadcError
from cadc_rec.log import log


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (study, report, advise):
        app.command()(command)


def study(
    file: Annotated[
        Path,
        typer.Argument(help="The study's TOML file, which describes the grid.", metavar="STUDY"),
    ],
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, help="Cells that run at the same time. Measured times compare only with 1."
        ),
    ] = 1,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Run the cells of this dataset of the study's file alone. May be repeated.",
            metavar="NAME",
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Run nothing; print the cells and the hours they would take."),
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Hours of a processor core that the study may take; one that would take more is "
            "refused before it runs. Default: the file's budget_hours.",
            metavar="HOURS",
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="With --plan: print one JSON object and nothing else.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run a grid of experiments, cell by cell; run it again to continue where it stopped."""
    from cadc_rec.store.remote.cache import address_of
    from cadc_rec.study.run.cells import run_study

    if plan:
        _print_plan(file, dataset or (), workdir, data_dir, budget, json)
        return
    if json:
        raise CadcError("--json prints a plan; add --plan, or leave it out.")
    with stopped_gently("cells"):
        folder = run_study(file, workdir, data_dir, jobs, budget, dataset or ())
    address = address_of(workdir)
    named = folder if address is None else f"{address}/{folder.relative_to(workdir)}"
    print(folder.resolve() if address is None else named)
    log.info("see it with: cadc-rec report %s", named)


def _print_plan(
    file: Path,
    datasets: Sequence[str],
    workdir: Path,
    data_dir: Path | None,
    budget: float | None,
    json: bool,
) -> None:
    from cadc_rec.study.run.budget import plan_document, plan_lines, plan_study
    from cadc_rec.study.run.cells import data_folder
    from cadc_rec.study.run.grid import read_study

    study = read_study(file, datasets)
    budget = study.file.budget_hours if budget is None else budget
    planned = plan_study(study, workdir, data_folder(data_dir))
    if json:
        print(strict_json.dumps(plan_document(planned, budget)))
        return
    for line in plan_lines(planned, budget):
        print(line)


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A study's folder, or a folder of studies, or its address.", metavar="DIR"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page, or its address. Default: DIR/report.")
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file with a table [prices]: what dollars are computed with, in place of "
            "the studies' own prices.",
            metavar="FILE",
        ),
    ] = None,
    cache: Cache = None,
    update: Update = NEWEST,
    debug: Debug = False,
) -> None:
    """Write a page with a study's tables, figures, times and curves; it works offline."""
    from cadc_rec.store.remote.address import parse
    from cadc_rec.store.remote.sending import sent_plainly
    from cadc_rec.store.remote.trees import local_tree
    from cadc_rec.study.prices import read_prices
    from cadc_rec.study.report.page import GENERATOR
    from cadc_rec.study.report.report import PAGE, write_report

    wanted = wanted_update(update)
    priced = None if prices is None else read_prices(prices)
    place = parse(out or f"{folder}/report")
    with sent_plainly(place, last=PAGE, ours=GENERATOR) as target:
        written = write_report(local_tree(folder), target, wanted, priced)
    log.info(
        "%d cells done, %d failed, %d not run yet, %d not available",
        written.done,
        written.failed,
        written.missing,
        written.unavailable,
    )
    print(written.page.resolve() if isinstance(place, Path) else f"{place}/{PAGE}")


def advise(
    config: Config,
    tolerance: Annotated[
        str,
        typer.Option(
            help="Part of the HR@10 that everything reaches that may be lost, such as 5% or 0.05."
        ),
    ],
    method: Method = None,
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    ratios: Annotated[
        str, typer.Option(help="Filtering ratios to choose from.", metavar="R,R,...")
    ] = "1,2,5,10,20,50,100",
    budget: Annotated[
        str, typer.Option(help="What the runs may cost, of the time of training on everything.")
    ] = "5%",
    seeds: Annotated[
        str, typer.Option(help="Seeds to average over. Default: the config's.", metavar="N,N,...")
    ] = "",
    sets: Sets = None,
    update: Update = NEWEST,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find the smallest sample that costs little accuracy, from a few runs on small ones."""
    from cadc_rec.study.run.advice_text import run_advise

    with stopped_gently("stages"):
        run_advise(
            config,
            tolerance,
            workdir,
            data_dir,
            method=method,
            sets=sets or (),
            budget=budget,
            seeds=seeds,
            ratios=ratios,
            update=wanted_update(update),
            as_json=json,
        )
