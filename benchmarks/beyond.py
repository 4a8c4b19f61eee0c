"""The recipe beyond the paper: its study, one command, and its tables in the docs.

    python -m benchmarks.beyond --workdir work           # an hour; goes on where it was stopped
    python -m benchmarks.beyond --workdir work --docs    # what is measured, into docs/accuracy.md

In: ``configs/study/beyond.toml``. Out: ``WORKDIR/studies/beyond`` and the page over all studies of
the work folder; gold on Epinions is compared with where `benchmarks.paper` was run there too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.paper import ROOT, between
from cadc_rec.errors import CadcError
from cadc_rec.progress import keep_interrupts, set_up_logging
from cadc_rec.reporting.report import write_report
from cadc_rec.study.commands import run_study

STUDY = ROOT / "configs" / "study" / "beyond.toml"
PAGE = ROOT / "docs" / "accuracy.md"


def into_docs(report: Path, page: Path = PAGE) -> None:
    """Put the study's table between the marks of `page`."""
    table = (report / "grid-table.md").read_text("utf-8").strip()
    page.write_text(between(page.read_text("utf-8"), "beyond", table, page), "utf-8")


def main() -> None:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--data-dir", type=Path, help="where raw archives lie")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--docs", action="store_true", help="run nothing; renew docs/accuracy.md")
    arguments = parser.parse_args()
    set_up_logging()
    keep_interrupts()
    try:
        if not arguments.docs:
            run_study(STUDY, arguments.workdir, arguments.data_dir, arguments.jobs)
        report = write_report(arguments.workdir / "studies")
        if arguments.docs:
            into_docs(report.page.parent)
    except CadcError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(report.page.resolve())


if __name__ == "__main__":
    main()
