"""How fast every stage is, beside peers and the machine: ``cadc-rec bench``, and its docs page.

    python -m benchmarks.throughput --workdir work          # all sections but end-to-end
    python -m benchmarks.throughput --workdir work --section end-to-end --repeats 5
    python -m benchmarks.throughput --workdir work --docs   # docs/performance.md anew

In: a work folder. Out: ``WORKDIR/bench/results.json``, to which a session adds its sections.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.paper import between
from cadc_rec.bench.record import Report
from cadc_rec.bench.sections import SECTIONS, results_path, run
from cadc_rec.bench.tables import report_text
from cadc_rec.bench.workload import Workload
from cadc_rec.errors import CadcError
from cadc_rec.progress import keep_interrupts, set_up_logging

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def into_docs(report: Report, page: Path = PAGE) -> None:
    """Put the report between the marks of the page."""
    text = between(page.read_text("utf-8"), "throughput", report_text(report), page)
    page.write_text(text, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--data-dir", type=Path, help="where raw archives lie")
    parser.add_argument("--section", action="append", choices=SECTIONS, default=[])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=0, help="of the world prepared and selected")
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--docs", action="store_true", help="run nothing; renew the docs page")
    arguments = parser.parse_args()
    set_up_logging()
    keep_interrupts()
    try:
        if arguments.docs:
            into_docs(Report.read(results_path(arguments.workdir, short=False)))
            return
        workload = Workload(
            arguments.workdir,
            arguments.short,
            arguments.repeats,
            arguments.data_dir,
            arguments.rows,
            arguments.threads,
        )
        report = run(workload, arguments.section)
    except CadcError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(report_text(report))
    sys.exit("\n".join(report.broken()) or None)


if __name__ == "__main__":
    main()
