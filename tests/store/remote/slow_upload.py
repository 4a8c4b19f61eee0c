"""Run as the ranks of a job: uploads and downloads that take longer than a collective may."""

import sys
from pathlib import Path

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from cadc_rec.store.artifact import run_stage
from cadc_rec.store.remote.origin import work_folder

if __name__ == "__main__":
    address, megabytes, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=5)) as joined:

        def build(draft):
            if joined.rank == 0:
                (draft.path / "model.bin").write_bytes(bytes(megabytes << 20))

        made = run_stage(work_folder(address), "train", {}, {}, build, group=joined)
        sizes = joined.all_gather((made.path / "model.bin").stat().st_size)
        if joined.rank == 0:
            out.write_text(str(sizes))
