"""The paper's whole study, one command: Table 1, Table 2, Figure 1, then their page.

    python -m benchmarks.paper --workdir work           # hours; goes on where it was stopped
    python -m benchmarks.paper --workdir work --docs    # what is measured, into docs/results.md

In: ``configs/study/{table1,table2,figure1}.toml``. Out: ``WORKDIR/studies/`` with a folder a study
and ``report/index.html`` over all of them. With ``--docs`` nothing is run: the tables between the
marks of docs/results.md and README.md and the figures are made from what has been measured.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cadc_rec.errors import CadcError
from cadc_rec.evaluation.statistics import spread
from cadc_rec.log import keep_interrupts, log, set_up_logging
from cadc_rec.study.report.paper import METHOD_TITLES
from cadc_rec.study.report.report import write_report
from cadc_rec.study.run.cells import run_study

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ("table1", "table2", "figure1")
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
FIGURES = {"figure1.svg": "figure1.svg", "pareto.svg": "pareto.svg", "time.svg": "time.svg"}


def run_all(workdir: Path, data_dir: Path | None, jobs: int) -> list[str]:
    """Run the three studies; returns what went wrong, a sentence a study that had failures."""
    wrong = []
    for name in STUDIES:
        try:
            run_study(ROOT / "configs" / "study" / f"{name}.toml", workdir, data_dir, jobs)
        except CadcError as error:
            wrong.append(f"{name}: {error}")
            log.warning("%s", wrong[-1])
    return wrong


def into_docs(report: Path, page: Path = PAGE, readme: Path = README) -> None:
    """Put the report's tables between the marks of both pages and its figures beside `page`."""
    results = pq.read_table(report / "results.parquet").to_pylist()
    said = between(readme.read_text("utf-8"), "results", summary(results), readme)
    readme.write_text(said, "utf-8")
    text = page.read_text("utf-8")
    for table in ("table1", "table2", "figure1-table"):
        source = report / f"{table}.md"
        if source.exists():
            text = between(text, table, source.read_text("utf-8").strip(), page)
    page.write_text(text, "utf-8")
    for name, copied in FIGURES.items():
        if (report / name).exists():
            shutil.copyfile(report / name, page.parent / "images" / copied)


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """Test metrics of Table 1 in Markdown: a row a method, mean and spread over the seeds.

    Args:
        results: rows of the report's ``results.parquet``.
    """
    done = [r for r in results if r["study"] == "table1" and r["status"] == "done"]
    whole = {r["dataset"] for r in done if r["method"] == "gold"}  # nothing to compare with else
    done = [r for r in done if r["dataset"] in whole]
    titles = {r["dataset"]: r["dataset_title"] for r in done}
    head = ["method", *(f"{title}: HR@10 / NDCG@10 %" for title in titles.values())]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method in [m for m in METHOD_TITLES if any(r["method"] == m for r in done)]:
        row = [METHOD_TITLES[method]]
        for dataset in titles:
            mine = [r for r in done if r["method"] == method and r["dataset"] == dataset]
            row.append(" / ".join(_mean(mine, metric) for metric in ("hr@10", "ndcg@10")))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _mean(results: Sequence[Mapping[str, Any]], metric: str) -> str:
    if not results:
        return "–"
    found = spread([100.0 * r[f"metrics.{metric}"] for r in results])
    return f"{found.mean:.2f}" + (
        f" ± {found.deviation:.2f}" if found.deviation is not None else ""
    )


def between(text: str, mark: str, content: str, page: Path) -> str:
    """`text` of `page` with what lies between ``<!-- mark -->`` and ``<!-- /mark -->`` replaced."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    replaced, count = pattern.subn(lambda found: f"{found[1]}{content}\n{found[2]}", text)
    if count != 1:
        raise CadcError(f"{page}: has {count} places marked {mark}; it needs one.")
    return replaced


def main() -> None:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--data-dir", type=Path, help="folder with the raw data")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="cells that run at the same time; measured times compare only with 1",
    )
    parser.add_argument("--docs", action="store_true", help="run nothing; write docs/results.md")
    arguments = parser.parse_args()
    set_up_logging()
    keep_interrupts()
    try:
        wrong = (
            [] if arguments.docs else run_all(arguments.workdir, arguments.data_dir, arguments.jobs)
        )
        report = write_report(arguments.workdir / "studies")
        if arguments.docs:
            into_docs(report.page.parent)
    except CadcError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(report.page.resolve())
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
