"""Run as the ranks of a job: steps of pre-training with an MLP, each batch dealt to the ranks.

``neural_worker.py OUT rows,rows ...``: each word says how many rows of a batch each rank takes.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from cadc_rec.config.experiment import ComputeConfig, TrainConfig
from cadc_rec.data.load.pair_batches import arrange_pairs
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.trained_rows import averaging
from cadc_rec.pretrain.factorizations import NeuralFactorization
from cadc_rec.training.losses import make_objective
from cadc_rec.training.steps.step import Step

USERS, ITEMS, WIDTH, HIDDEN = 13, 17, 8, (8, 4)
ROWS, NEGATIVES, STEPS = 40, 3, 6
RATE, DECAY, STD = 0.01, 0.02, 0.5


def drawn(step):
    """Users and items of a batch's positives, and the negatives of each."""
    rng = np.random.default_rng(step)
    sizes = ((USERS, ROWS), (ITEMS, ROWS), (ITEMS, (ROWS, NEGATIVES)))
    return [rng.integers(0, n, size).astype(np.int32) for n, size in sizes]


def trained(joined, shares):
    """The losses, whole tables and the MLP after the steps, and the rows that each rank held."""
    torch.manual_seed(0)
    model = NeuralFactorization(USERS, ITEMS, WIDTH, HIDDEN, joined)
    model.initialize(0, STD)
    before = {side: whole(table, joined) for side, table in tables(model).items()}
    start = {k: v.tolist() for k, v in model.state_dict().items() if not k.endswith("s.weight")}
    wrapped = averaging(model, joined)
    adam = torch.optim.Adam(wrapped.parameters(), lr=RATE, weight_decay=DECAY)
    step = Step(wrapped, adam, make_objective(TrainConfig(negatives=NEGATIVES)), joined)
    first = sum(shares[: joined.rank])
    mine = slice(first, first + shares[joined.rank])
    losses = []
    for number in range(STEPS):
        who, what, others = (each[mine] for each in drawn(number))
        batch = arrange_pairs(who, what, others, ITEMS, ROWS).each(torch.from_numpy)
        losses.append(float(joined.all_reduce_sum(step(batch))))
    return {
        "before": before,
        "start": start,
        "losses": losses,
        "after": {side: whole(table, joined) for side, table in tables(model).items()},
        "first": model.of_user.weight.tolist(),
        "held": joined.all_gather([len(table.weight) for table in tables(model).values()]),
    }


def tables(model):
    return {"user": model.users, "item": model.items}


def whole(table, joined):
    return joined.all_gather_rows(table.weight.detach(), table.bounds[-1]).tolist()


if __name__ == "__main__":
    out, *cases = sys.argv[1:]
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=60)) as joined:
        results = {case: trained(joined, [int(rows) for rows in case.split(",")]) for case in cases}
        if joined.rank == 0:
            Path(out).write_text(json.dumps(results))
