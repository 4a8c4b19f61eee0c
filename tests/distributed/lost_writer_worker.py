"""Run as two ranks that make an artifact together; rank 1 is killed while it writes its part.

``lost_writer_worker.py WORKDIR WRITER``: WRITER is ``rows``, ``joined``, or ``own`` of a stage that
waits for all ranks' work and asks for nothing else.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed import peers, row_files
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.row_files import Target, write_joined, write_rows
from cadc_rec.store.artifact import run_stage

workdir, writer = Path(sys.argv[1]), sys.argv[2]

# The other rank is dead: no answer of it comes, however long it is waited for.
peers._ANSWER_SECONDS = peers._SEEN_SECONDS = 1.0


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


with processes(ComputeConfig(timeout_seconds=20)) as ranks:
    if ranks.rank == 1:
        row_files.FileOfRanks.write = killed
    part = torch.ones(len(ranks.share(11)), 3)

    def build(draft):
        target = Target(draft.path / "part.safetensors")
        if writer == "rows":
            write_rows(target, "weight", part, 11, ranks)
        elif writer == "joined":
            write_joined(target, {"weight": part}, ranks)
        else:
            (draft.path / f"{ranks.rank}").write_text("here")
            ranks.together(killed if ranks.rank == 1 else lambda: None)

    run_stage(workdir, "evaluate", {}, {}, build, group=ranks)
