"""Run as the ranks of a job: trains every case twice, with ids sent ahead and without.

``ahead.py OUT ids:sharding[:rows,rows] ...``
"""

import json
import sys
from pathlib import Path

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from tests.distributed import toy

if __name__ == "__main__":
    out, *cases = sys.argv[1:]
    results = {}
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=60)) as joined:
        for case in cases:
            ids, kind, *rows = case.split(":")
            shares = [int(n) for n in rows[0].split(",")] if rows else None
            results[case] = [
                toy.train(ids, kind, joined, shares, ahead=ahead) for ahead in (False, True)
            ]
        if joined.rank == 0:
            Path(out).write_text(json.dumps(results))
