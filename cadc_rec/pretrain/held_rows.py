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
    sides = 0 if on_gpu else sides_in_blocks(config, interactions, sizes)
    if config.model == "als":
        # Values and confidences of both orders; two arrays of products while a side is solved.
        kept = columns + 2 * entries * 2 * _FLOAT + sides * entries * index
        # While entries are ordered there are the unordered ones, too, and what those were made of.
        arrays = 4 if sides else 2
        return HeldRows(kept, kept + arrays * entries * _FLOAT)
    if config.loss == "softmax":
        kept = columns + 2 * entries * _FLOAT  # a one for each interaction, in both orders
        return HeldRows(kept, kept)
    # A kernel on CUDA draws the negatives itself, but where the rows to fetch must be known; and
    # those of the items want the users of all ranks' interactions (`alternating.py`).
    drawn = 0 if on_gpu and world_size == 1 else entries * config.negatives * index
    ordered = entries * max(1, config.negatives) * index if sides else 0  # one side's at a time
    return HeldRows(columns, columns + drawn + ordered)


def sides_in_blocks(config: PretrainConfig, interactions: int, sizes: tuple[int, int]) -> int:
    """How many sides' half-steps order their entries by blocks of the other side, on CPU.

    Args:
        config: the model, its width and negatives.
        interactions: of D_full.
        sizes: users and items.
    """
    entries = interactions * (max(1, config.negatives) if config.model == "mf" else 1)
    row_bytes = (config.factors + 1) * _FLOAT
    return sum(
        columns_at_once(entries, rows, columns, row_bytes) < columns
        for rows, columns in (sizes, sizes[::-1])
    )
