"""The pretrain stage: D_full in, `IdTables` out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from cadc_rec.config.experiment import PretrainConfig, ShardingConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes, choose_device
from cadc_rec.distributed.sharding import process_memory, shard_model
from cadc_rec.distributed.state import local_tensors
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.sharded import ranks_by_share
from cadc_rec.log import track
from cadc_rec.pipeline.stages.pretrain_neural import build_neural_tables
from cadc_rec.pretrain.als import train_als
from cadc_rec.pretrain.alternating import AlternatingSolver, Interactions
from cadc_rec.pretrain.factor_tables import (
    Extent,
    FactorTable,
    PartitionedTable,
    ReplicatedTable,
    block_rows,
    partitions,
    plain_tables,
)
from cadc_rec.pretrain.factorizations import MatrixFactorization
from cadc_rec.pretrain.held_rows import held_rows
from cadc_rec.pretrain.id_tables import IdTables, Scale, divisor, scaled
from cadc_rec.pretrain.kernels import compile_kernels, worth_compiling
from cadc_rec.pretrain.softmax import SoftmaxSolver
from cadc_rec.store.artifact import Draft
from cadc_rec.training.checkpoints import Checkpoints, NoCheckpoints, SavedTraining
from cadc_rec.training.factorization_state import FactorizationState

_SHARDING = ShardingConfig()


def warm_up(config: PretrainConfig, interactions: int, device: str) -> None:
    """Compile what `build_tables` will need; not counted in the stage's seconds, like imports.

    Args:
        config: the model and its loss.
        interactions: rows of D_full.
        device: ``compute.device``.
    """
    compiled = config.model == "mf" and config.loss == "binary"
    if compiled and worth_compiling(interactions, choose_device(device, 0)):
        compile_kernels()


def build_tables(
    config: PretrainConfig,
    seed: int,
    dataset: Dataset,
    processes: Processes,
    draft: Draft,
    sharding: ShardingConfig = _SHARDING,
    mf_tables: str = "auto",
    saved: Checkpoints | None = None,
) -> None:
    """Fill the draft of the pretrain stage by whichever model ``pretrain.model`` names.

    Validation is only measured (last epoch, and every ``pretrain.evaluate_every``), never used:
    the tables are those of the last epoch.

    Args:
        config: the model and its settings.
        seed: of initial vectors and negatives.
        dataset: D_full.
        processes: the ranks; each solves its share of the rows.
        draft: receives ``user.safetensors`` and ``item.safetensors``.
        sharding: what memory tables may fill.
        mf_tables: ``compute.mf_tables``: how the tables of MF and ALS lie on several ranks.
        saved: where MF is saved between its epochs, and gone on with.
    """
    config = config.sized(len(dataset.train_item), dataset.n_users)
    if config.model == "popularity":
        _build_popularity(dataset, processes, draft)
    elif config.model == "als":
        _build_als(config, seed, dataset, processes, draft, sharding, mf_tables)
    elif config.model == "mlp":
        build_neural_tables(config, seed, dataset, processes, draft)
    else:
        tables = _factor_tables(config, dataset, processes, sharding, mf_tables)
        _build_factorization(
            config, seed, dataset, processes, draft, tables, saved or NoCheckpoints()
        )


def popularity_tables(item_counts: np.ndarray, n_users: int) -> IdTables:
    """Popularity as a factorization: tables ``[n, 2]`` of one factor, all zero, and a bias.

    An item's bias is the number of its training interactions. It is what every method has to beat;
    as `IdTables` it is scored, ranked and measured like the rest.

    Args:
        item_counts: training interactions of every item ``[n_items]``.
        n_users: rows of the user table.
    """
    user, item = torch.zeros(n_users, 2), torch.zeros(len(item_counts), 2)
    item[:, 1] = torch.from_numpy(item_counts.astype(np.float32))
    return IdTables(user, item)


def _build_popularity(dataset: Dataset, processes: Processes, draft: Draft) -> None:
    """Count every item's training interactions."""
    tables = popularity_tables(dataset.item_counts, dataset.n_users)
    if processes.rank == 0:
        tables.save(draft.path)
    draft.rows = len(dataset.train_item)
    draft.info = {
        "interactions": len(dataset.train_item),
        "validation": _validation(dataset, tables.shares(processes), processes),
        "validation_seconds": 0.0,
        "history": [],
    }


def _build_factorization(
    config: PretrainConfig,
    seed: int,
    dataset: Dataset,
    processes: Processes,
    draft: Draft,
    tables: tuple[FactorTable, FactorTable, nn.Parameter],
    saved: Checkpoints,
) -> None:
    """Train matrix factorization on every training interaction and export its tables."""
    data = Interactions.of(dataset)
    user, item, bias = tables
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
                started = time.perf_counter()
                shares = IdTables(user.local, item.local)
                entry.update(_validation(dataset, shares, processes))
                entry["seconds"] = time.perf_counter() - started
            history.append(entry)
            ticker.advance(1, f"loss {loss:.4f}")
            if epoch < config.epochs:
                state.progress.epoch = epoch + 1
                saved.after_epoch(state, 1)
    _save(draft, user.local, item.local, dataset, config.scale, processes)
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
        "history": history,
    }
    if isinstance(saved, SavedTraining) and saved.resumed:
        draft.info["resumed"] = saved.resumed
        draft.seconds_before = saved.seconds_before


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
    rows = held_rows(config, len(dataset.train_item), world, on_gpu).training
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


def _build_als(
    config: PretrainConfig,
    seed: int,
    dataset: Dataset,
    processes: Processes,
    draft: Draft,
    sharding: ShardingConfig,
    mf_tables: str,
) -> None:
    """Factorize every training interaction by implicit-feedback ALS and export its tables."""
    dim = config.factors + 1  # without a bias, every element of a row is a factor
    rows = (dataset.n_users, dataset.n_items)
    on_gpu, world = processes.device.type == "cuda", processes.world_size
    held = held_rows(config, len(dataset.train_item), world, on_gpu).training
    user, item = plain_tables(rows, dim, processes, sharding, mf_tables, held)
    sweeps = train_als(user, item, Interactions.of(dataset), config.als, seed)
    chief = processes.rank == 0
    with track("pretrain (ALS)", config.als.iterations, "sweeps", visible=chief) as ticker:
        for _ in sweeps:
            ticker.advance()
    started = time.perf_counter()
    shares = IdTables(user.local, item.local, bias_last=False)
    measured = _validation(dataset, shares, processes)
    seconds = time.perf_counter() - started
    _save(draft, shares.user, shares.item, dataset, config.scale, processes)
    draft.rows = len(dataset.train_item) * config.als.iterations
    draft.info = {
        "bias_last": False,
        "alpha": config.als.alpha,
        "tables": "partitioned" if isinstance(user, PartitionedTable) else "replicated",
        "divided_by": [
            divisor(table.local, config.scale, processes.all_reduce_sum) for table in (user, item)
        ],
        "interactions": len(dataset.train_item),
        "validation": measured,
        "validation_seconds": seconds,
        "history": [],
    }


def _save(
    draft: Draft,
    user: torch.Tensor,
    item: torch.Tensor,
    dataset: Dataset,
    scale: Scale,
    processes: Processes,
) -> None:
    """Write this and every other rank's share of both tables, each brought to scale for itself."""
    rows = (dataset.n_users, dataset.n_items)
    total = processes.all_reduce_sum
    IdTables.save_shares(
        draft.path, scaled(user, scale, total), scaled(item, scale, total), rows, processes
    )


def _validation(dataset: Dataset, shares: IdTables, processes: Processes) -> dict[str, float]:
    """What the tables rank, each rank its share of the users; every rank must call."""
    users, items = shares.as_dot_products()
    ranks = ranks_by_share(
        users,
        items,
        dataset.val_item,
        UserItems(dataset.user_indptr, dataset.train_item),
        processes,
        dataset.n_items,
    )
    held_out = np.asarray(dataset.val_item) >= 0
    return ranking_metrics(ranks[held_out], (10,)) if held_out.any() else {}
