"""What a factorization holds of the interactions on each rank, in bytes.

The solver's choice of where tables lie (`factor_tables.partitions`) and `plan` count by it. On CPU
the other side's row of an interaction is no part of it: it is read from D_full's mapped columns
(`data/columns.py`), whose pages all processes of a machine share.
"""

from __future__ import annotations

from dataclasses import dataclass

from cadc_rec.config.experiment import PretrainConfig
from cadc_rec.pretrain.column_blocks import columns_at_once

_FLOAT = 4


@dataclass(frozen=True)
class HeldRows:
    """Of one rank.

    Attributes:
        kept: from the beginning to the end.
        training: at most while it trains, `kept` included.
    """

    kept: int
    training: int


def held_rows(
    config: PretrainConfig,
    interactions: int,
    sizes: tuple[int, int],
    world_size: int,
    on_gpu: bool,
) -> HeldRows:
    """Of matrix factorization or ALS.

    Args:
        config: the model, its width, its loss and negatives.
        interactions: of D_full.
        sizes: users and items.
        world_size: ranks that share them.
        on_gpu: whether they lie in a GPU's memory.
    """
    entries = interactions // world_size
    index = 4 if entries < 2**31 else 8
    columns = 2 * entries * index if on_gpu or index == 8 else 0  # in both orders
    ordered = entries * index if not on_gpu and _in_blocks(config, interactions, sizes) else 0
    if config.model == "als":
        # Values and confidences of both orders; two arrays of products while a side is solved.
        kept = columns + 2 * entries * 2 * _FLOAT + ordered
        # In blocks, values and confidences are held twice while they are ordered.
        return HeldRows(kept, kept + 2 * entries * _FLOAT)
    if config.loss == "softmax":
        kept = columns + 2 * entries * _FLOAT  # a one for each interaction, in both orders
        return HeldRows(kept, kept)
    # A kernel on CUDA draws the negatives itself, but where the rows to fetch must be known; and
    # those of the items want the users of all ranks' interactions (`alternating.py`).
    drawn = 0 if on_gpu and world_size == 1 else entries * config.negatives * index
    return HeldRows(columns, columns + drawn + ordered * max(1, config.negatives))


def _in_blocks(config: PretrainConfig, interactions: int, sizes: tuple[int, int]) -> bool:
    """Whether a half-step orders its entries by blocks of the other side."""
    row_bytes = (config.factors + 1) * _FLOAT
    return any(
        columns_at_once(interactions, rows, columns, row_bytes) < columns
        for rows, columns in (sizes, sizes[::-1])
    )
