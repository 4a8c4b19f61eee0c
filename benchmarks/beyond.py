"""What a newcomer gets, and the recipe beyond the paper: two studies, and their tables in the docs.

    python -m benchmarks.beyond --workdir work           # an hour; goes on where it was stopped
    python -m benchmarks.beyond --workdir work --docs    # what is measured, into docs/accuracy.md
    python -m benchmarks.beyond --study defaults ...     # the same of what a newcomer gets

In: ``configs/study/beyond.toml`` or ``defaults.toml``. Out: ``WORKDIR/studies/NAME`` and a page;
that of ``beyond`` is over all studies of the work folder, so gold on Epinions is compared with
where `benchmarks.paper` was run there too. With ``--docs`` nothing is run: what has been measured
is recorded (`benchmarks.recorded`), and the tables of the page are made from it.
"""

from __future__ import annotations

from collections.abc import Collection

from benchmarks.recorded.docs import Docs
from benchmarks.study_command import study_command
from cadc_rec.evaluation.statistics import Comparison
from cadc_rec.study.report import formatting
from cadc_rec.study.report.groups import Comparisons, Group, label
from cadc_rec.study.report.kept import paired_difference
from cadc_rec.study.report.many import corrected
from cadc_rec.study.report.markdown import markdown_table
from cadc_rec.study.report.paper import METRICS
from cadc_rec.study.report.study_data import Contender, Study
from cadc_rec.study.report.tables import study_table

BEYOND, DEFAULTS = "beyond", "defaults"
PAGE = "docs/accuracy.md"
AS_TRAINED = "as-trained"
"""The variant that keeps its towers whatever they add: other variants of its share do, too."""


def beyond_tables(page: Comparisons) -> dict[str, str]:
    """All methods beyond the paper, and what their parts are worth; Markdown by mark."""
    study = next(study for study in page.studies if study.name == BEYOND)
    return {BEYOND: grid(study, page), "parts": parts(study, page)}


def defaults_tables(page: Comparisons) -> dict[str, str]:
    """What a newcomer gets; Markdown by mark."""
    return {DEFAULTS: grid(page.studies[0], page)}


def grid(study: Study, page: Comparisons) -> str:
    """A study's first table in Markdown."""
    return markdown_table(study, study_table(study, page)).strip()


def parts(study: Study, comparisons: Comparisons) -> str:
    """What each variant, and the towers at all, are worth: Markdown, a row a comparison."""
    lines = [
        "| dataset | what | against | HR@10 | 95% | NDCG@10 | 95% |",
        "|---|---|---|---|---|---|---|",
    ]
    groups, named = [group for group in comparisons.groups(study) if group.done], []
    trained = {(g.dataset, g.contender) for g in groups if g.contender.variant == AS_TRAINED}
    for group in groups:
        for other in groups:
            if other.dataset == group.dataset and _is_base(other, group, trained):
                title = group.cells[0].dataset_title
                names = [label(study, g.contender) for g in (group, other)]
                row = [title, *names]
                for metric in METRICS:
                    compared = comparisons.compare(group, other, metric)
                    assert compared is not None
                    row += _texts(compared, group, other, metric)
                    what = f"{names[0]}, {metric.upper()} against {names[1]}, {title}"
                    named.append((what, compared))
                lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, *(f"\n{note}" for note in corrected(named))])


def _is_base(other: Group, group: Group, trained: Collection[tuple[str, Contender]]) -> bool:
    """Whether `group` is to be seen beside `other`: a variant's plain form, or no towers.

    The plain form of variants that keep their towers is the one that is `trained`, if it is there.
    """
    mine, theirs = group.contender, other.contender
    if not mine.variant:
        return mine.method == "recipe" and theirs.method == "prior"
    kept = mine._replace(variant=AS_TRAINED)
    if mine != kept and (group.dataset, kept) in trained:
        return theirs == kept
    return theirs == mine._replace(variant="")


def _texts(compared: Comparison, group: Group, other: Group, metric: str) -> tuple[str, str]:
    """The difference in percent, and the paired bootstrap's interval and verdict."""
    difference = formatting.signed_percent(paired_difference(group, other, metric))
    return difference, f"{formatting.interval(compared)}: {compared.verdict}"


DOCS = {
    BEYOND: Docs(
        studies=(BEYOND,),
        beside=("table1",),
        marks={BEYOND: PAGE, "parts": PAGE},
        tables=beyond_tables,
    ),
    DEFAULTS: Docs(studies=(DEFAULTS,), marks={DEFAULTS: PAGE}, tables=defaults_tables),
}


def main() -> None:
    """Run a study, report."""
    study_command(
        __doc__,
        DOCS,
        lambda workdir, raw: raw,
        lambda studies, name: studies / name if name == DEFAULTS else studies,
    )


if __name__ == "__main__":
    main()
