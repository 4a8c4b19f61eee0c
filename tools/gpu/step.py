"""A training step: its time, how busy it keeps the GPU, kernels, waits, and what its batch takes.

python -m tools.gpu.step           # CHECK_DEVICE=cpu tries it without a GPU, in small

One JSON line a case. Times are milliseconds a step; `busy` is the GPU's working time over a step's.
`step_ms` is with CUDA graphs, as `compute.graphs = "auto"` trains; `eager_step_ms` is without.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable
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
from cadc_rec.distributed.rows import RowExchange
from cadc_rec.pretrain.id_tables import IdTables, Pretrained
from cadc_rec.training.batches.source import HostBatches
from cadc_rec.training.build import build_model
from cadc_rec.training.reading import make_loader
from cadc_rec.training.steps.ahead import AheadSteps, SideStream
from cadc_rec.training.steps.graph import GraphSteps
from cadc_rec.training.steps.runner import EagerSteps, StepRunner, step_runner
from cadc_rec.training.tables import dense_optimizer
from cadc_rec.training.trainer import Trainer
from cadc_rec.training.training_state import TrainingState
from tools.gpu.checks import Checks, device

STEPS, WARM_UP = 20, 4


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

    def taken(steps: Any, take: Callable[[Any], torch.Tensor] = trainer.step) -> float:
        """Milliseconds a step of an epoch."""
        wait()
        started = time.perf_counter()
        count = 0
        for given in steps:
            state.loss += take(given)
            state.average.update()
            count += 1
        wait()
        return 1e3 * (time.perf_counter() - started) / count

    def epochs(runner: StepRunner) -> float:
        """Milliseconds a step, after a warm-up that records it, if steps are recorded."""
        taken(islice(runner.inputs(1), WARM_UP), runner.take)
        return taken(runner.inputs(2), runner.take)

    state.loss = torch.zeros((), device=on.device)
    fused = any(kind.startswith("fused") for kind in state.optimizers().values())
    runner = step_runner("auto", trainer.batches, trainer.step, on, fused)
    told: dict[str, Any] = {"case": case.name, "step_ms": epochs(runner)}
    told["graph"] = isinstance(runner, GraphSteps) and runner.possible
    told["positives_per_second"] = round(1e3 * case.batch / told["step_ms"])
    told["eager_step_ms"] = epochs(EagerSteps(trainer.batches, trainer.step))
    told["host_batches_step_ms"] = taken(HostBatches(loader, on.device).epoch(2))
    ready = list(islice(trainer.batches.epoch(3), STEPS))
    told["batch_ready_step_ms"] = taken(ready)
    started = time.perf_counter()
    for batch in ready:
        state.loss += trainer.step(batch)
        state.average.update()
    told["issued_ms"] = 1e3 * (time.perf_counter() - started) / len(ready)
    if cuda:
        told |= of_gpu(trainer, state, ready[:4])
        told["busy"] = told["gpu_ms"] / told["step_ms"]
    shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in told.items()}
    print(json.dumps(shown), flush=True)
    return f"{told['positives_per_second']:,} positives/s"


def fetched_ahead(case: Case, on: Processes) -> str:
    """Frozen rows through a group of their own on a second stream, against rows at hand."""
    if on.device.type != "cuda":
        return "a CPU has no second stream"
    losses, times = [], []
    for ahead in (False, True):
        trainer, state, _ = made(case, on)
        runner: StepRunner = EagerSteps(trainer.batches, trainer.step)
        if ahead:
            module: Any = trainer.model.module
            group = on.device_group()
            for table in module.frozen_tables().values():
                whole, table.replica = table.replica, None
                table.exchange = RowExchange(whole, [0], len(whole), 0, group)
            beside = SideStream(on.device)
            runner = AheadSteps(trainer.batches, trainer.step, module.frozen_reads, beside)
        state.loss = torch.zeros((), device=on.device)
        for epoch in (1, 2):  # the first one warms up
            torch.cuda.synchronize()
            started = time.perf_counter()
            for given in runner.inputs(epoch):
                state.loss += runner.take(given)
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started) / STEPS)
        losses.append(float(state.loss))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    return f"{times[1]:.2f} ms a step, {times[0]:.2f} with rows at hand"


def of_gpu(trainer: Trainer, state: TrainingState, batches: list[Any]) -> dict[str, Any]:
    """The GPU's working time, its kernels, and what waits for it."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for batch in batches:
            state.loss += trainer.step(batch)
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
        state.loss += trainer.step(batches[0])
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
        checks.run("frozen rows a step ahead", lambda: fetched_ahead(CASES[0], mine))
    checks.end()


if __name__ == "__main__":
    main()
