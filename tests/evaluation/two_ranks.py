"""Run as the ranks of a job: ``two_ranks.py OUT`` ranks and counts, rank 0 writes what came out."""

import json
import sys
from pathlib import Path

import torch

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from cadc_rec.evaluation.sharded import ranks_by_share
from cadc_rec.evaluation.top_items import TopItems
from tests.evaluation.close_scores import close_world

if __name__ == "__main__":
    users, items, targets, excluded = close_world(9)
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=60)) as joined:
        share = joined.share(len(users))
        top = TopItems((3, 10), len(items))
        ranks = ranks_by_share(
            torch.from_numpy(users[share.start : share.stop]),
            torch.from_numpy(items),
            targets,
            excluded,
            joined,
            top=top,
        )
        found = {"counts": [of_k.tolist() for of_k in top.of_ks().values()]}
        if joined.rank == 0:
            Path(sys.argv[1]).write_text(json.dumps(found | {"ranks": ranks.tolist()}))
