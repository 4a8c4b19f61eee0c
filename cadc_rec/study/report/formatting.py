"""Numbers of a study as the text that the page and the Markdown tables show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from cadc_rec.evaluation.statistics import LEVEL, Comparison, Interval, Spread
from cadc_rec.study.report.groups import Group
from cadc_rec.study.report.study_data import Rows

STATUS = {
    "done": "done",
    "failed": "failed",
    "unavailable": "not available",
    "missing": "not run yet",
}
STAGE_TITLES = {
    "pretrain": "pre-training",
    "select": "selection",
    "train": "training",
    "validation": "validation",
}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def minus(text: str) -> str:
    """The text of a number with a minus sign in place of a hyphen."""
    return text.replace("-", "−")


def spread(value: Spread) -> str:
    """Mean and deviation, such as ``6.90 ± 0.09``."""
    deviation = "" if value.deviation is None else f" ± {value.deviation:.2f}"
    return f"{value.mean:.2f}{deviation}"


def signed_percent(value: float | None, digits: int = 1) -> str:
    """Such as ``+1.2%``; a dash for None."""
    return "–" if value is None else minus(f"{value:+.{digits}f}%")


def seconds(value: float) -> str:
    """Seconds to about three digits."""
    if value < 0.05:
        return "0"
    return f"{value:,.1f}" if value < 9.95 else f"{value:,.0f}"


def time_sum(pretrain: float, rest: float) -> str:
    """Such as ``18+136``; only the second without pre-training."""
    return f"{seconds(pretrain)}+{seconds(rest)}" if pretrain else seconds(rest)


def seeds_done(group: Group) -> str:
    """How many of the wanted seeds there are."""
    return f"{len(group.done)} of {len(group.cells)}"


def errors(group: Group) -> str:
    """Why cells have no results, each reason once."""
    reasons = dict.fromkeys(
        f"{STATUS[cell.status]}: {cell.error or 'no reason given'}"
        for cell in group.cells
        if cell.status in ("failed", "unavailable")
    )
    return "\n".join(reasons)


def metric_tip(group: Group, metric: str, theirs: str) -> str:
    """Every seed's value, and the paper's."""
    lines = [
        f"seed {cell.seed}: {100 * cell.metrics[metric]:.2f}%"
        for cell in group.done
        if cell.metrics and metric in cell.metrics
    ]
    if theirs:
        lines.append(f"paper: {theirs}%")
    return "\n".join([metric.upper(), *lines, *filter(None, [errors(group)])])


def interval(compared: Comparison) -> str:
    """The interval that decides the verdict: in percent where there is one, else in points."""
    if compared.relative_interval is not None:
        return _ends(compared.relative_interval, "%")
    return points(compared)


def points(compared: Comparison) -> str:
    """The interval in percentage points."""
    return _ends(_percent(compared.interval), " points", digits=2)


def comparison_tip(
    metric: str, reference: str, compared: Comparison | None, seeds: Sequence[int]
) -> str:
    """Both intervals, and the users and seeds they are computed from."""
    if compared is None:
        return f"{metric.upper()} against {reference}: no seed of both has ranks to compare"
    points = minus(f"{100 * compared.difference:+.2f}")
    lines = [
        f"{metric.upper()} against {reference}: {compared.verdict}",
        f"{points} points, {LEVEL:.0%} interval {_ends(_percent(compared.interval), '', 2)}",
    ]
    if compared.relative_interval is not None:
        ends = _ends(compared.relative_interval, "%")
        lines.append(f"{signed_percent(compared.relative)}, {LEVEL:.0%} interval {ends}")
    of = "seed " if len(seeds) == 1 else "mean of seeds "
    lines.append(f"{compared.users:,} users, {of}{', '.join(map(str, seeds))}")
    return "\n".join(lines)


def time_tip(group: Group, parts: Mapping[str, float]) -> str:
    """Seconds of each stage, speed and memory."""
    lines = [f"{STAGE_TITLES[stage]}: {seconds(value)} s" for stage, value in parts.items()]
    lines[-1] += " (not counted)"
    cell = group.done[0]
    if cell.interactions_per_second:
        lines.append(f"{cell.interactions_per_second:,.0f} interactions/s (seed {cell.seed})")
    if cell.peak_memory_bytes:
        lines.append(f"peak memory {memory(cell.peak_memory_bytes)} (seed {cell.seed})")
    return "\n".join(lines)


def rows_tip(group: Group, rows: Rows) -> str:
    """The share of labelled examples."""
    share = f"{rows.selected / rows.train:.1%} of " if rows.train else ""
    done = ", ".join(str(cell.seed) for cell in group.done)
    return f"{share}{rows.train:,} training interactions\nseeds done: {done}"


def memory(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:,.1f} GiB"


def size(value: float) -> str:
    """Bytes to about three digits, such as ``12.3 MiB``."""
    power = min((int(value).bit_length() - 1) // 10, len(_UNITS) - 1) if value >= 1 else 0
    value /= 1024**power
    digits = 0 if not power or value >= 99.95 else 1
    return f"{value:,.{digits}f} {_UNITS[power]}"


def dollars(value: float) -> str:
    """Dollars and cents, or three digits of less than a dollar, such as ``0.00123``."""
    return f"{value:,.2f}" if value >= 1 else f"{Decimal(f'{value:.3g}'):f}"


def _percent(ends: Interval) -> Interval:
    return 100 * ends[0], 100 * ends[1]


def _ends(ends: Interval, unit: str, digits: int = 1) -> str:
    low, high = (minus(f"{end:+.{digits}f}") for end in ends)
    return f"{low} to {high}{unit}"
