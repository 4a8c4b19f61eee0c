"""Pre-training by matrix factorization: D_full in, `IdTables` out.

Where tables are replicated, TorchRec holds them, as it holds the two towers' own.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from cadc_rec.config.experiment import PretrainConfig, ShardingConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.distributed.memory import process_memory
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.sharding import shard_model
from cadc_rec.distributed.state import local_tensors
from cadc_rec.log import track
from cadc_rec.pipeline.stages.pretrain_outcome import save_shares, validation_of
from cadc_rec.pretrain.alternating import AlternatingSolver, Interactions
from cadc_rec.pretrain.factor_tables import (
    Extent,
    FactorTable,
    PartitionedTable,
    ReplicatedTable,
    block_rows,
    partitions,
)
from cadc_rec.pretrain.factorizations import MatrixFactorization
from cadc_rec.pretrain.held_rows import held_rows
from cadc_rec.pretrain.id_tables import IdTables, divisor
from cadc_rec.pretrain.softmax import SoftmaxSolver
from cadc_rec.store.artifact import Draft
from cadc_rec.training.checkpoints import Checkpoints, NoCheckpoints, SavedTraining
from cadc_rec.training.factorization_state import FactorizationState


def build_mf_tables(
    config: PretrainConfig,
    seed: int,
    dataset: Dataset,
    processes: Processes,
    draft: Draft,
    sharding: ShardingConfig,
    mf_tables: str,
    saved: Checkpoints | None = None,
) -> None:
    """Train matrix factorization on every training interaction and export its tables.

    Args:
        config: the model and its settings.
        seed: of initial vectors and negatives.
        dataset: D_full.
        processes: the ranks; each solves its share of the rows.
        draft: receives ``user.safetensors`` and ``item.safetensors``.
        sharding: what memory tables may fill.
        mf_tables: ``compute.mf_tables``: how the tables lie on several ranks.
        saved: where training is saved between its epochs, and gone on with.
    """
    data, saved = Interactions.of(dataset), saved or NoCheckpoints()
    user, item, bias = _factor_tables(config, dataset, processes, sharding, mf_tables)
    solver: AlternatingSolver | SoftmaxSolver
    if config.loss == "softmax":
        solver = SoftmaxSolver(user, item, data, config, seed, processes)
    else:
        solver = AlternatingSolver(user, item, bias, data, config, seed, processes)
    state = FactorizationState(solver, processes)
    saved.resume(state)
    history: list[dict[str, Any]] = state.progress.epochs
    done, chief = len(history), processes.rank == 0
    with track("pretrain (MF)", config.epochs, "epochs", visible=chief) as ticker:
        ticker.advance(done)
        for epoch, loss in enumerate(solver.epochs(done), start=done + 1):
            entry: dict[str, Any] = {"epoch": epoch, "loss": loss}
            due = config.evaluate_every and epoch % config.evaluate_every == 0
            if due or epoch == config.epochs:
                started, worked = time.perf_counter(), time.process_time()
                shares = IdTables(user.local, item.local)
                entry.update(validation_of(dataset, shares, processes))
                entry["seconds"] = time.perf_counter() - started
                entry["cpu_seconds"] = time.process_time() - worked
            history.append(entry)
            ticker.advance(1, f"loss {loss:.4f}")
            if epoch < config.epochs:
                state.progress.epoch = epoch + 1
                saved.after_epoch(state, 1)
    save_shares(draft, user.local, item.local, dataset, config.scale, processes)
    draft.rows = len(dataset.train_item) * config.epochs
    draft.info = {
        "global_bias": float(bias.detach()),
        "l2": config.l2,
        "tables": "partitioned" if isinstance(user, PartitionedTable) else "replicated",
        "divided_by": [
            divisor(table.local, config.scale, processes.all_reduce_sum) for table in (user, item)
        ],
        "interactions": len(dataset.train_item),
        "validation": {k: v for k, v in history[-1].items() if "@" in k},
        "validation_seconds": sum(entry.get("seconds", 0.0) for entry in history),
        "validation_cpu_seconds": sum(entry.get("cpu_seconds", 0.0) for entry in history),
        "history": history,
    }
    if isinstance(saved, SavedTraining) and saved.resumed:
        draft.info["resumed"] = saved.resumed
        draft.seconds_before = saved.seconds_before
        draft.costs_before = saved.costs_before


def _factor_tables(
    config: PretrainConfig,
    dataset: Dataset,
    processes: Processes,
    sharding: ShardingConfig,
    mf_tables: str,
) -> tuple[FactorTable, FactorTable, nn.Parameter]:
    """Tables of users and items, as ``compute.mf_tables`` lays them, and the global bias."""
    n_users, n_items = dataset.n_users, dataset.n_items
    width = config.factors + 1
    memory = processes.broadcast(process_memory(processes, sharding))
    extent = Extent(n_users, n_items, width, processes.world_size)
    on_gpu, world = processes.device.type == "cuda", processes.world_size
    rows = held_rows(config, len(dataset.train_item), (n_users, n_items), world, on_gpu).training
    if partitions(mf_tables, config.loss, extent, (1 - sharding.reserve) * memory - rows):
        block = block_rows(memory, width)
        bias = nn.Parameter(torch.zeros((), device=processes.device))
        users, items = (PartitionedTable(n, width, processes, block) for n in (n_users, n_items))
        return users, items, bias
    model = MatrixFactorization(n_users, n_items, config.factors)
    # A half-step reads the whole other side, and each rank writes its own rows; it looks nothing
    # up, so the batch that the planner weighs costs by has no say.
    kinds = {"user": "data_parallel", "item": "data_parallel"}
    shard_model(model, kinds, processes, 1, sharding)
    (user,) = (local.tensor for local in local_tensors(model.users))
    (item,) = (local.tensor for local in local_tensors(model.items))
    return ReplicatedTable(user, processes), ReplicatedTable(item, processes), model.bias
