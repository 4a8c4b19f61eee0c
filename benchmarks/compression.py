"""Compression on real logs: the study of shares, methods and selections, and its page.

    python -m benchmarks.compression --workdir work --data-dir DATA    # goes on where it stopped
    python -m benchmarks.compression --workdir work --docs             # what is measured, into docs

In: ``configs/study/scale.toml``. Out: ``WORKDIR/studies/scale`` and its report. With ``--docs``
nothing is run: what has been measured is recorded (`benchmarks.recorded`), and the tables of
docs/compression.md are made from it. They are cut out of the study's one large table, which the
report has whole: a table a question.
"""

from __future__ import annotations

from benchmarks.compression_grid import Grid
from benchmarks.compression_picture import laws, picture
from benchmarks.compression_tables import CURVES, costs, curves, left, methods, selections, short
from benchmarks.recorded.docs import Docs
from benchmarks.study_command import study_command
from cadc_rec.study.report.cold import cold_table
from cadc_rec.study.report.features import features_table
from cadc_rec.study.report.groups import Comparisons
from cadc_rec.study.report.markdown import markdown_table
from cadc_rec.study.report.study_data import Study
from cadc_rec.study.report.table_view import TableView

NAME = "scale"
PAGE, PICTURE = "docs/compression.md", "docs/images/compression.svg"
LAWS = "docs/images/laws.svg"

_BY_TIME, _NEW = "-by-time", "-new"  # how keys of sets end that are another task


def pictures(page: Comparisons) -> dict[str, str]:
    """What `CURVES` keep of their accuracy by the share, what that takes, and laws; SVG by path."""
    grid = Grid(_study(page), page)
    sets = grid.sets(_last_two)
    drawn = {PICTURE: picture(grid, sets, CURVES), LAWS: laws(grid, sets, CURVES)}
    return {path: svg for path, svg in drawn.items() if svg}


def _study(page: Comparisons) -> Study:
    return next(study for study in page.studies if study.name == NAME)


def _last_two(key: str) -> bool:
    """Whether a set is split as the study's main question has it."""
    return not key.endswith((_BY_TIME, _NEW))


def tables(page: Comparisons) -> dict[str, str]:
    """The tables of the page; Markdown by mark."""
    study = _study(page)
    grid = Grid(study, page)
    last_two = grid.sets(_last_two)
    by_time = grid.sets(lambda key: key.endswith(_BY_TIME))
    more = {
        "What the moment of a request adds": features_table(study, page),
        "New items": cold_table(study, page),
    }
    found = {
        "short": short(grid, last_two),
        "left": left(grid, last_two),
        "curves": curves(grid, last_two),
        "methods": methods(grid, last_two),
        "by-time": methods(grid, by_time),
        "selections": selections(grid, last_two),
        "costs": costs(grid, last_two),
        "content": "\n\n".join(filter(None, (_captioned(study, *one) for one in more.items()))),
    }
    return {f"scale-{mark}": table or "Not measured yet." for mark, table in found.items()}


def _captioned(study: Study, caption: str, table: TableView | None) -> str:
    """A table under a caption in place of the study's title."""
    if table is None:
        return ""
    _, _, rest = markdown_table(study, table).strip().partition("\n\n")
    return f"**{caption}**\n\n{rest}"


MARKS = ("short", "left", "curves", "methods", "by-time", "selections", "costs", "content")
DOCS = {
    NAME: Docs(
        studies=(NAME,),
        marks={f"scale-{mark}": PAGE for mark in MARKS},
        tables=tables,
        pictures=pictures,
    )
}


def main() -> None:
    """Run the study, report."""
    study_command(__doc__, DOCS, lambda workdir, raw: raw, lambda studies, name: studies / name)


if __name__ == "__main__":
    main()
