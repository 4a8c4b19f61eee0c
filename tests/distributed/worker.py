"""Run as the ranks of a job: does what the command line lists; rank 0 writes the results.

``worker.py OUT ids:sharding[:rows,rows] ...``: a training each. ``twice/`` before one trains
without ids sent ahead and then with them; the word ``pretraining`` is all of `toy.pretraining`, and
``columns`` its matrix alone.
"""

import json
import sys
from pathlib import Path

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from tests.distributed import toy

TWICE = "twice/"


def trained(case, joined):
    ids, kind, *rows = case.removeprefix(TWICE).split(":")
    shares = [int(n) for n in rows[0].split(",")] if rows else None
    if case.startswith(TWICE):
        return [toy.train(ids, kind, joined, shares, ahead=ahead) for ahead in (False, True)]
    return toy.train(ids, kind, joined, shares)


if __name__ == "__main__":
    out, *cases = sys.argv[1:]
    results = {}
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=60)) as joined:
        for case in cases:
            if case == "pretraining":
                results |= toy.pretraining(joined)
            elif case == "columns":
                results[case] = toy.columns(joined)
            else:
                results[case] = trained(case, joined)
        if joined.rank == 0:
            Path(out).write_text(json.dumps(results))
