"""Whether `advise` says what larger shares reach: coverage and width of its intervals.

    python -m benchmarks.advice configs/study/figure1.toml --workdir work             # of cells
    python -m benchmarks.advice configs/study/figure1.toml --workdir work --advise    # the command
    python -m benchmarks.advice --recorded scale                                   # of its record
    python -m benchmarks.advice --curves benchmarks/recorded/curves.json              # of a file
    python -m benchmarks.advice --learn benchmarks/recorded/curves.json               # `USUAL`

In: studies that were run (``cadc-rec study``) or recorded. Out: a line for each set, method and
larger share: what was predicted from small shares alone, its 90% interval, and the truth, the mean
over the study's seeds; then, how often the truth lies in the interval and how wide that is. What is
usual for curves is learned anew for each set, from the other sets' curves.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.advice.check import Checked, check_advise, check_cells, costs_of
from benchmarks.advice.curves import curves_of, read_curves
from benchmarks.advice.page import shown, summary
from benchmarks.advice.usual import as_code, learned
from benchmarks.recorded.files import small, with_commit, write_json
from benchmarks.recorded.studies import read
from cadc_rec import strict_json
from cadc_rec.errors import CadcError
from cadc_rec.study.report.study_data import Study, load_studies
from cadc_rec.study.run.grid import read_study


def main(
    studies: Annotated[list[Path] | None, typer.Argument(help="Files of studies.")] = None,
    workdir: Annotated[Path, typer.Option(help="Where they were run.")] = Path("work"),
    data_dir: Annotated[Path | None, typer.Option()] = None,
    recorded: Annotated[
        list[str] | None, typer.Option(help="Name of a recorded study; may be repeated.")
    ] = None,
    run_advise: Annotated[
        bool, typer.Option("--advise", help="Check the command, which makes runs.")
    ] = False,
    curves: Annotated[
        Path | None,
        typer.Option(help="More curves to learn what is usual from; without studies, to check."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write the studies' curves into this file.")
    ] = None,
    learn_from: Annotated[
        Path | None, typer.Option("--learn", help="Print what is usual, from this file of curves.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write all figures as JSON.")] = None,
) -> None:
    """Check predictions against studies, or learn what is usual from their curves."""
    if learn_from is not None:
        print(as_code(learned(read_curves(learn_from))))
        return
    found: list[Checked] = []
    measured: list[Study] = read(recorded).studies if recorded else []
    for file in studies or ():
        folder = workdir / "studies" / file.stem
        if run_advise:
            found += check_advise(read_study(file), folder, workdir, data_dir)
        measured += load_studies(folder)
    mine = curves_of(measured)
    costs = costs_of(measured)
    known = read_curves(curves) if curves else []
    if record is not None:
        record.write_text(strict_json.dumps({"curves": [asdict(c) for c in mine]}, indent=1) + "\n")
    if not run_advise:
        found += check_cells(mine or known, costs, known if mine else ())
    print(shown(found))
    if out is not None:
        document = {
            "command": "advise" if run_advise else "cells",
            "level": 0.9,
            "summary": summary(found),
            "predictions": [
                {**asdict(one), "inside": one.inside, "half_width": one.half_width} for one in found
            ],
        }
        write_json(out, small(with_commit(document)))


def command() -> None:
    """`main` of a command line; a study that cannot be read is a sentence."""
    try:
        typer.run(main)
    except CadcError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    command()
