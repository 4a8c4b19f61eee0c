"""How fast every stage is, beside peers and the machine, and the page that says so.

    python -m benchmarks.peers --workdir work          # all sections
    python -m benchmarks.peers --workdir work --busy   # each also beside a busy core
    python -m benchmarks.peers --workdir work --docs   # recorded, and docs/performance.md anew

In: a work folder. Out: ``WORKDIR/bench/results.json`` (``results-busy.json``), to which a session
adds its sections.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.peers.page import into_docs
from benchmarks.peers.record import Report
from benchmarks.peers.sections import SECTIONS, results_path, run
from benchmarks.peers.tables import report_text
from benchmarks.peers.workload import Workload
from cadc_rec.errors import CadcError
from cadc_rec.log import keep_interrupts, log, set_up_logging
from cadc_rec.versions import require_trio


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="Measure speed beside other libraries and the machine's ceilings.",
    )
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--data-dir", type=Path, help="folder with the raw data")
    parser.add_argument(
        "--section", action="append", choices=SECTIONS, default=[], help="measure only this section"
    )
    parser.add_argument("--repeats", type=int, default=5, help="number of counted rounds")
    parser.add_argument(
        "--rows", type=int, default=0, help="rows of the world for preparation and selection"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads; 0 takes one for each core")
    parser.add_argument(
        "--busy",
        action="store_true",
        help="let all take turns beside a process that keeps one core busy, too",
    )
    parser.add_argument("--short", action="store_true", help="a tiny world and few steps")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--docs", action="store_true", help="run nothing; record, write the docs page"
    )
    arguments = parser.parse_args()
    set_up_logging()
    keep_interrupts()
    try:
        if arguments.docs:
            kept = results_path(arguments.workdir, short=False, busy=arguments.busy)
            into_docs(Report.read(kept), arguments.busy)
            return
        require_trio()
        workload = Workload(
            arguments.workdir,
            arguments.short,
            arguments.repeats,
            arguments.data_dir,
            arguments.rows,
            arguments.threads,
        )
        report = run(workload, arguments.section, arguments.busy)
    except CadcError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        log.warning(
            "interrupted; finished sections are kept, and the same command continues from them"
        )
        sys.exit(130)
    print(report.model_dump_json() if arguments.json else report_text(report))
    kept = results_path(arguments.workdir, arguments.short, arguments.busy)
    log.info("kept in %s", kept.resolve())
    # Ratios of different work mean nothing.
    sys.exit("\n".join(report.broken()) or None)


if __name__ == "__main__":
    main()
