"""The command of a study whose tables stand in the docs: run it, or write what is measured.

In: what tells one such study from another. Out: the report's page, or its tables in ``docs/``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.paper import ROOT
from cadc_rec.errors import CadcError
from cadc_rec.log import keep_interrupts, set_up_logging
from cadc_rec.study.report.report import write_report
from cadc_rec.study.run.cells import run_study

STUDIES = ROOT / "configs" / "study"


def study_command(
    about: str,
    names: Sequence[str],
    data: Callable[[Path, Path | None], Path | None],
    reported: Callable[[Path, str], Path],
    into_docs: Callable[[Path, Path, str], None],
) -> None:
    """Parse the command line, run a study, write its report, and with ``--docs`` its tables.

    Args:
        about: what ``--help`` says, up to the first empty line.
        names: of the studies in ``configs/study/``; the first is the default.
        data: of the work folder and ``--data-dir``, the folder with the data of a study.
        reported: of the folder of all studies and a name, the folder whose report is written.
        into_docs: given the report's folder, that of what it is about, and the study's name.
    """
    parser = argparse.ArgumentParser(description=about.split("\n\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--data-dir", type=Path, help="folder with the raw data")
    parser.add_argument("--jobs", type=int, default=1, help="cells that run at the same time")
    parser.add_argument("--study", choices=names, default=names[0])
    parser.add_argument("--docs", action="store_true", help="run nothing; write docs/accuracy.md")
    arguments = parser.parse_args()
    set_up_logging()
    keep_interrupts()
    name, workdir = arguments.study, arguments.workdir
    try:
        if not arguments.docs:
            folder = data(workdir, arguments.data_dir)
            run_study(STUDIES / f"{name}.toml", workdir, folder, arguments.jobs)
        studies = reported(workdir / "studies", name)
        report = write_report(studies)
        if arguments.docs:
            into_docs(report.page.parent, studies, name)
    except CadcError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(report.page.resolve())
