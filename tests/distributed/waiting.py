"""Run as the ranks of a job: rank 0 works longer alone than a collective may take."""

import sys
import time
from pathlib import Path

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes

if __name__ == "__main__":
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=3)) as joined:
        joined.by_chief(lambda: time.sleep(8))
        every = joined.all_gather(joined.rank)
        if joined.rank == 0:
            Path(sys.argv[1]).write_text(str(every))
