"""Run as the ranks of a job, of which rank 1 is slow: ``interval_worker.py OUT``."""

import dataclasses
import functools
import json
import sys
import time
from pathlib import Path

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from cadc_rec.training.intervals import Meter
from tests.distributed import toy

SLOW_SECONDS = 0.05


class Told:
    def __init__(self):
        self.epochs = []

    def interval(self, mine):
        pass

    def epoch(self, of_ranks, slowest):
        plain = [[dataclasses.asdict(each) for each in mine] for mine in of_ranks]
        self.epochs.append([plain, slowest])


if __name__ == "__main__":
    (out,) = sys.argv[1:]
    results = {}
    real = toy.Trainer
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=60)) as joined:
        for case, ahead in (("init_frozen:data_parallel", False), ("trainable:table_wise", True)):
            ids, kind = case.split(":")
            told = Told()

            def slow(step):
                if joined.rank == 1:
                    time.sleep(SLOW_SECONDS)

            def metered(model, *given, told=told, **named):
                meter = Meter(3600.0, model, joined, told)
                return real(model, *given, **named, meter=meter, before_step=slow)

            toy.Trainer = functools.partial(metered)
            loss = toy.train(ids, kind, joined, ahead=ahead or None)["loss"]
            steps = [sum(each["steps"] for each in of_ranks[0]) for of_ranks, _ in told.epochs]
            parts = [
                sum(each["loss"] for mine in of_ranks for each in mine)
                for of_ranks, _ in told.epochs
            ]
            by_rank = [part / count for part, count in zip(parts, steps, strict=True)]
            results[case] = {"told": told.epochs, "loss": loss, "loss_by_rank": by_rank}
        if joined.rank == 0:
            Path(out).write_text(json.dumps(results))
