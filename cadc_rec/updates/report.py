"""The report of an update: one JSON object from the artifacts before and after, and its lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.config.experiment import UpdateConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.store.artifact import Artifact
from cadc_rec.updates.changes import SIDES, Changes, reused_rows
from cadc_rec.updates.drift import (
    held_out_before_and_after,
    popularity_shift,
    reasons_to_rebuild,
    vector_drift,
)
from cadc_rec.updates.progressive import progressive_lines
from cadc_rec.updates.served import served_vectors

_COUNTS = (
    ("interactions", "new interactions"),
    ("forgotten_users", "users forgotten"),
    ("forgotten_items", "items forgotten"),
    ("forgotten_interactions", "interactions forgotten"),
    ("forgotten_unknown", "ids to forget that nobody had"),
    ("of_forgotten", "of users or items that were forgotten, left out"),
    ("duplicates", "known already, dropped"),
    ("rejected", "not as declared, left out"),
    ("below_min_rating", "below min_rating, left out"),
    ("below_k_core", "of new users or items with too few partners, left out"),
    ("user_rows_without_interactions", "rows of the users' table that meet no interaction"),
    ("interactions_without_user_row", "interactions of users whom nothing describes"),
    ("item_rows_without_interactions", "rows of the items' table that meet no interaction"),
    ("interactions_without_item_row", "interactions of items that nothing describes"),
    ("without_row", "of users or items without a row, left out"),
    ("evicted_users", "users who gave up their rows"),
    ("evicted_items", "items that gave up their rows"),
    ("evicted_interactions", "earlier interactions that left with them"),
    ("older_than_newest", "older than the newest known"),
    ("new_users", "new users"),
    ("new_items", "new items"),
    ("renewed_users", "known users with changed attributes"),
    ("renewed_items", "known items with changed attributes"),
    ("new_values", "attribute values that nobody had before"),
)


@dataclass(frozen=True)
class State:
    """The artifacts before or after an update, and the dataset among them."""

    artifacts: Mapping[str, Artifact]
    dataset: Dataset


def update_report(
    config: UpdateConfig,
    ks: Sequence[int],
    number: int,
    before: State,
    after: State,
    changes: Changes,
    full: Mapping[str, Artifact],
    full_dataset: Dataset | None,
    since: int,
    rebuilt: str,
    ranked: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """What a day did.

    Args:
        config: the limits beyond which a full rebuild is advised.
        ks: cut-offs of the metrics.
        number: of the update.
        before: the state that it started from.
        after: the one it made.
        changes: between the two.
        full: the artifacts of the last full build before it.
        full_dataset: its dataset; None where it was pruned: it is then not compared with.
        since: interactions of the updates between that and this one.
        rebuilt: why all stages were made anew; empty where they were carried on.
        ranked: users whose test items the evaluation ranked; None is all.

    Returns:
        JSON values; docs/updates.md describes them.
    """
    old, new = before.artifacts, after.artifacts
    counts = new["prepare"].info["update"]
    had = sum(int(full["prepare"].info[part]) for part in ("train", "val", "test"))
    share = 0.0 if rebuilt else (since + int(counts["interactions"])) / had
    held_out = held_out_before_and_after(
        before.dataset, after.dataset, old, new["evaluate"], ks, changes.reused, ranked
    )
    # Vectors learned anew lie in a space of their own: a cosine to the old ones means nothing.
    tables = {} if rebuilt or "pretrain" not in new else _tables(old, new, changes)
    since_full = {}
    if not rebuilt and full_dataset is not None:
        reused = {side: reused_rows(full_dataset, after.dataset, side) for side in SIDES}
        since_full = _served(full, new, changes, reused)
    came = after.dataset.train_item[changes.came]
    return {
        "number": number,
        "day": dict(counts),
        "rebuilt": rebuilt,
        "tables": tables,
        "vectors": {} if rebuilt else _served(old, new, changes, changes.reused),
        "vectors_since_full_build": since_full,
        "popularity": popularity_shift(
            before.dataset.train_item, came, after.dataset.n_items, changes.reused.get("item")
        ),
        "metrics_before": old["evaluate"].info["test"],
        "metrics": new["evaluate"].info["test"],
        "new_held_out": held_out,
        "new_share_since_full_build": share,
        "rebuild": [] if rebuilt else reasons_to_rebuild(config, share, since_full, held_out),
        "seconds": {stage: made.seconds for stage, made in new.items()},
    }


def _tables(
    old: Mapping[str, Artifact], new: Mapping[str, Artifact], changes: Changes
) -> dict[str, Any]:
    """How the pre-trained vectors moved."""
    was, now = IdTables.open(old["pretrain"]), IdTables.open(new["pretrain"])
    return {
        side: vector_drift(
            getattr(was, side),
            getattr(now, side),
            getattr(changes, f"{side}s"),
            changes.reused.get(side),
        )
        for side in SIDES
    }


def _served(
    old: Mapping[str, Artifact],
    new: Mapping[str, Artifact],
    changes: Changes,
    reused: Mapping[Side, NDArray[np.int64]],
) -> dict[str, Any]:
    """How the vectors that rank moved; empty where they cannot be compared.

    What is kept may have come to be the towers, or the tables alone (``model.keep = "better"``).
    """
    if old["evaluate"].info.get("kept") != new["evaluate"].info.get("kept"):
        return {}
    pairs = {side: [served_vectors(of["evaluate"], side) for of in (old, new)] for side in SIDES}
    if any(was.shape[1] != now.shape[1] for was, now in pairs.values()):
        return {}
    return {
        side: vector_drift(was, now, getattr(changes, f"{side}s"), reused.get(side))
        for side, (was, now) in pairs.items()
    }


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
        f"popularity: total variation {shift['total_variation']:.3f} between the new and the "
        "earlier training rows (0: the same, 1: nothing in common); "
        f"{shift['top_100_kept']:.0%} of the 100 most popular items are still among the 100"
    )
    yield f"test, before the day: {_metrics(report['metrics_before'])}"
    yield f"test, with the day:   {_metrics(report['metrics'])}"
    yield from progressive_lines(report)
    held_out = report["new_held_out"]
    if held_out is not None:
        yield f"{held_out['users']:,} known users with a new test item:"
        yield f"  with the vectors before the update: {_metrics(held_out['before'])}"
        verdict = f"({held_out['verdict']})"
        yield f"  with the new vectors:               {_metrics(held_out['after'])} {verdict}"
    yield f"seconds: {sum(report['seconds'].values()):,.1f} in all stages"
    if report["rebuilt"]:
        yield f"All stages were made from the start: {report['rebuilt']}."
    elif report["rebuild"]:
        yield f"A full rebuild is advisable: {'; '.join(report['rebuild'])}."
    else:
        yield "No full rebuild is needed yet."


def _drift_lines(name: str, drift: Mapping[str, Mapping[str, float] | None]) -> Iterator[str]:
    for rows, words in (("changed", "with changed interactions"), ("unchanged", "others")):
        found = drift[rows]
        if found is not None:
            yield (
                f"{name}, {found['rows']:,} {words}: cosine {found['cosine']:.3f}, "
                f"mean change {found['relative_change']:.1%} of the length"
            )


def _metrics(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name.upper()} {100 * value:.2f}%" for name, value in metrics.items())
