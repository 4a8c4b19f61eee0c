"""The size of a selection: how many rows, how many shards, and how many rows in each.

In: the select section, the number of rows of D_full, how many processes will read. No row is looked
at.
"""

from __future__ import annotations

from cadc_rec.config.experiment import SelectConfig

LEAST_SHARDS = 8
"""Fewest shards of a selection whose number is not configured."""


def with_shards(select: SelectConfig, total: int, readers: int) -> SelectConfig:
    """`select` with its number of shards, where the configuration leaves it open.

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


def shard_sizes(rows: int, shards: int) -> list[int]:
    """Rows of each shard: sizes differ by at most one, the larger ones first."""
    return [rows // shards + (shard < rows % shards) for shard in range(shards)]


def shard_count(rows: int, readers: int, rows_per_shard: int) -> int:
    """How many shards suit `rows` and the processes that read them.

    At least `LEAST_SHARDS`, so that a job of another size finds enough of them; as many as keep
    each within `rows_per_shard`; a multiple of `readers`, so that all read equally much.
    """
    enough = max(LEAST_SHARDS, -(-rows // rows_per_shard))
    return -(-enough // readers) * readers
