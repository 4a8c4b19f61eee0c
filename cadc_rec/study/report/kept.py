"""What a sample keeps of the accuracy that all labelled examples give, set by set.

In: the studies of a page and their `Comparisons`. Out: a `Curve` a set: the method whose samples
were measured most, at every share, beside the run on everything that it is measured against.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass

from cadc_rec.evaluation.statistics import Comparison, percent_difference
from cadc_rec.study.report.groups import (
    Comparisons,
    Group,
    datasets,
    label,
    same_task,
    time_ratio,
)
from cadc_rec.study.report.paper import METRICS, UNFILTERED, WITHOUT_TOWERS
from cadc_rec.study.report.study_data import Study

ENOUGH = 95.0
"""Percent of the accuracy that a share has to keep for what it leaves out to be dispensable.

The share is chosen by what it keeps on validation, and shown with what it keeps on test.
"""
METRIC = METRICS[0]

# These train otherwise than the gold standard does, so it would not tell what their sample costs.
_ON_EVERYTHING = {"recipe": "recipe-gold", "auto": "recipe-gold"}


@dataclass(frozen=True)
class Sample:
    """A method on a part of the labelled examples.

    Attributes:
        group: its cells.
        share: labelled examples, in percent of all.
        kept: `METRIC` in percent of that of the run on everything, on test, over `paired_seeds`.
        validated: the same on validation; None where that cannot be told.
        compared: with the run on everything, by users; None without ranks of both.
        time: seconds over those of the run on everything; None where they do not compare.
        seeds: `paired_seeds` of both.
    """

    group: Group
    share: float
    kept: float
    validated: float | None
    compared: Comparison | None
    time: float | None
    seeds: frozenset[int]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of `kept` over users."""
        ends = self.compared.relative_interval if self.compared else None
        return (100.0 + ends[0], 100.0 + ends[1]) if ends else None


@dataclass(frozen=True)
class Kept:
    """A set's samples of one method, and what they are measured against.

    Attributes:
        dataset: key of the set.
        title: of the set.
        everything: the run on all labelled examples.
        samples: at least one, the smallest share first.
        by_time: whether it is split by time, which is another task than leave-last-two.
    """

    dataset: str
    title: str
    everything: Group
    samples: tuple[Sample, ...]
    by_time: bool

    @property
    def least(self) -> Sample | None:
        """The smallest share that keeps `ENOUGH` on validation, as all larger measured ones do.

        A small share alone that does is more likely luck. None where the largest does not.
        """
        found = None
        for sample in reversed(self.samples):
            if (sample.validated or 0.0) < ENOUGH:
                break
            found = sample
        return found

    @property
    def shown(self) -> Sample:
        """`least`, or the sample that keeps the most on validation."""
        return self.least or max(self.samples, key=lambda sample: sample.validated or 0.0)

    @property
    def method(self) -> str:
        """The method's name, without a ratio."""
        return method_name(self.samples[0].group)


def method_name(group: Group) -> str:
    """A group's name without its ratio."""
    return label(group.study, group.contender, with_ratio=False)


def kept(comparisons: Comparisons) -> list[Kept]:
    """What samples keep, a set after the other in the order of the studies.

    A set without a sample, or without a run on everything beside it, is left out.

    Raises:
        CadcError: ranks to compare cannot be read, or are of different users.
    """
    titles: dict[str, str] = {}
    for study in comparisons.studies:
        titles |= {key: title for key, title in datasets(study).items() if key not in titles}
    found = [_of_set(dataset, title, comparisons) for dataset, title in titles.items()]
    return [one for one in found if one is not None]


def _of_set(dataset: str, title: str, comparisons: Comparisons) -> Kept | None:
    lines = _lines(dataset, comparisons)
    # What another method reaches on everything tells nothing of what a sample costs: better another
    # line, if there is one.
    wholes = [(line, _everything(line[0], comparisons)) for line in lines]
    wholes += [(line, _gold(line[0], comparisons)) for line in lines]
    for line, everything in wholes:
        reached = everything.metric(METRIC) if everything else None
        if everything is None or reached is None or not reached.mean:
            continue
        samples = [_sample(group, everything, comparisons) for group in line]
        samples.sort(key=lambda sample: sample.share)
        by_time = everything.done[0].config.get("data", {}).get("split") == "time"
        return Kept(dataset, title, everything, tuple(samples), by_time)
    return None


def _lines(dataset: str, comparisons: Comparisons) -> list[list[Group]]:
    """Groups that differ in their ratio alone, the line to show first.

    That is the one of most ratios; of several the most accurate on validation, so that no choice
    looks at the test items. Variants come last: they answer questions of their own.
    """
    found: dict[tuple[int, str, str, str], list[Group]] = defaultdict(list)
    for study in comparisons.studies:
        for group in comparisons.groups(study):
            method, integration, ratio, variant = group.contender
            sampled = method not in UNFILTERED and ratio > 1
            if group.dataset == dataset and sampled and group.done:
                found[id(study), method, integration, variant].append(group)
    return sorted(
        found.values(),
        key=lambda line: (line[0].contender.variant != "", -len(line), -_validated(line)),
    )


def paired_seeds(a: Group, b: Group) -> frozenset[int]:
    """The seeds that both have done, or if there are none those of either."""
    mine, theirs = (frozenset(cell.seed for cell in group.done) for group in (a, b))
    return mine & theirs or mine | theirs


def paired_difference(a: Group, b: Group, metric: str) -> float | None:
    """A's test metric over B's, less one, in percent, over `paired_seeds`; None where B has 0."""
    mine, theirs = (group.metric(metric, paired_seeds(a, b)) for group in (a, b))
    return percent_difference(mine.mean, theirs.mean) if mine and theirs else None


def _validated(line: Sequence[Group]) -> float:
    return statistics.fmean(_validation(group) or 0.0 for group in line)


def _validation(group: Group, seeds: Container[int] | None = None) -> float | None:
    """Mean over the seeds, or over these of them; None where a seed has none."""
    cells = [cell for cell in group.done if seeds is None or cell.seed in seeds]
    values = [(cell.validation or {}).get(METRIC) for cell in cells]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _everything(group: Group, comparisons: Comparisons) -> Group | None:
    """The run on all labelled examples that a sample is measured against."""

    def itself() -> Group | None:
        whole = group.contender._replace(ratio=1.0)
        return comparisons.find(
            group.study, group.dataset, lambda g: g.contender == whole and same_task(g, group)
        )

    own = _ON_EVERYTHING.get(group.method)
    if own is not None:
        return _of_method(own, group, comparisons) or itself()
    baseline = _baseline(group.study)
    found = _of_method(baseline, group, comparisons) if baseline else None
    return found or _gold(group, comparisons) or itself()


def _gold(group: Group, comparisons: Comparisons) -> Group | None:
    return _of_method("gold", group, comparisons)


def _of_method(method: str, like: Group, comparisons: Comparisons) -> Group | None:
    """The one group of a method that has the rows of another group."""
    return comparisons.find(
        like.study, like.dataset, lambda g: g.method == method and same_task(g, like)
    )


def _baseline(study: Study) -> str:
    """What the study compares with, if it is trained on labelled examples: all of them."""
    towers = study.baseline in UNFILTERED and study.baseline not in WITHOUT_TOWERS
    return study.baseline if towers else ""


def _sample(group: Group, everything: Group, comparisons: Comparisons) -> Sample:
    rows = group.done[0].rows
    assert rows is not None
    seeds = paired_seeds(group, everything)
    mine, whole = _validation(group, seeds), _validation(everything, seeds)
    return Sample(
        group,
        100.0 * rows.selected / rows.train if rows.train else 100.0 / group.ratio,
        100.0 + (paired_difference(group, everything, METRIC) or 0.0),
        100.0 * mine / whole if mine is not None and whole else None,
        comparisons.compare(group, everything, METRIC),
        time_ratio(group, everything),
        seeds,
    )
