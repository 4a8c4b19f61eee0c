"""What docs/performance.md shows of the reports, once they are recorded."""

from __future__ import annotations

from pathlib import Path

from benchmarks.marks import ROOT
from benchmarks.peers.record import Report
from benchmarks.peers.tables import busy_text, report_text
from benchmarks.recorded.docs import Measured
from benchmarks.recorded.files import FOLDER

PAGE = "docs/performance.md"
IDLE = Measured(
    file="peers",
    marks={"throughput": PAGE},
    tables=lambda content: {"throughput": report_text(Report.of(content, "peers.json"))},
)
BUSY = Measured(
    file="peers-busy",
    marks={"busy": PAGE},
    tables=lambda content: {"busy": busy_text(Report.of(content, "peers-busy.json"))},
)


def into_docs(report: Report, busy: bool, root: Path = ROOT, folder: Path = FOLDER) -> None:
    """Record the report, and write what the page shows of it: speed, or what a busy core leaves.

    Raises:
        CadcError: the page has not its marks.
    """
    docs = BUSY if busy else IDLE
    report.save(folder / f"{docs.file}.json")
    docs.write(root, folder)
