"""The report of an update as lines for a person; its JSON is `update.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_COUNTS = (
    ("interactions", "new interactions"),
    ("duplicates", "known already, dropped"),
    ("rejected", "not as declared, left out"),
    ("below_min_rating", "below min_rating, left out"),
    ("below_k_core", "of too rare new users or items, left out"),
    ("older_than_newest", "older than the newest known"),
    ("new_users", "new users"),
    ("new_items", "new items"),
    ("renewed_users", "known users with attributes told anew"),
    ("renewed_items", "known items with attributes told anew"),
)


def day_lines(counts: Mapping[str, int]) -> Iterator[str]:
    """What became of a day's rows; zeros are left out, but for the new interactions."""
    for name, words in _COUNTS:
        if counts.get(name) or name == "interactions":
            yield f"{counts.get(name, 0):>12,}  {words}"


def update_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The whole report."""
    yield f"update {report['number']}"
    yield from day_lines(report["day"])
    for name, words in (("tables", "pre-trained"), ("vectors", "served")):
        for side, drift in report[name].items():
            yield from _drift_lines(f"{words} {side} vectors", drift)
    shift = report["popularity"]
    yield (
        f"popularity: total variation {shift['total_variation']:.3f} between new and old "
        f"training rows; {shift['top_100_kept']:.0%} of the top 100 stay there"
    )
    yield f"test, before the day: {_metrics(report['metrics_before'])}"
    yield f"test, with the day:   {_metrics(report['metrics'])}"
    held_out = report["new_held_out"]
    if held_out is not None:
        yield f"{held_out['users']:,} known users with a new test item:"
        yield f"  by the vectors before: {_metrics(held_out['before'])}"
        yield f"  by those of now:       {_metrics(held_out['after'])} ({held_out['verdict']})"
    yield f"seconds: {sum(report['seconds'].values()):,.1f} in all stages"
    if report["rebuilt"]:
        yield f"All stages were made anew: {report['rebuilt']}."
    elif report["rebuild"]:
        yield f"A full rebuild is advisable: {'; '.join(report['rebuild'])}."
    else:
        yield "No full rebuild is needed yet."


def _drift_lines(name: str, drift: Mapping[str, Mapping[str, float] | None]) -> Iterator[str]:
    for rows, words in (("changed", "with changed interactions"), ("unchanged", "others")):
        found = drift[rows]
        if found is not None:
            yield (
                f"{name}, {found['rows']:,} {words}: cosine {found['cosine']:.3f}, moved by "
                f"{found['relative_change']:.1%}"
            )


def _metrics(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name.upper()} {100 * value:.2f}%" for name, value in metrics.items())
