"""Run as the ranks of a job: trains with whole frozen tables and with runs of their rows.

``exchange_worker.py OUT ids[:cached] ...``
"""

import contextlib
import json
import sys
from collections import Counter
from pathlib import Path

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed import rows
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.rows import RowExchange
from cadc_rec.models.id_embedding import FrozenIds
from cadc_rec.training import trainer
from cadc_rec.training.batches.source import DeviceBatches
from cadc_rec.training.build import build_model
from cadc_rec.training.steps import runner
from tests.distributed import toy


class Inline:
    """Stands in for a second stream."""

    def __init__(self, device):
        self.marked = False

    def mark(self):
        self.marked = True

    @contextlib.contextmanager
    def fetching(self, ids):
        assert self.marked
        yield
        self.marked = False

    def join(self, rows):
        pass


def in_runs(experiment, dataset, given, joined):
    """The model, its frozen tables' rows dealt out to the ranks in uneven runs."""
    model = build_model(experiment, dataset, given, joined)
    for table in model.module.frozen_tables().values():
        whole, table.replica = table.replica, None
        cuts = [0, len(whole) // 3 + 1, len(whole)]
        mine = whole[cuts[joined.rank] : cuts[joined.rank + 1]].clone()
        table.exchange = RowExchange(mine, cuts[:2], len(whole), joined.rank, joined.device_group())
    return model


if __name__ == "__main__":
    out, *cases = sys.argv[1:]
    results = {}
    trainer.source_on = lambda device, loader, *_: DeviceBatches(loader, device)
    runner.on_gpu, runner.SideStream = lambda device: True, Inline
    toy.noted = lambda arrange, used, first: arrange  # made on the device, it is asked for nothing
    asked, groups = [], []
    fetch, exchange = FrozenIds.fetch, rows._exchanged

    def exchanged(local, ids, bounds, rank, group):
        groups.append(group)
        return exchange(local, ids, bounds, rank, group)

    rows._exchanged = exchanged
    FrozenIds.fetch = lambda table, ids: (
        asked.append((table.name, table.training)),
        fetch(table, ids),
    )[1]
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=60)) as joined:
        for case in cases:
            ids, _, cached = case.partition(":")
            for build in (build_model, in_runs):
                toy.build_model = build
                asked.clear()
                found = toy.train(ids, "data_parallel", joined, cached=not cached)
                results[f"{case} {build.__name__}"] = {
                    **{name: found[name] for name in ("loss", "vectors", "learned", "plan")},
                    "asked": dict(Counter(name for name, training in asked if training)),
                }
        results["groups"] = {
            "exchanges": len(groups),
            "different": len({id(group) for group in groups}),
            "apart": all(group is not joined.group for group in groups),
        }
        if joined.rank == 0:
            Path(out).write_text(json.dumps(results))
