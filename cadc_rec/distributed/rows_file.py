"""A table that is dealt to the ranks by rows, written as one safetensors file.

In: each rank's share of the rows. Out: the file, on rank 0, to the byte what `safetensors` itself
writes of the whole table, which no process has to hold: rank 0 writes its rows, then receives and
writes the others' in pieces.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
import torch.distributed as dist

from cadc_rec.distributed.processes import Processes

_PIECE = 2**26  # bytes of rows sent at once
_ALIGNMENT = 8  # of the tensor's first byte, as the format has it


def write_rows(file: Path, name: str, local: torch.Tensor, n: int, processes: Processes) -> None:
    """Write the table as float32. Every rank must call; rank 0 writes.

    Args:
        file: where to, on rank 0.
        name: of the one tensor in it.
        local: ``[share, d]``, rows ``processes.share(n)``.
        n: rows of the whole table.
        processes: the ranks.
    """
    width = local.shape[1]
    step = max(1, _PIECE // (4 * max(1, width)))
    mine = (local[at : at + step].detach().float().cpu() for at in range(0, len(local), step))
    if processes.rank:
        for piece in mine:
            dist.send(piece.contiguous(), dst=0)
        return
    with file.open("wb") as out:
        out.write(_header(name, n, width))
        for piece in mine:
            out.write(piece.contiguous().numpy().data)
        for rank in range(1, processes.world_size):
            rows = len(processes.share_of(rank, n))
            for at in range(0, rows, step):
                piece = torch.empty(min(step, rows - at), width)
                dist.recv(piece, src=rank)
                out.write(piece.numpy().data)


def _header(name: str, n: int, width: int) -> bytes:
    """The length and the JSON that come before the rows."""
    entry = {"dtype": "F32", "shape": [n, width], "data_offsets": [0, 4 * n * width]}
    text = json.dumps({name: entry}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
