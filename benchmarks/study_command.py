"""The command of a study whose tables stand in the docs: run it, or write what is measured.

In: what tells one such study from another. Out: the report's page, or what was measured in
``benchmarks/recorded/`` and its tables in ``docs/``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.marks import ROOT
from benchmarks.recorded.docs import Docs
from cadc_rec.errors import CadcError
from cadc_rec.log import keep_interrupts, set_up_logging
from cadc_rec.study.report.report import write_report
from cadc_rec.study.run.cells import run_study

STUDIES = ROOT / "configs" / "study"


def study_command(
    about: str,
    docs: Mapping[str, Docs],
    data: Callable[[Path, Path | None], Path | None],
    reported: Callable[[Path, str], Path],
) -> None:
    """Parse the command line; run a study and write its report, or with ``--docs`` its tables.

    Args:
        about: what ``--help`` says, up to the first empty line.
        docs: by name of the studies in ``configs/study/``, what they write; the first is the
            default.
        data: of the work folder and ``--data-dir``, the folder with the data of a study.
        reported: of the folder of all studies and a name, the folder whose report is written.
    """
    parser = argparse.ArgumentParser(description=about.split("\n\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--data-dir", type=Path, help="folder with the raw data")
    parser.add_argument("--jobs", type=int, default=1, help="cells that run at the same time")
    parser.add_argument("--study", choices=list(docs), default=next(iter(docs)))
    parser.add_argument(
        "--dataset", action="append", default=[], help="run this dataset alone; may be repeated"
    )
    parser.add_argument("--docs", action="store_true", help="run nothing; write the docs")
    arguments = parser.parse_args()
    set_up_logging()
    keep_interrupts()
    name, workdir = arguments.study, arguments.workdir
    try:
        if arguments.docs:
            print(*docs[name].record(workdir / "studies"), *docs[name].write(), sep="\n")
        else:
            folder = data(workdir, arguments.data_dir)
            study, only = STUDIES / f"{name}.toml", arguments.dataset
            run_study(study, workdir, folder, arguments.jobs, datasets=only)
            print(write_report(reported(workdir / "studies", name)).page.resolve())
    except CadcError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
