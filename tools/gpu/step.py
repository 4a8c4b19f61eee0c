"""A training step: its time, how busy it keeps the GPU, kernels, waits, and what its batch takes.

python -m tools.gpu.step           # CHECK_DEVICE=cpu tries it without a GPU, in small

One JSON line a case. Times are milliseconds a step; `busy` is the GPU's working time over a step's.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from dataclasses import dataclass, replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from cadc_rec.config.experiment import Experiment
from cadc_rec.config.running import ComputeConfig
from cadc_rec.data.dataset import Attribute
from cadc_rec.data.load.shards import Examples
from cadc_rec.distributed.processes import Processes, processes
from cadc_rec.pretrain.id_tables import IdTables, Pretrained
from cadc_rec.training.batches.source import HostBatches
from cadc_rec.training.build import build_model
from cadc_rec.training.reading import make_loader
from cadc_rec.training.tables import dense_optimizer
from cadc_rec.training.trainer import Trainer
from cadc_rec.training.training_state import TrainingState
from tools.gpu.checks import Checks, device

STEPS, WARM_UP = 20, 3


@dataclass(frozen=True)
class Case:
    """A model, its tables and its steps."""

    name: str
    batch: int = 65_536
    users: int = 500_000
    items: int = 50_000
    tower: tuple[int, ...] = (128, 64)
    ids: str = "init_frozen"
    precision: str = "float32"
    matmul: str = "float32"
    attributes: bool = True

    def shrunk(self, by: int) -> Case:
        """The same for a machine without a GPU."""
        users, items = self.users // by, self.items // by
        return replace(self, batch=self.batch // by, users=users, items=items)


CASES = (
    Case("cadc, 8,192", batch=8_192),
    Case("cadc, 65,536"),
    Case("cadc, 65,536, no attributes", attributes=False),
    Case("cadc, 65,536, 2M items", items=2_000_000),
    Case("cadc, 65,536, 512-256-128", tower=(512, 256, 128)),
    Case("cadc, 65,536, 512-256-128, tf32", tower=(512, 256, 128), matmul="tf32"),
    Case("cadc, 65,536, 512-256-128, bfloat16", tower=(512, 256, 128), precision="bfloat16"),
    Case("gold, 65,536: ids are learned", ids="trainable"),
)


def attributes_of(count: int, draw: np.random.Generator, multi: bool) -> list[Attribute]:
    """Three categories of users; or the genres of items, one to three of each."""
    if multi:
        indptr = np.concatenate([[0], np.cumsum(draw.integers(1, 4, count))])
        values = draw.integers(1, 20, indptr[-1], dtype=np.int32)
        return [Attribute("genres", "multi", 20, indptr, values)]
    every = np.arange(count + 1)
    return [
        Attribute(f"a{n}", "categorical", 32, every, draw.integers(1, 32, count, dtype=np.int32))
        for n in range(3)
    ]


def made(case: Case, on: Processes) -> tuple[Trainer, TrainingState, Any]:
    """A trainer of this case on random rows, its state, and its loader."""
    draw = np.random.default_rng(0)
    none: list[Attribute] = []
    dataset: Any = SimpleNamespace(
        n_users=case.users,
        n_items=case.items,
        user_attributes=attributes_of(case.users, draw, False) if case.attributes else none,
        item_attributes=attributes_of(case.items, draw, True) if case.attributes else none,
        user_dense=[],
        item_dense=[],
    )
    learned = case.ids == "trainable"
    experiment = Experiment.model_validate(
        {
            "pretrain": {"model": "none" if learned else "mf", "factors": 95},
            "model": {"id_embedding": case.ids, "id_dim": 96, "tower": case.tower},
            "train": {
                "epochs": 3,
                "batch_size": case.batch,
                "negatives": 4,
                "precision": case.precision,
            },
            "compute": {"matmul": case.matmul},
        }
    )
    given = Pretrained()
    if not learned:
        given = Pretrained(IdTables(torch.randn(case.users, 96), torch.randn(case.items, 96)))
    model = build_model(experiment, dataset, given, on)
    rows = STEPS * case.batch
    examples = Examples(
        draw.integers(0, case.users, rows).astype(np.int32),
        (case.items * draw.random(rows) ** 2).astype(np.int32),
        None,
    )
    loader = make_loader(experiment.train, examples, [rows], 0, case.items, 0, None)
    optimizer = dense_optimizer(model.wrapped, model.module, experiment.train)
    trainer = Trainer(
        model.wrapped,
        optimizer,
        loader,
        experiment.train,
        on,
        model.trains,
        matmul=experiment.compute.matmul,
    )
    state = TrainingState(model.wrapped, optimizer, model.trains, on, horizon=10.0)
    model.wrapped.train()
    return trainer, state, loader


def measured(case: Case, on: Processes) -> str:
    """One line about a case."""
    cuda = on.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    trainer, state, loader = made(case, on)

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    def taken(batches: Any) -> float:
        """Milliseconds a step of an epoch."""
        wait()
        started = time.perf_counter()
        count = 0
        for batch in batches:
            state.loss += trainer._step(batch)
            state.average.update()
            count += 1
        wait()
        return 1e3 * (time.perf_counter() - started) / count

    state.loss = torch.zeros((), device=on.device)
    taken(islice(trainer.batches.epoch(1), WARM_UP))
    told: dict[str, Any] = {"case": case.name, "step_ms": taken(trainer.batches.epoch(2))}
    told["positives_per_second"] = round(1e3 * case.batch / told["step_ms"])
    told["host_batches_step_ms"] = taken(HostBatches(loader, on.device).epoch(2))
    ready = list(islice(trainer.batches.epoch(3), STEPS))
    told["batch_ready_step_ms"] = taken(ready)
    started = time.perf_counter()
    for batch in ready:
        state.loss += trainer._step(batch)
        state.average.update()
    told["issued_ms"] = 1e3 * (time.perf_counter() - started) / len(ready)
    if cuda:
        told |= of_gpu(trainer, state, ready[:4])
        told["busy"] = told["gpu_ms"] / told["step_ms"]
    shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in told.items()}
    print(json.dumps(shown), flush=True)
    return f"{told['positives_per_second']:,} positives/s"


def of_gpu(trainer: Trainer, state: TrainingState, batches: list[Any]) -> dict[str, Any]:
    """The GPU's working time, its kernels, and what waits for it."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for batch in batches:
            state.loss += trainer._step(batch)
            state.average.update()
        torch.cuda.synchronize()
    kernels = [event for event in profiled.events() if "CUDA" in str(event.device_type)]
    by_name: dict[str, float] = {}
    for kernel in kernels:
        name = kernel.name[:60]
        by_name[name] = by_name.get(name, 0.0) + kernel.device_time / 1e3 / len(batches)
    longest = sorted(by_name.items(), key=lambda each: -each[1])[:8]
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        state.loss += trainer._step(batches[0])
        state.average.update()
    torch.cuda.set_sync_debug_mode("default")
    return {
        "gpu_ms": sum(by_name.values()),
        "kernels": len(kernels) / len(batches),
        "waits": sum("synchroniz" in str(each.message) for each in seen),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "longest": {name: round(each, 3) for name, each in longest},
    }


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    on, checks = device(), Checks()
    with processes(ComputeConfig(device=on.type)) as mine:  # type: ignore[arg-type]
        for case in CASES if on.type == "cuda" else [case.shrunk(100) for case in CASES]:

            def check(case: Case = case) -> str:
                return measured(case, mine)

            checks.run(case.name, check)
    checks.end()


if __name__ == "__main__":
    main()
