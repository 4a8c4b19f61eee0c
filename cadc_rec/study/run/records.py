"""The record of a cell: everything the report needs, so that it does not need the artifacts."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cadc_rec import strict_json
from cadc_rec.machine import available_cores, memory_bytes, processor_name
from cadc_rec.store.artifact import read_manifest
from cadc_rec.study.run.grid import Cell

SCHEMA_VERSION = 1


def cell_digest(cell: Cell) -> str:
    """Digest of all settings that decide a cell's result: a changed config is run again."""
    settings = cell.experiment.model_dump(mode="json", exclude={"tracking", "update"})
    text = strict_json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


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
        "digest": cell_digest(cell),
        "config": cell.experiment.model_dump(mode="json"),
    }


def record_done(cell: Cell, result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A finished cell.

    Args:
        cell: the cell.
        result: what ``cadc-rec run --json`` printed.
        folder: the study's; its ``ranks/`` receives a copy of the cell's ranks.
    """
    manifests = {stage: read_manifest(Path(path)) for stage, path in result["artifacts"].items()}
    measured = [manifests[stage] for stage in ("pretrain", "train") if stage in manifests]
    validation = sum(float(m["info"].get("validation_seconds", 0.0)) for m in measured)
    last = measured[-1]
    info = last["info"]
    ranks = folder / "ranks" / f"{cell.id}.parquet"
    ranks.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(result["artifacts"]["evaluate"]) / "ranks.parquet", ranks)
    return {
        "schema_version": SCHEMA_VERSION,
        **cell.to_dict(),
        "status": "done",
        "error": None,
        "digest": cell_digest(cell),
        "metrics": result["metrics"],
        "validation": result["validation"],
        **{name: result[name] for name in ("validation_sample",) if name in result},
        "seconds": {**result["seconds"], "validation": validation},
        "rows": result["rows"],
        "users": manifests["evaluate"]["info"]["users"],
        "items": manifests["evaluate"]["info"]["items"],
        "split": result["split"],
        "interactions_per_second": info.get("positives_per_second", last["rows_per_second"]),
        "peak_memory_bytes": max(m["peak_memory_bytes"] for m in measured),
        "best_epoch": info.get("best_epoch"),
        "history": info["history"],
        "ranks": f"ranks/{ranks.name}",
        "artifacts": result["artifacts"],
        "config": cell.experiment.model_dump(mode="json"),
        "versions": result["versions"],
        "machine": {
            "cpu": processor_name(),
            "cores": available_cores(),
            "memory_bytes": memory_bytes(),
            "device": info.get("device", "cpu"),
            "threads": cell.experiment.compute.threads or available_cores(),
        },
    }
