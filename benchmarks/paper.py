"""The paper's whole study, one command: Table 1, Table 2, Figure 1, then their page.

    python -m benchmarks.paper --workdir work           # hours; goes on where it was stopped
    python -m benchmarks.paper --workdir work --docs    # what is measured, into the docs

In: ``configs/study/{table1,table2,figure1}.toml``. Out: ``WORKDIR/studies/`` with a folder a study
and ``report/index.html`` over all of them. With ``--docs`` nothing is run: what has been measured
is recorded (`benchmarks.recorded`), and the tables between the marks of docs/results.md and
README.md and the figures are made from it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.marks import ROOT, between
from benchmarks.recorded.docs import Docs
from cadc_rec.errors import CadcError
from cadc_rec.log import keep_interrupts, log, set_up_logging
from cadc_rec.study.report import formatting
from cadc_rec.study.report.figures import study_figures
from cadc_rec.study.report.groups import Comparisons, Group, datasets
from cadc_rec.study.report.markdown import markdown_table
from cadc_rec.study.report.paper import METHOD_TITLES, METRICS
from cadc_rec.study.report.report import write_report
from cadc_rec.study.report.study_data import Study
from cadc_rec.study.report.tables import study_table
from cadc_rec.study.run.cells import run_study

__all__ = ["ROOT", "between"]  # other benchmarks take them from here

STUDIES = ("table1", "table2", "figure1")
MARKS = {"table1": "table1", "table2": "table2", "figure1": "figure1-table"}
PICTURES = {"table1": ("pareto", "time"), "figure1": ("figure1",)}


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


def tables(page: Comparisons) -> dict[str, str]:
    """The paper's three tables and the README's summary of the first; Markdown by mark."""
    found = {
        MARKS[study.name]: markdown_table(study, study_table(study, page)).strip()
        for study in page.studies
    }
    table1 = _study(page, "table1")
    return found | ({"results": summary(page, table1)} if table1 else {})


def pictures(page: Comparisons) -> dict[str, str]:
    """Figure 1, and accuracy and time by method of Table 1; SVG by path."""
    found = {}
    for name, wanted in PICTURES.items():
        study = _study(page, name)
        for figure in study_figures(study, page) if study else []:
            if figure.name in wanted:
                found[f"docs/images/{figure.name}.svg"] = figure.svg
    return found


def _study(page: Comparisons, name: str) -> Study | None:
    return next((study for study in page.studies if study.name == name), None)


def summary(page: Comparisons, study: Study) -> str:
    """Test metrics of Table 1 in Markdown: a row a method, mean and spread over the seeds."""
    groups = [group for group in page.groups(study) if group.done]
    whole = {g.dataset for g in groups if g.method == "gold"}  # nothing to compare with else
    titles = {key: title for key, title in datasets(study).items() if key in whole}
    head = ["method", *(f"{title}: HR@10 / NDCG@10 %" for title in titles.values())]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method, name in METHOD_TITLES.items():
        mine = {g.dataset: g for g in groups if g.method == method and g.dataset in whole}
        if mine:
            row = [name, *(_metrics(mine.get(dataset)) for dataset in titles)]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _metrics(group: Group | None) -> str:
    found = [group.metric(metric) if group else None for metric in METRICS]
    return " / ".join("–" if value is None else formatting.spread(value) for value in found)


DOCS = Docs(
    studies=STUDIES,
    marks={**dict.fromkeys(MARKS.values(), "docs/results.md"), "results": "README.md"},
    tables=tables,
    pictures=pictures,
)


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
    parser.add_argument("--docs", action="store_true", help="run nothing; write the docs")
    arguments = parser.parse_args()
    set_up_logging()
    keep_interrupts()
    wrong: list[str] = []
    try:
        if arguments.docs:
            print(*DOCS.record(arguments.workdir / "studies"), *DOCS.write(), sep="\n")
        else:
            wrong = run_all(arguments.workdir, arguments.data_dir, arguments.jobs)
            print(write_report(arguments.workdir / "studies").page.resolve())
    except CadcError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
