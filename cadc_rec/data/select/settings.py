"""What a selection is asked for: how many rows, how many shards, which settings decide it.

In: the select section, the size of D_full, who will read. Out: numbers and settings; no row is
looked at.
"""

from __future__ import annotations

from typing import Any

from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data.select.shard_writer import shard_count


def selection_settings(select: SelectConfig, seed: int, history: int = 0) -> dict[str, Any]:
    """The settings that decide what `select.build_selection` writes; see `with_shards`."""
    told = {"history": history} if history else {}
    if select.kind == "everything":  # neither ratio nor seed has a say
        return {"kind": select.kind, "shards": select.shards, **told}
    unused = {"rows_per_shard"}
    if select.kind != "recency-weighted":
        unused.add("half_life")
    if select.kind != "time-stratified":
        unused.add("periods")
    return {**select.model_dump(mode="json", exclude=unused), "seed": seed, **told}


def with_shards(select: SelectConfig, total: int, readers: int) -> SelectConfig:
    """`select` with its number of shards, where that is left to us.

    Args:
        select: whose ``shards`` may be 0.
        total: rows of D_full.
        readers: processes that will read the shards.
    """
    if select.shards:
        return select
    shards = shard_count(wanted_rows(select, total), readers, select.rows_per_shard)
    return select.model_copy(update={"shards": shards})


def needs_vectors(select: SelectConfig) -> bool:
    """Whether the selection depends on pre-trained vectors."""
    return select.kind == "hard"


def wanted_rows(select: SelectConfig, total: int) -> int:
    """The exact number of rows that `select` takes of `total`."""
    return total if select.kind == "everything" else selected_rows(total, select.ratio)


def selected_rows(total: int, ratio: float) -> int:
    """The exact number of rows a filtering ratio keeps: at least one."""
    return max(1, round(total / ratio))
