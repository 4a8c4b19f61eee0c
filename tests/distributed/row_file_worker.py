"""Run as the ranks of a job: writes files of all ranks' rows, and notes what each rank had of them.

``row_file_worker.py OUT FOLDER``: in ``FOLDER/shared`` files that all write to, in
``FOLDER/0`` and so on the slices of each rank.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed import row_files
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.row_files import Target, write_joined, write_rows
from cadc_rec.distributed.state import gather_state, write_state
from cadc_rec.training.build import build_model
from tests.distributed import toy

ROWS, WIDTH = 23, 3
KINDS = ("table_wise", "column_wise", "data_parallel")


class Noted:
    """Bytes of rows that this rank wrote to files, and was sent by others."""

    def __init__(self):
        self.written, self.received, self.largest = 0, 0, 0
        of_piece, receive = row_files._bytes_of, dist.irecv

        def bytes_of(piece):
            found = of_piece(piece)
            self.written += found.nbytes
            self.largest = max(self.largest, found.nbytes)
            return found

        def irecv(tensor, src):
            self.received += tensor.nbytes
            return receive(tensor, src=src)

        def refuse(*_, **__):
            raise AssertionError("rows are sent another way")

        row_files._bytes_of, dist.irecv = bytes_of, irecv
        for name in ("send", "recv", "all_to_all_single", "all_gather_into_tensor", "gather"):
            setattr(dist, name, refuse)

    def since(self):
        found = {"written": self.written, "received": self.received, "largest": self.largest}
        self.written = self.received = self.largest = 0
        return found


def table():
    return torch.arange(ROWS * WIDTH, dtype=torch.float32).view(ROWS, WIDTH)


def of_lists(rank):
    """A rank's part of three tensors of different types; rank 1 has nothing of one."""
    return {
        "indptr": torch.arange(3 + rank),
        "items": torch.arange(5 * (rank != 1), dtype=torch.int32) + 10 * rank,
        "weights": torch.full((2, 2), float(rank)),
    }


def writers(joined):
    """Name, what writes a file of this name, and the tensors that are to be in it (rank 0)."""
    share = joined.share(ROWS)
    mine = table()[share.start : share.stop].clone()
    yield "rows", lambda to: write_rows(to, "weight", mine, ROWS, joined), {"weight": table()}
    parts = [of_lists(rank) for rank in range(joined.world_size)]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    yield "joined", lambda to: write_joined(to, of_lists(joined.rank), joined), whole
    for kind in KINDS:
        given = toy.experiment("trainable", kind), toy.dataset(), toy.pretrained("trainable")
        model = build_model(*given, joined)

        def write(to, model=model):
            write_state(to, model.wrapped, joined, model.trains, piece=5 * 4 * toy.DIM)

        yield kind, write, gather_state(model.wrapped, joined, model.trains)


if __name__ == "__main__":
    out, folder = Path(sys.argv[1]), Path(sys.argv[2])
    results = {}
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=60)) as joined:
        every = list(writers(joined))
        own = folder / str(joined.rank)
        own.mkdir()
        noted = Noted()
        for name, write, whole in every:
            write(Target(folder / "shared" / name))
            results[name] = joined.all_gather(noted.since())
            write(Target(own / name, sliced=True))
            noted.since()
            if joined.rank == 0:
                (folder / "wanted" / name).write_bytes(save(whole))
        if joined.rank == 0:
            out.write_text(json.dumps(results))
