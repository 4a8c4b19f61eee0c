"""What a selection is asked for: how many rows, how many shards.

In: the select section, the size of D_full, who will read. Out: numbers; no row is looked at.
"""

from __future__ import annotations

from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data.streams import shard_count


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


def wanted_rows(select: SelectConfig, total: int) -> int:
    """The exact number of rows that `select` takes of `total`."""
    return total if select.kind == "everything" else selected_rows(total, select.ratio)


def selected_rows(total: int, ratio: float) -> int:
    """The exact number of rows a filtering ratio keeps: at least one."""
    return max(1, round(total / ratio))
