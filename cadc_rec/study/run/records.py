"""The record of a cell: everything the report needs, so that it does not need the artifacts."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cadc_rec.machine import available_cores, memory_bytes, processor_name
from cadc_rec.pipeline.summary import OPTIONAL
from cadc_rec.store.artifact import read_manifest
from cadc_rec.store.costs import of_stages
from cadc_rec.study.run.grid import Cell
from cadc_rec.versions import code_commit

SCHEMA_VERSION = 1
COLD_RANKS = "cold_ranks.parquet"
_LEARNING = ("pretrain", "train")
_NO_PART_OF_TIME = ("prepare", "evaluate")


def record_undone(cell: Cell, status: str, error: str) -> dict[str, Any]:
    """The record of a cell that gave no result.

    Args:
        cell: the cell.
        status: ``failed`` or ``unavailable``.
        error: the sentence a person reads.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        **cell.to_dict(),
        "status": status,
        "error": error,
        "digest": cell.digest,
        "config": cell.experiment.model_dump(mode="json"),
        "commit": code_commit(),
    }


def record_done(
    cell: Cell, result: Mapping[str, Any], folder: Path, commit: str | None = None
) -> dict[str, Any]:
    """A finished cell.

    Args:
        cell: the cell.
        result: what ``cadc-rec run --json`` printed.
        folder: the study's; its ``ranks/`` receives a copy of the cell's ranks.
        commit: of the code when the cell was begun; None takes that of now.
    """
    manifests = {stage: read_manifest(Path(path)) for stage, path in result["artifacts"].items()}
    ranks = folder / "ranks" / f"{cell.id}.parquet"
    ranks.parent.mkdir(parents=True, exist_ok=True)
    evaluation = Path(result["artifacts"]["evaluate"])
    with _whole(ranks) as draft:
        shutil.copyfile(evaluation / "ranks.parquet", draft)
    of_cold = {}
    if (evaluation / COLD_RANKS).exists():
        of_cold["cold_ranks"] = f"ranks/{cell.id}.cold.parquet"
        _copy_cold_ranks(evaluation, folder / of_cold["cold_ranks"])
    device = _last(manifests)["info"].get("device", "cpu")
    return {
        "schema_version": SCHEMA_VERSION,
        **cell.to_dict(),
        "status": "done",
        "error": None,
        "digest": cell.digest,
        **measured(result, manifests),
        "ranks": f"ranks/{ranks.name}",
        **of_cold,
        "config": cell.experiment.model_dump(mode="json"),
        "commit": commit or code_commit(),
        "machine": {
            "cpu": processor_name(),
            "cores": available_cores(),
            "memory_bytes": memory_bytes(),
            "device": device,
            "threads": cell.experiment.compute.threads or available_cores(),
        },
    }


def _copy_cold_ranks(evaluation: Path, to: Path) -> None:
    """Ranks of cold items by the users' own ids: another dataset numbers users otherwise."""
    table = pq.read_table(evaluation / COLD_RANKS)
    ids = pq.read_table(evaluation / "user_ids.parquet")["user_id"]
    place = table.schema.get_field_index("user")
    with _whole(to) as draft:
        pq.write_table(table.set_column(place, "user_id", ids.take(table["user"])), draft)


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A file to write in place of another, which stays as it is until this one is whole."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield draft
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def measured(
    result: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What a record says of a cell's results.

    Args:
        result: as `cadc_rec.pipeline.summary.run_result` gives it.
        manifests: of its artifacts, by stage.
    """
    learned = [manifests[stage] for stage in _LEARNING if stage in manifests]
    validation = sum(float(m["info"].get("validation_seconds", 0.0)) for m in learned)
    last = _last(manifests)
    # Of artifacts that were made before costs were measured, empty.
    costs = {stage: manifest.get("costs", {}) for stage, manifest in manifests.items()}
    return {
        "metrics": result["metrics"],
        "validation": result["validation"],
        **{name: result[name] for name in OPTIONAL if name in result},
        "seconds": {**result["seconds"], "validation": validation},
        "cpu_seconds": _cpu_seconds(result["seconds"], manifests),
        "costs": {**costs, "all": of_stages(costs.values())},
        "rows": result["rows"],
        "users": manifests["evaluate"]["info"]["users"],
        "items": manifests["evaluate"]["info"]["items"],
        "split": result["split"],
        "interactions_per_second": last["info"].get(
            "positives_per_second", last["rows_per_second"]
        ),
        "peak_memory_bytes": max(m["peak_memory_bytes"] for m in learned),
        "best_epoch": last["info"].get("best_epoch"),
        "history": last["info"].get("history", []),
        "artifacts": result["artifacts"],
        "versions": result["versions"],
    }


def _cpu_seconds(
    stages: Collection[str], manifests: Mapping[str, Mapping[str, Any]]
) -> dict[str, float] | None:
    """CPU seconds by stage, and of them those in validation.

    None where a stage was made before they were measured, or by several ranks, of which each knows
    its own validation alone.
    """
    found = {
        stage: manifest.get("costs", {})
        for stage, manifest in manifests.items()
        if stage not in _NO_PART_OF_TIME or "cpu_seconds" in manifest.get("costs", {})
    }
    counted = [of for stage, of in found.items() if stage not in _NO_PART_OF_TIME]
    if any(of.get("ranks") != 1 or "cpu_seconds" not in of for of in counted):
        return None
    learned = [manifests[stage]["info"] for stage in _LEARNING if stage in manifests]
    if any("validation_cpu_seconds" not in info for info in learned if info["validation_seconds"]):
        return None
    validation = sum(float(info.get("validation_cpu_seconds", 0.0)) for info in learned)
    seconds = {stage: float(of["cpu_seconds"]) for stage, of in found.items()}
    return {**dict.fromkeys(stages, 0.0), **seconds, "validation": validation}


def _last(manifests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The manifest of the stage that learned what is served."""
    return [manifests[stage] for stage in _LEARNING if stage in manifests][-1]
