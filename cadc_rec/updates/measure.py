"""The report of an update: one JSON object from the artifacts before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.store.artifact import Artifact
from cadc_rec.updates.changes import Changes
from cadc_rec.updates.drift import (
    SIDES,
    held_out_before_and_after,
    popularity_shift,
    reasons_to_rebuild,
    served_vectors,
    vector_drift,
)


@dataclass(frozen=True)
class State:
    """All artifacts of one moment, and the dataset among them."""

    artifacts: Mapping[str, Artifact]
    dataset: Dataset


def update_report(
    experiment: Experiment,
    number: int,
    before: State,
    after: State,
    changes: Changes,
    full: Mapping[str, Artifact],
    since: int,
    rebuilt: str,
) -> dict[str, Any]:
    """What a day did.

    Args:
        experiment: the limits of ``[update]`` and the cut-offs.
        number: of the update.
        before: the state that it started from.
        after: the one it made.
        changes: between the two.
        full: the artifacts of the last full build before it.
        since: interactions of the updates between that and this one.
        rebuilt: why all stages were made anew; empty where they were carried on.

    Returns:
        JSON values; docs/updates.md describes them.
    """
    old, new = before.artifacts, after.artifacts
    counts = new["prepare"].info["update"]
    had = sum(int(full["prepare"].info[part]) for part in ("train", "val", "test"))
    share = 0.0 if rebuilt else (since + int(counts["interactions"])) / had
    held_out = held_out_before_and_after(
        before.dataset, after.dataset, old["evaluate"], new["evaluate"], experiment.evaluate.k
    )
    # Vectors that were learned anew lie in a space of their own; no cosine would say anything.
    tables = {} if rebuilt or "pretrain" not in new else _tables(old, new, changes)
    since_full = {} if rebuilt else _served(full, new, changes)
    came = after.dataset.train_item[changes.came]
    return {
        "number": number,
        "day": dict(counts),
        "rebuilt": rebuilt,
        "tables": tables,
        "vectors": {} if rebuilt else _served(old, new, changes),
        "vectors_since_full_build": since_full,
        "popularity": popularity_shift(before.dataset.train_item, came, after.dataset.n_items),
        "metrics_before": old["evaluate"].info["test"],
        "metrics": new["evaluate"].info["test"],
        "new_held_out": held_out,
        "new_share_since_full_build": share,
        "rebuild": []
        if rebuilt
        else reasons_to_rebuild(experiment.update, share, since_full, held_out),
        "seconds": {stage: made.seconds for stage, made in new.items()},
    }


def _tables(
    old: Mapping[str, Artifact], new: Mapping[str, Artifact], changes: Changes
) -> dict[str, Any]:
    """How the pre-trained vectors moved."""
    was, now = IdTables.open(old["pretrain"]), IdTables.open(new["pretrain"])
    return {
        side: vector_drift(getattr(was, side), getattr(now, side), getattr(changes, f"{side}s"))
        for side in SIDES
    }


def _served(
    old: Mapping[str, Artifact], new: Mapping[str, Artifact], changes: Changes
) -> dict[str, Any]:
    """How the vectors that rank moved."""
    return {
        side: vector_drift(
            served_vectors(old["evaluate"], side),
            served_vectors(new["evaluate"], side),
            getattr(changes, f"{side}s"),
        )
        for side in SIDES
    }
