"""The three sentences that answer for one set or many: what to leave out, its cost, its saving.

In: what samples keep (`kept`). Out: sentences. Every number in them is computed from the results.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from cadc_rec.evaluation.statistics import Comparison
from cadc_rec.study.report import formatting
from cadc_rec.study.report.groups import Group, label
from cadc_rec.study.report.kept import ENOUGH, METRIC, Kept, Sample, method_name
from cadc_rec.study.report.paper import UNFILTERED

_NAMED = 4  # sets that a sentence names
# A sample with histories may take more of them than all interactions without.
_OF_BYTES = "of the bytes that all training interactions take"


@dataclass(frozen=True)
class Sentence:
    """One of the three sentences, and the word that leads it."""

    lead: str
    text: str


def sentences_of_one(one: Kept) -> tuple[Sentence, ...]:
    """Left out, cost and saving on one set."""
    best = one.shown
    whole = name(one.everything)
    values = [group.metric(METRIC, best.seeds) for group in (best.group, one.everything)]
    mine, theirs = (formatting.spread(value) for value in values if value is not None)
    reached = f"{mine}% against {theirs}%{of_interval(best)}"
    if one.least is None:
        out = (
            f"On {one.title}, the largest measured share of the labelled examples does not keep "
            f"{ENOUGH:.0f}% of the {METRIC.upper()} that {whole} reaches on all, on validation; "
            f"the nearest, {one.method} on "
            f"{_part(best)} ({_counts(best)}), keeps {best.kept:.1f}% on test: {reached}."
        )
    else:
        out = (
            f"On {one.title}, {one.method} keeps {best.kept:.1f}% of the {METRIC.upper()} that "
            f"{whole} reaches, on {_part(best)} of the labelled examples ({_counts(best)}), the "
            f"smallest measured share that keeps {ENOUGH:.0f}% on validation, as all larger ones "
            f"do: {reached}."
        )
    before, also = (g.seconds() or {} for g in (best.group, one.everything))
    cost = f"{_cost(best.kept)}; {_told(best.compared)}"
    if before.get("pretrain") and not also.get("pretrain"):
        cost += (
            f", and {formatting.seconds(before['pretrain'])} s of pre-training, which reads all "
            "interactions, come before"
        )
    if _without_towers(best):
        cost += (
            "; on validation the tables alone were better than with towers, so they are what is "
            "kept, and no labelled example has a part in it"
        )
        if _tables_alone(one.everything, best.seeds):
            cost += ", nor in what all of them reach"
    saved = f"{_digits(_left_out(best))} of the labelled examples are not needed"
    if best.time is not None:
        times = (f"{formatting.seconds(work(g))} s" for g in (best.group, one.everything))
        saved += ", and all the training takes {} in place of {}".format(*times)
        saved += f" ({_digits(100.0 * best.time)} of the time)"
    size = _bytes(best)
    saved += "" if size is None else f"; the sample has {_digits(100.0 * size)} {_OF_BYTES}"
    return _three(out, f"{cost}.", f"{saved}.")


def sentences_of_many(found: Sequence[Kept]) -> tuple[Sentence, ...]:
    """Left out, cost and saving over several sets."""
    having = [one for one in found if one.least is not None]
    others = [one for one in found if one.least is None]
    part = "a measured part of the labelled examples"
    goal = f"{ENOUGH:.0f}% of the {METRIC.upper()} that all of them reach on validation"
    if having:
        of = f"{len(having)} of {len(found)}" if others else f"all {len(found)}"
        out = f"On {of} sets, {part} keeps at least {goal}"
        out += f" (the smallest: {_each(having)})"
        nearest = "the nearest on the others keep"
    else:
        out = f"On none of {len(found)} sets does {part} keep {goal}"
        nearest = "the nearest keep"
    if others:
        reached = _percent(one.shown.kept for one in others)
        out += f"; {nearest} {reached} on test: {_each(others)}"
    best = [one.shown for one in found]
    verdicts = Counter(sample.compared.verdict for sample in best if sample.compared)
    told = ", ".join(
        f"{verdict} on {count} set{'s' if count > 1 else ''}"
        for verdict, count in verdicts.most_common()
    )
    losses = (100.0 - sample.kept for sample in best)
    cost = f"There, the loss of {METRIC.upper()} is {_percent(losses)} in the median set"
    if told:
        cost += f"; the verdict over the tested users: {told}"
    bare = [one.title for one in found if _without_towers(one.shown)]
    if bare:
        named = f" ({'; '.join(bare)})" if len(bare) <= _NAMED else ""
        cost += (
            f"; on {len(bare)} set{'s' if len(bare) > 1 else ''}{named} the tables alone were "
            "better on validation than with towers, so no labelled example has a part in what is "
            "kept"
        )
    saved = f"The median set does without {_percent(map(_left_out, best))} of its labelled examples"
    times = [100.0 * sample.time for sample in best if sample.time is not None]
    saved += f", and its training takes {_percent(times)} of the time" if times else ""
    sizes = [100.0 * size for size in map(_bytes, best) if size is not None]
    saved += f"; the sample has {_percent(sizes)} {_OF_BYTES}" if sizes else ""
    return _three(f"{out}.", f"{cost}.", f"{saved}.")


def _three(*texts: str) -> tuple[Sentence, ...]:
    leads = ("What can be left out", "What it costs", "What it saves")
    return tuple(Sentence(lead, text) for lead, text in zip(leads, texts, strict=True))


def name(group: Group) -> str:
    """As the tables call it; what has a ratio, but takes everything, by its method."""
    if group.ratio == 1 and group.method not in UNFILTERED:
        return f"{method_name(group)} on everything"
    return label(group.study, group.contender)


def _each(found: Sequence[Kept]) -> str:
    """What is shown of a few sets, such as ``MovieLens 1M: CADC, 1/50``; of many, the range."""
    if len(found) > _NAMED:
        ratios = [one.shown.group.ratio for one in found]
        ends = dict.fromkeys(f"1/{ratio:g}" for ratio in (max(ratios), min(ratios)))
        return f"shares of {' to '.join(ends)}"
    return "; ".join(f"{one.title}: {one.method}, 1/{one.shown.group.ratio:g}" for one in found)


def _part(sample: Sample) -> str:
    return f"1/{sample.group.ratio:g}"


def _counts(sample: Sample) -> str:
    rows = sample.group.done[0].rows
    assert rows is not None
    return f"{rows.selected:,} of {rows.train:,}"


def _left_out(sample: Sample) -> float:
    return 100.0 - sample.share


def of_interval(sample: Sample) -> str:
    """The interval of what is kept, in brackets; empty without one."""
    ends = sample.interval
    return "" if ends is None else f" (95% interval {ends[0]:.1f}% to {ends[1]:.1f}%)"


def _cost(kept_percent: float) -> str:
    if kept_percent >= 100.0:
        return f"It costs no accuracy ({kept_percent - 100.0:.1f}% more {METRIC.upper()})"
    return f"It costs {100.0 - kept_percent:.1f}% of the {METRIC.upper()}"


def _told(compared: Comparison | None) -> str:
    if compared is None:
        return "no ranks of both are kept to compare"
    if compared.verdict == "cannot tell":
        return f"the {compared.users:,} tested users cannot tell the two apart"
    return f"by the {compared.users:,} tested users it is {compared.verdict}"


def work(group: Group) -> float:
    """Seconds without validation, as the tables have them."""
    return sum(value for stage, value in (group.seconds() or {}).items() if stage != "validation")


def _without_towers(sample: Sample) -> bool:
    """Whether every seed kept its tables and dropped the towers that the sample had trained."""
    return _tables_alone(sample.group, sample.seeds)


def _tables_alone(group: Group, seeds: Container[int]) -> bool:
    return all(cell.kept == "tables" for cell in group.done if cell.seed in seeds)


def _percent(values: Iterable[float]) -> str:
    """Median and range of percentages, such as ``90% (50% to 99%)``; without a range for one."""
    found = list(values)
    texts = [_digits(value) for value in (statistics.median(found), min(found), max(found))]
    return texts[0] if len(found) == 1 else "{} ({} to {})".format(*texts)


def _digits(percent: float) -> str:
    """A percentage to a tenth, and to a hundredth where nearly all is meant."""
    if 99.0 < percent < 100.0:
        return f"{percent:.2f}%"
    return formatting.minus(f"{percent:.1f}%" if abs(percent) < 99.95 else f"{percent:.0f}%")


def _bytes(sample: Sample) -> float | None:
    """Bytes of the sample over those of everything."""
    rows = sample.group.done[0].rows
    assert rows is not None
    return rows.bytes / rows.bytes_of if rows.bytes and rows.bytes_of else None
