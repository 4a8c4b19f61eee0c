"""Run as the ranks of a job, ``rank_worker.py DATASET OUT KIND...``: selects each into OUT/KIND.

What the manifest is told goes to ``OUT/KIND-RANK.json``.
"""

import json
import sys
from pathlib import Path

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.data.select import blocks
from cadc_rec.distributed.processes import processes
from tests.data.select.test_select_by_ranks import select_into

if __name__ == "__main__":
    dataset, out, *kinds = sys.argv[1:]
    blocks.BLOCK_ROWS = 64
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=60)) as joined:
        for kind in kinds:
            info = select_into(Path(dataset), Path(out) / kind, kind, joined)
            (Path(out) / f"{kind}-{joined.rank}.json").write_text(json.dumps(info))
