"""Frozen vectors of a rank's own users, fetched from the ranks that hold them once.

A sharded table sends its rows over the network in every step. A frozen one sends the same rows
every epoch, and D_sel has few users on any one rank: so each rank asks for the rows of its own
examples before training and keeps them while they fit. Where they do not, they are sent step by
step: the same bits, more time.
"""

from __future__ import annotations

import numpy as np
import torch

from cadc_rec.distributed.processes import Processes
from cadc_rec.models.id_embedding import FrozenIds

_CHUNK = 65_536  # rows asked for at once


def keep_frozen_rows(
    table: object, ids: np.ndarray, processes: Processes, limit_bytes: int
) -> bool:
    """Let training read this rank's rows of a sharded frozen table from its own memory.

    All ranks must call; all keep their rows or none does, for a sharded table answers when all ask.

    Args:
        table: another kind than `FrozenIds`, or one whose rows are here already, is left alone.
        ids: all that this rank's training will look up; repetitions are no matter.
        processes: the ranks.
        limit_bytes: what the rows of the rank with most of them may take.

    Returns:
        Whether the rows are kept.
    """
    if not isinstance(table, FrozenIds) or table.replica is not None or processes.world_size == 1:
        return False
    mine = torch.from_numpy(np.unique(ids).astype(np.int64)).to(processes.device)
    most = processes.most(len(mine))
    kept = [table.lookup(mine[:0])]
    if 4 * most * kept[0].shape[1] > limit_bytes:
        return False
    kept += [table.lookup(mine[at : at + _CHUNK]) for at in range(0, most, _CHUNK)]
    table.keep(mine, torch.cat(kept))
    return True
