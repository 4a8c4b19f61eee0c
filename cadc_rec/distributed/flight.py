"""What a rank's collectives did last, kept when one of them waited in vain.

In: torch's flight recorder, a ring of the last collectives in memory. Out: a JSON file beside the
rank's log: each collective with its size and when it was asked for; the last one waited in vain.
NCCL's watchdog writes a file of its own where a collective on a GPU timed out; gloo writes none.
"""

from __future__ import annotations

from pathlib import Path

import torch

from cadc_rec.distributed.peers import Loss, loss_in

_DUMPS = {"gloo": "_dump_fr_trace_json", "nccl": "_dump_nccl_trace_json"}


def keep_flight_record(error: Exception, folder: Path, rank: int) -> None:
    """Write the records, if `error` is of a collective that timed out, and note that in it.

    Args:
        error: that ends this rank; what is noted becomes a part of the sentence of all ranks.
        folder: of the rank's log.
        rank: this rank.
    """
    if loss_in(error) is not Loss.SILENT:
        return
    for backend, name in _DUMPS.items():
        dump = getattr(torch._C._distributed_c10d, name, None)
        record: bytes = dump() if dump is not None else b""
        if b'"op_id"' not in record:  # no collective of this backend
            continue
        file = folder / f"flight-recorder-{backend}-rank-{rank:05d}.json"
        try:
            file.write_bytes(record)
        except OSError:  # the disk is full, or has gone: the sentence is worth more
            continue
        error.add_note(f"What rank {rank} exchanged last is in {file}.")
